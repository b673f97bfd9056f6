"""Tiny data for the tests of training, testing and conversion: drawn words in LMDBs, a recognizer of a few weights."""
import io
import signal

import lmdb
import pytest
import torch
from PIL import Image, ImageDraw

from lib.checkpoint import save_checkpoint
from lib.inference.conversion import Converter
from lib.models.aster import Aster
from lib.models.generator import Generator

WORDS = ('sun', 'Moon', 'ab1', 'K9', 'rain', 'no', 'Up2', 'wet')
TINY_ASTER = {'width': 4, 'decoder_dim': 8, 'attention_dim': 8, 'lstm_dim': 8, 'stn_width': 4, 'stn_dim': 8}


@pytest.fixture(scope='session', autouse=True)
def one_thread():
    """Several torch threads wait for each other on a busy machine; images this small gain nothing from them."""
    torch.set_num_threads(1)


@pytest.fixture(scope='session', autouse=True)
def interruptible():
    """A shell starts what it runs in the background deaf to SIGINT, and so would be all that the tests start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def word_image(word, size=(32, 16)):
    """PNG bytes of a word in black on white."""
    image = Image.new('RGB', size, 'white')
    ImageDraw.Draw(image).text((2, 2), word, fill='black')
    buffer = io.BytesIO()
    image.save(buffer, 'PNG')
    return buffer.getvalue()


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


@pytest.fixture
def tiny_lmdb(tmp_path):
    """tiny_lmdb(name='words', words=WORDS, size=(width, height), paired=False, changes=None) -> path of a new LMDB.

    `changes` is a dict of {key: bytes, or None to leave the key out} that damages the set.
    """
    def make(name='words', words=WORDS, size=(32, 16), paired=False, changes=None):
        records = {**word_records(words, size, paired), **(changes or {})}
        return write_lmdb(tmp_path / name, {key: value for key, value in records.items() if value is not None})
    return make


@pytest.fixture(scope='session')
def tiny_aster(tmp_path_factory):
    """Path of an untrained recognizer of all 97 classes that reads every word as '', in milliseconds."""
    path = tmp_path_factory.mktemp('weights') / 'aster.pth'
    torch.manual_seed(0)
    aster = Aster(**TINY_ASTER)
    aster.decoder.decoder.fc.bias.data[94] = 5  # EOS; untrained it would write 100 characters
    save_checkpoint(path, {'state_dict': aster.state_dict()})
    return str(path)


@pytest.fixture(scope='session')
def generators(tmp_path_factory):
    """{scale: path} of untrained generators of a few weights."""
    folder, paths = tmp_path_factory.mktemp('generators'), {}
    for scale in (2, 4):
        torch.manual_seed(scale)
        paths[scale] = str(folder / f'x{scale}.pth')
        save_checkpoint(paths[scale], {'state_dict': Generator(scale, 1, 4).state_dict()})
    return paths


@pytest.fixture
def folder(tmp_path):
    """An empty folder for images."""
    path = tmp_path / 'images'
    path.mkdir()
    return path


@pytest.fixture
def interrupt_at(monkeypatch):
    """interrupt_at(name): a conversion is interrupted at the batch that begins with this image; None: no more."""
    real = Converter.convert

    def set_name(name):
        def interrupted(self, jobs):
            if jobs[0].path.name == name:
                raise KeyboardInterrupt
            return real(self, jobs)

        monkeypatch.setattr(Converter, 'convert', interrupted)
    return set_name
