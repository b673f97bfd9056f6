import contextlib
import io
import struct

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import encoded
from PIL import Image

from lib.imaging import (
    count_frames,
    jpeg,
    quantize,
    read_image,
    recognizer_input,
    resize,
    resize_bilinear,
    sample_bilinear,
    to_pil,
    to_rgb,
    to_tensor,
    to_uint8,
)


@pytest.fixture
def picture():
    """A smooth 8-bit RGB picture, 48x24, with distinct corners."""
    y, x = np.mgrid[:24, :48]
    channels = [x * 5, y * 10, (x + y) * 3]
    return Image.fromarray(np.stack(channels, axis=2).astype(np.uint8))


def test_grey_palette_and_cmyk_become_rgb(picture):
    for mode in ('L', 'P', '1', 'CMYK', 'LA'):
        assert to_rgb(picture.convert('RGB').convert(mode)).mode == 'RGB'


def test_alpha_is_laid_on_white():
    image = Image.new('RGBA', (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (10, 20, 30, 255))
    assert to_rgb(image).getpixel((0, 0)) == (255, 255, 255)
    assert to_rgb(image).getpixel((1, 0)) == (10, 20, 30)


@pytest.mark.parametrize('ground, color, alpha, shadow', [
    ('white', 'black', 255, None), ('black', 'white', 255, None), ('black', 'yellow', 255, None),
    ('black', (150, 150, 150), 255, None), ('white', (110, 110, 110), 255, None), ('white', 'red', 255, None),
    ('white', 'black', 90, None), ('black', 'white', 90, None), ('white', 'white', 0, None),
    ('black', 'white', 255, (0, 0, 0, 80)), ('white', 'white', 255, (0, 0, 0, 255)),
])
@pytest.mark.parametrize('mode', ['RGBA', 'PA', 'file'])
def test_the_ground_of_transparency_is_one_on_which_it_is_seen(mode, ground, color, alpha, shadow):
    if shadow and mode != 'RGBA':
        pytest.skip('two alphas')
    image = Image.new('RGBA', (40, 20), (90, 90, 90, 0))  # what is clear does not count
    if shadow:
        image.paste(shadow, (12, 7, 32, 17))
    image.paste((*Image.new('RGB', (1, 1), color).getpixel((0, 0)), alpha), (10, 5, 30, 15))
    if mode == 'PA':
        image, band = image.convert('RGB').quantize(4), image.getchannel('A')
        image.putalpha(band)
        assert image.mode == 'PA'
    elif mode == 'file':
        image = Image.open(io.BytesIO(encoded(image.quantize(4))))  # a palette with transparency
    assert to_rgb(image).getpixel((0, 0)) == ((255, 255, 255) if ground == 'white' else (0, 0, 0))


def test_a_light_plate_with_a_dark_word_stays_on_white():
    image = Image.new('RGBA', (80, 40), (0, 0, 0, 0))
    image.paste('white', (5, 5, 75, 35))
    assert to_rgb(image).getpixel((0, 0)) == (0, 0, 0)
    image.paste('black', (20, 15, 26, 25))
    assert to_rgb(image).getpixel((0, 0)) == (255, 255, 255)


def test_integers_that_pillow_made_of_eight_bits(picture):
    for made in (picture.convert('L').convert('I'), picture.convert('I').crop((5, 5, 20, 10))):
        assert np.array_equal(np.asarray(to_rgb(made))[..., 0], np.asarray(made))
    deep = Image.fromarray(np.array([[0, 257, 65535]], dtype=np.int32))
    assert deep.mode == 'I' and [p[0] for p in np.asarray(to_rgb(deep))[0]] == [0, 1, 255]


@pytest.mark.parametrize('white', [1, 255, 65535])
def test_floats_are_scaled_by_their_range_past_which_resampling_shoots(white):
    values = np.array([[-0.1, 0, 0.5, 0.8, 1, 1.002, 1.3]]) * white
    for last in (4, 5, 6, 7):
        image = to_rgb(Image.fromarray(values[:, :last].astype(np.float32)))
        assert [p[0] for p in np.asarray(image)[0]] == [0, 0, 128, 204, 255, 255, 255][:last]


@pytest.mark.parametrize('values', [[-1, 1], [0, 3], [0, 1000], [0, np.nan], [0, 1e6], [-200, 255], [0, np.inf]])
def test_floats_of_no_known_range_are_refused(values):
    with pytest.raises(ValueError, match='its values, from .* are not in 0 to 1, 0 to 255 or 0 to 65535'):
        to_rgb(Image.fromarray(np.array([values], dtype=np.float32)))


@pytest.mark.parametrize('highest', [200, 300, 65535])
@pytest.mark.parametrize('kind', ['PNG', 'TIFF', 'PPM'])
def test_white_is_what_the_file_declares_not_its_brightest_value(kind, highest):
    if kind == 'PPM':  # Pillow 10.1 reads 16 bits but does not write them
        content = b'P5 2 1 65535\n' + np.array([0, highest], dtype='>u2').tobytes()
    else:
        content = encoded(Image.fromarray(np.array([[0, highest]], dtype=np.uint16)), kind)
    assert read_image(content).getpixel((1, 0)) == (round(highest / 65535 * 255),) * 3


@pytest.mark.parametrize('highest', [200, 4095])
def test_twelve_bits_in_sixteen_where_the_file_says_so(highest):
    content = encoded(Image.fromarray(np.array([[0, highest]], dtype=np.uint16)), 'TIFF', tiffinfo={281: 4095})
    assert read_image(content).getpixel((1, 0)) == (round(highest / 4095 * 255),) * 3


@pytest.mark.parametrize('highest, white', [(200, 255), (40_000, 65535), (2 ** 30, 2 ** 32 - 1)])
def test_values_of_fewer_bits_in_thirty_two(highest, white):
    content = encoded(Image.fromarray(np.array([[0, highest]], dtype=np.int32)), 'TIFF')
    assert read_image(content).getpixel((1, 0)) == (round(highest / white * 255),) * 3


def test_sixteen_bits_of_which_zero_is_white():
    content = encoded(Image.fromarray(np.array([[0, 65535]], dtype=np.uint16)), 'TIFF')
    is_black = struct.pack('<HHIHH', 262, 3, 1, 1, 0)  # the tag, a short, one of them, its value
    assert is_black in content
    content = content.replace(is_black, struct.pack('<HHIHH', 262, 3, 1, 0, 0))
    assert [read_image(content).getpixel((x, 0))[0] for x in (0, 1)] == [255, 0]


def test_damaged_frames_behind_the_first_are_not_counted(picture, tmp_path):
    """For some of the lengths Pillow raises errors of its own where it counts the frames."""
    path, counts, picture = tmp_path / 'a.gif', set(), picture.resize((12, 6))
    picture.save(path, save_all=True, append_images=[picture.rotate(90 * turns) for turns in (1, 2)])
    content = path.read_bytes()
    for length in range(len(content) // 3, len(content) + 1):
        path.write_bytes(content[:length])
        with contextlib.suppress(ValueError):
            read_image(path)
            counts.add(count_frames(path))
    assert counts >= {1, 3}


def test_exif_orientation_is_applied(picture):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    assert read_image(encoded(picture, 'JPEG', exif=exif)).size == (24, 48)


@pytest.mark.parametrize('damage', [b'', b'not an image', None])
def test_damage_is_one_kind_of_error(picture, damage):
    whole = encoded(picture)
    with pytest.raises(ValueError, match='unreadable'):
        read_image(whole[:len(whole) // 2] if damage is None else damage)


def test_a_picture_that_would_be_a_program_is_not_opened(picture, tmp_path):
    """PostScript goes to Ghostscript wherever that is installed."""
    content, path = encoded(picture, 'EPS'), tmp_path / 'word.png'
    path.write_bytes(content)
    for source in (content, path):
        with pytest.raises(ValueError, match='of no known format'):
            read_image(source)


def test_pixels_come_back_exactly(picture):
    tensor = to_tensor(picture)
    assert tensor.shape == (3, 24, 48) and tensor.min() >= 0 and tensor.max() <= 1
    assert np.array_equal(np.asarray(to_pil(tensor)), np.asarray(picture))
    assert to_uint8(torch.tensor([-0.5, 0.5, 1.5]).view(3, 1, 1)).tolist() == [[[0, 128, 255]]]


def test_quantize_is_what_saving_does(picture):
    images = torch.rand(3, 4, 5) * 1.4 - 0.2
    assert torch.equal(quantize(images), to_tensor(to_pil(images)))


@pytest.mark.parametrize('size', [(8, 16), (6, 12), (48, 96), (24, 48)])
def test_resize_is_pillows_bicubic(picture, size):
    ours = to_uint8(resize(to_tensor(picture)[None], size)[0]).astype(int)
    pillow = np.asarray(picture.resize(size[::-1], Image.Resampling.BICUBIC)).astype(int)
    assert abs(ours - pillow).max() <= 1


def test_recognizer_input_is_pillows_bilinear(picture):
    ours = recognizer_input(to_tensor(picture)[None])
    pillow = to_tensor(picture.resize((256, 64), Image.Resampling.BILINEAR)) * 2 - 1
    assert ours.shape == (1, 3, 64, 256)
    assert (ours[0] - pillow).abs().max() < 2 / 255 * 1.01


def test_recognizer_input_passes_gradients_and_clamps():
    images = torch.full((1, 3, 32, 128), 0.5, requires_grad=True)
    recognizer_input(images).sum().backward()
    assert images.grad.abs().sum() > 0
    assert recognizer_input(torch.full((1, 3, 8, 8), 7.0)).max() == 1


def test_jpeg_quality_counts(picture):
    images = to_tensor(picture)[None]
    worse, better = ((jpeg(images, quality) - images).abs().mean() for quality in (5, 95))
    assert better < worse


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def value_and_gradients(function, *inputs):
    leaves = [value.clone().requires_grad_() for value in inputs]
    result = function(*leaves)
    (result * torch.linspace(-1, 1, result.numel()).view(result.shape)).sum().backward()
    return [result.detach(), *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize('options', [{'antialias': True}, {'align_corners': True}])
@pytest.mark.parametrize('size', [(7, 30), (12, 4)])
def test_deterministic_resizing_is_that_of_torch(deterministic, options, size):
    images = torch.rand(2, 3, 9, 12)
    ours = value_and_gradients(lambda x: resize_bilinear(x, size, **options), images)
    theirs = value_and_gradients(lambda x: F.interpolate(x, size, mode='bilinear', **options), images)
    torch.testing.assert_close(ours, theirs)


def test_sampling_at_points_that_are_not_numbers_ends_no_process():
    grid = torch.full((1, 4, 6, 2), float('nan'), requires_grad=True)
    sample_bilinear(torch.rand(1, 3, 8, 8, requires_grad=True), grid).sum().backward()


@pytest.mark.parametrize('align_corners', [True, False])
def test_deterministic_sampling_is_that_of_torch(deterministic, align_corners):
    images, grid = torch.rand(2, 3, 9, 12), 2.4 * torch.rand(2, 5, 7, 2) - 1.2  # some beyond the border
    ours = value_and_gradients(lambda x, y: sample_bilinear(x, y, align_corners), images, grid)
    theirs = value_and_gradients(lambda x, y: F.grid_sample(x, y, padding_mode='border', align_corners=align_corners),
                                 images, grid)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
