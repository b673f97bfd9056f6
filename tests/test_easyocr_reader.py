import math
import os
import sys
from types import SimpleNamespace

import pytest
import torch
from helpers import status_of
from PIL import Image
from torch.utils.data import DataLoader

import main
from lib.datasets.lmdb_dataset import Record
from lib.datasets.samples import EvalSamples, collate
from lib.inference.easyocr_reader import easyocr_reader
from lib.inference.enlarging import Method
from lib.inference.evaluation import evaluate
from lib.vocabulary import Vocabulary


class SizeReader:
    """In the place of EasyOCR's: 'reads' the size of the grey picture, in two pieces, as EasyOCR gives them."""

    def __init__(self, languages, **options):
        self.options = options

    def recognize(self, grey, horizontal_list, free_list, paragraph):
        assert grey.ndim == 2 and grey.dtype == 'uint8' and horizontal_list == [[0, grey.shape[1], 0, grey.shape[0]]]
        return [[None, str(grey.shape[1]), 0.5], [None, f'x{grey.shape[0]}', 0.25]]


@pytest.fixture
def reader(monkeypatch):
    monkeypatch.setitem(sys.modules, 'easyocr', SimpleNamespace(Reader=SizeReader))
    return easyocr_reader()


def test_pictures_are_read_at_their_own_size(reader):
    sizes = [(100, 40), (30, 20)]
    records = [Record('x'.join(map(str, size)), Image.new('RGB', size)) for size in sizes]
    samples = EvalSamples(records, [(8, 32)], 4, below=(32, 64), prepare=reader.prepare)
    readings, _ = evaluate(DataLoader(samples, 2, collate_fn=collate, num_workers=1), 'set', reader, Vocabulary(),
                           {'bicubic': Method(scale=4)}, 'cpu', below=(32, 64))
    strings = {(r.lr_size, r.index): r.string for r in readings}
    assert strings == {('original', 0): '100x40', ('original', 1): '30x20',
                       ('32x8', 0): '128x32', ('32x8', 1): '128x32',
                       ('below 64x32', 0): '100x40', ('below 64x32', 1): '120x80'}
    assert readings[0].correct and readings[0].score == pytest.approx(math.log(0.125))


def test_it_is_a_flag_of_the_test(reader, tiny_lmdb, tmp_path, capsys):
    folder = str(tiny_lmdb())
    flags = ['--reader', 'easyocr', '--device', 'cpu', '-j', '0', '--logs_dir', str(tmp_path)]
    assert main.main(['--test', '--test_data_dir', folder, '--methods', 'bicubic', *flags]) == 0
    assert 'Word accuracy (%) of EasyOCR, by size' in capsys.readouterr().out
    assert '\t128x32\t' in (tmp_path / 'predictions.tsv').read_text()
    assert status_of(main.main, ['--train_data_dir', folder, *flags]) == 2
    assert '--reader easyocr: only with --test' in capsys.readouterr().err


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, 'easyocr', None)
    with pytest.raises(ValueError, match='--reader easyocr: .*pip install easyocr'):
        easyocr_reader()


def test_weights_that_are_installed_are_not_downloaded(monkeypatch):
    made = []
    monkeypatch.setitem(sys.modules, 'easyocr', SimpleNamespace(
        Reader=lambda *_, **options: made.append(options) or SizeReader('en')))
    package = SimpleNamespace(__file__=os.path.join('there', '__init__.py'))
    monkeypatch.setitem(sys.modules, 'easyocr_en_models', package)
    easyocr_reader()
    assert made[0]['model_storage_directory'] == os.path.join('there', 'models') and not made[0]['download_enabled']


def test_the_letters_of_a_picture_reach_it_dark(monkeypatch):
    """Values in [0, 1] become grey levels."""
    seen = []

    class Keeper(SizeReader):
        def recognize(self, grey, **boxes):
            seen.append(grey)
            return []

    monkeypatch.setitem(sys.modules, 'easyocr', SimpleNamespace(Reader=Keeper))
    (string, score), = easyocr_reader().read([torch.tensor([0.0, 1.0]).expand(1, 3, 4, 2)])
    assert (string, score) == ('', 0) and seen[0].tolist() == [[0, 255]] * 4
