"""What is taken for an image: the verdict of Pillow, which decodes all, in less time."""
import io
import struct
import zlib

import pytest
from helpers import noise
from PIL import Image

from lib.formats import FORMATS
from lib.wordsets.image_check import image_size, plain_png_size


@pytest.mark.parametrize('mode', ['LA', '1', 'I;16', 'CMYK'])
def test_images_of_rare_modes_have_their_size(mode):
    data = noise(9, 9, 'TIFF' if mode == 'CMYK' else 'PNG', mode)
    assert image_size(data) == (9, 9)


def pillow_size(data):
    """What Pillow makes of an image file, decoded in full; None where it refuses."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.load()
            return image.size
    except Exception:
        return None


def own_size(data):
    try:
        return image_size(data)
    except ValueError:
        return None


@pytest.mark.parametrize('mode', ['L', 'P', 'RGB', 'RGBA'])
def test_no_damaged_png_passes_that_pillow_refuses(mode):
    """Each bit of it turned, and each length it may be cut to."""
    data = noise(4, 3, mode=mode)
    assert own_size(data) == (4, 3)
    for position in range(8, len(data)):
        for bit in range(8):
            hurt = data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1:]
            assert own_size(hurt) in (None, pillow_size(hurt)), (position, bit)
        assert own_size(data[:position]) in (None, pillow_size(data[:position])), position


def png(rows, layout=(8, 2, 0, 0, 0), size=(4, 3), more=(), end=None):
    """A PNG with right checksums, of these unpacked bytes, which are packed up to `end`."""
    header, pixels = struct.pack('>IIBBBBB', *size, *layout), zlib.compress(rows)[:end]
    chunks = [(b'IHDR', header), *more, (b'IDAT', pixels), (b'IEND', b'')]
    return b'\x89PNG\r\n\x1a\n' + b''.join(struct.pack('>I', len(content)) + name + content
                                           + struct.pack('>I', zlib.crc32(name + content)) for name, content in chunks)


TURNED = b'MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0'  # EXIF: lies on its side


@pytest.mark.parametrize(('data', 'turned'), [
    (png(bytes(2 * 13)), False), (png(bytes(4 * 13)), False), (png(bytes(26) + b'\x05' + bytes(12)), False),
    (png(bytes(3 * 13), layout=(8, 5, 0, 0, 0)), False), (png(bytes(3 * 13), layout=(8, 2, 0, 0, 1)), False),
    (png(bytes(3 * 13), end=-4), False), (png(b'', size=(0, 3)), False),
    (png(bytes(3 * 13), more=[(b'eXIf', TURNED)]), True)],
    ids=['a row missing', 'a row too many', 'unknown filter', 'unknown colours', 'interlaced, too short',
         'checksum of the pixels missing', 'no pixels', 'turned by its EXIF'])
def test_png_with_right_checksums_that_pillow_has_to_look_at(data, turned):
    assert plain_png_size(png(bytes(3 * 13))) == (4, 3)
    assert plain_png_size(data) is None
    assert own_size(data) == ((3, 4) if turned else pillow_size(data))


def test_jpegs_are_decoded_to_their_end():
    for options in ({}, {'progressive': True}, {'mode': 'L'}, {'mode': 'CMYK'}):
        data = noise(200, 90, 'JPEG', **options)
        assert own_size(data) == (200, 90)
        assert own_size(data[:-40]) is None, options


@pytest.mark.parametrize(('orientation', 'size'), [(4, (30, 20)), (5, (20, 30)), (8, (20, 30))])
def test_the_size_is_that_of_the_picture_as_it_is_shown(orientation, size):
    exif = Image.Exif()
    exif[0x112] = orientation
    assert image_size(noise(30, 20, 'JPEG', exif=exif)) == size
