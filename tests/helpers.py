"""What tests of several files use: tiny data, pictures, waiting for other processes."""
import contextlib
import functools
import io
import multiprocessing
import os
import resource
import struct
import time
import zlib
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock

import lmdb
import numpy as np
from PIL import Image, ImageDraw

WORDS = ('sun', 'Moon', 'ab1', 'K9', 'rain', 'no', 'Up2', 'wet')
TINY_ASTER = {'width': 4, 'decoder_dim': 8, 'attention_dim': 8, 'lstm_dim': 8, 'stn_width': 4, 'stn_dim': 8,
              'blocks': (1, 1, 1, 1, 1)}


def encoded(image, form='PNG', **options):
    """Bytes of an image file; options as of Image.save."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def noise(width, height, form='PNG', mode='RGB', **options):
    """Bytes of an image file of coloured noise, the same for a size; options as of Image.save."""
    pixels = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    if mode == 'I;16':
        image = image.convert('I')  # old versions of Pillow convert to 16 bits from 32 alone
    return encoded(image.convert(mode), form, **options)


def word_image(word, size=(32, 16)):
    """PNG bytes of a word in black on white."""
    image = Image.new('RGB', size, 'white')
    ImageDraw.Draw(image).text((2, 2), word, fill='black')
    return encoded(image)


def write_lmdb(path, records):
    """An LMDB folder with exactly these {key: bytes}, right or wrong; returns the path as a string."""
    path.mkdir(parents=True, exist_ok=True)
    with lmdb.open(str(path), map_size=8 << 20, sync=False) as env, env.begin(write=True) as transaction:
        for key, value in records.items():
            transaction.put(key.encode(), value)
    return str(path)


def word_records(words=WORDS, size=(32, 16), paired=False):
    """{key: bytes} of a whole set: for tests that damage some of it before they write it."""
    records = {'num-samples': str(len(words)).encode()}
    for number, word in enumerate(words, 1):
        records[f'label-{number:09d}'] = word.encode()
        if paired:
            records[f'image_hr-{number:09d}'] = word_image(word, size)
            records[f'image_lr-{number:09d}'] = word_image(word, (size[0] // 2, size[1] // 2))
        else:
            records[f'image-{number:09d}'] = word_image(word, size)
    return records


def photo(size=(37, 18), seed=0):
    """A smooth colour picture."""
    values = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(values).resize(size, Image.Resampling.BICUBIC)


def huge_png(width, height):
    """A small file that claims to hold a huge image."""
    def chunk(kind, data):
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    chunks = chunk(b'IHDR', header), chunk(b'IDAT', zlib.compress(bytes(1000))), chunk(b'IEND', b'')
    return b'\x89PNG\r\n\x1a\n' + b''.join(chunks)


@functools.cache
def processes():
    """A context of processes that start with main.py imported, and with what torch imports at the first step: seconds.

    They are forked from one that has computed nothing: a fork of one whose autograd has run in several threads, as this
    one, cannot run it again.
    """
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['main', 'torch._dynamo'])
    path = str(Path(__file__).resolve().parents[1]) + os.pathsep + os.environ.get('PYTHONPATH', '')
    with mock.patch.dict(os.environ, PYTHONPATH=path):
        forkserver.ensure_running()
    return context


def wait_for(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def alive(pid):
    """Whether there is a process of this id, other than one that ended and was not waited for."""
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except OSError:
        return False


def children(pid):
    """The ids of a process's children, where /proc lists them."""
    return [int(child) for path in Path('/proc', str(pid), 'task').glob('*/children')
            for child in path.read_text().split()]


@contextlib.contextmanager
def largest_file(size):
    """While entered, the system refuses bytes of a file beyond this size, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def read_lmdb(path):
    """{key: bytes} of an LMDB, read as other projects do: with the defaults of the lmdb package."""
    with lmdb.open(str(path), readonly=True, lock=False) as env, env.begin() as transaction:
        return {key.decode(): value for key, value in transaction.cursor()}


def files(path):
    """The files below a folder, as sorted strings."""
    return sorted(str(entry.relative_to(path)) for entry in path.rglob('*') if entry.is_file())


def status_of(command, argv):
    """The exit status of a command's main(argv), also where its flags end it."""
    try:
        return command(argv)
    except SystemExit as error:
        return error.code


def box(left, top, right, bottom):
    """Corners (2, 4) of a word, as SynthText's gt.mat has them."""
    return np.array([[left, right, right, left], [top, top, bottom, bottom]], dtype=np.float32)


def cell(items):
    """A cell array (1, n), as scipy reads it from a .mat file."""
    array = np.empty((1, len(items)), dtype=object)
    for i, item in enumerate(items):
        array[0, i] = item
    return array
