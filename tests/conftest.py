"""Tiny data for the tests of training, testing and conversion: drawn words in LMDBs, a recognizer of a few weights.

What imports torch is imported where it is used: the process of pytest-xdist that only hands out the tests reads this
file, too.
"""
import os
import signal
from unittest import mock

import pytest
from helpers import TINY_ASTER, WORDS, status_of, word_records, write_lmdb


def pytest_configure(config):
    """Hide the GPUs, also from the processes that tests start, unless `-m cuda` asks for the tests that need one: most
    others expect the CPU of `--device auto`, two processes have no GPU of their own, and bits differ."""
    if config.getoption('markexpr') != 'cuda':
        os.environ['CUDA_VISIBLE_DEVICES'] = ''
    os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')  # torch looks once, at the first product on CUDA


def pytest_runtest_setup(item):
    import torch
    if item.get_closest_marker('cuda') and not torch.cuda.is_available():
        pytest.skip('needs a GPU, and -m cuda')


@pytest.fixture(params=['cpu', pytest.param('cuda', marks=pytest.mark.cuda)])
def device(request):
    import torch
    return torch.device(request.param)


@pytest.fixture(scope='session', autouse=True)
def one_thread():
    """Several torch threads wait for each other on a busy machine; images this small gain nothing from them."""
    import torch
    torch.set_num_threads(1)
    os.environ['OMP_NUM_THREADS'] = '1'  # for the processes that tests start


@pytest.fixture(scope='session', autouse=True)
def interruptible():
    """A shell starts what it runs in the background deaf to SIGINT, and so would be all that the tests start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
    import torch

    from lib.checkpoint import save_checkpoint
    from lib.models.aster import Aster
    path = tmp_path_factory.mktemp('weights') / 'aster.pth'
    torch.manual_seed(0)
    aster = Aster(**TINY_ASTER)
    aster.decoder.decoder.fc.bias.data[94] = 5  # EOS; untrained it would write 100 characters
    save_checkpoint(path, {'state_dict': aster.state_dict()})
    return str(path)


@pytest.fixture(scope='session')
def generators(tmp_path_factory):
    """{scale: path} of untrained generators of a few weights."""
    import torch

    from lib.checkpoint import save_checkpoint
    from lib.models.generator import Generator
    folder, paths = tmp_path_factory.mktemp('generators'), {}
    for scale in (2, 4):
        torch.manual_seed(scale)
        paths[scale] = str(folder / f'x{scale}.pth')
        save_checkpoint(paths[scale], {'state_dict': Generator(scale, 1, 4).state_dict()})
    return paths


@pytest.fixture(scope='session')
def vgg():
    """The VGG loss of an untrained network."""
    from lib.losses.vgg import VGGLoss
    # the classifier, which the loss leaves out, has 120 million numbers: seconds to draw
    with mock.patch('torch.nn.Linear.reset_parameters'), mock.patch('torch.nn.init.normal_'):
        return VGGLoss(weights=None)


@pytest.fixture
def folder(tmp_path):
    """An empty folder for images."""
    path = tmp_path / 'images'
    path.mkdir()
    return path


@pytest.fixture
def interrupt_at(monkeypatch):
    """interrupt_at(name): a conversion is interrupted at the batch that begins with this image; None: no more.

    how: Ctrl-C, or SystemExit(143), as which `run_command` raises SIGTERM.
    """
    from lib.inference.conversion import Converter
    real = Converter.convert

    def set_name(name, how=KeyboardInterrupt):
        def interrupted(self, jobs):
            if jobs[0].path.name == name:
                raise how
            return real(self, jobs)

        monkeypatch.setattr(Converter, 'convert', interrupted)
    return set_name


@pytest.fixture
def run(tmp_path, generators, tiny_aster, capsys, monkeypatch):
    """convert.py: run(*arguments) in tmp_path -> (exit status, what was printed, what was reported)."""
    import convert
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        argv = [*map(str, arguments), '--textsr_path', generators[4], '--aster_path', tiny_aster, '--beam_width=1']
        return (status_of(convert.main, argv), *capsys.readouterr())
    return call


@pytest.fixture
def read_as_sale(monkeypatch):
    """What is read is SALE, and a list of the sizes of what was read."""
    from lib.vocabulary import Vocabulary
    sizes = []

    def build_reader(args, device):
        def read(pictures):
            sizes.extend(picture.size for picture in pictures)
            return [('SALE', -0.5) for _ in pictures]
        return read, Vocabulary()

    monkeypatch.setattr('lib.inference.build.build_reader', build_reader)
    return sizes
