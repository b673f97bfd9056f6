import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from lib.inference.detection import Detector, words_of_line


def piece(text, left, right):
    return text, 0.9, [[left, 0], [right, 1], [right, 11], [left, 10]]


def corners(left, right):
    return [[left, 0], [right, 1], [right, 11], [left, 10]]


@pytest.mark.parametrize('text, pieces, expected', [
    ('PAYA', [piece('PAYA', 0, 40)], [corners(0, 40)]),
    ('TEA HOUSE', [piece('TEA', 0, 30), piece('HOUSE', 40, 90)], [corners(0, 30), corners(40, 90)]),
    ('WAIT', [piece('W', 0, 10), piece('A', 12, 20), piece('IT', 22, 40)], [corners(0, 40)]),
    ('A REPAIR', [piece('A', 0, 9), piece('REP', 20, 50), piece('AIR', 51, 80)], [corners(0, 9), corners(20, 80)]),
    ('TWO WORDS', [piece('TWOWORDS', 0, 99)], [corners(0, 99)]),  # what does not add up is one box
    ('TWO WORDS', [piece('TWOW', 0, 50), piece('ORDS', 51, 99)], [corners(0, 99)]),
])
def test_words_of_a_line(text, pieces, expected):
    assert words_of_line(text, pieces) == expected


def test_words_of_a_photograph(monkeypatch):
    class RapidOCR:
        def __init__(self, **_):
            pass

        def __call__(self, pixels, return_word_box):
            assert return_word_box and pixels[0, 0].tolist() == [3, 2, 1], 'it wants BGR'
            return SimpleNamespace(txts=('TEA',), word_results=((piece('TEA', 0, 30),),))

    monkeypatch.setitem(sys.modules, 'rapidocr', SimpleNamespace(RapidOCR=RapidOCR))
    assert Detector().of('a', Image.new('RGB', (300, 200), (1, 2, 3))) == [[(0, 0), (30, 1), (30, 11), (0, 10)]]
    assert Detector().of('a', Image.new('RGB', (300, 192), (1, 2, 3))) == [], 'a word, not a photograph'


def test_without_the_detector_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'rapidocr', None)
    with pytest.raises(ValueError, match='--boxes auto.*pip install rapidocr onnxruntime'):
        Detector()


def test_the_detector_itself():
    pytest.importorskip('rapidocr')
    pytest.importorskip('onnxruntime')
    from PIL import ImageDraw, ImageFont
    picture = Image.new('RGB', (640, 400), 'white')
    ImageDraw.Draw(picture).text((60, 150), 'GREEN APPLES', fill='black', font=ImageFont.load_default(60))
    found = [np.array(word) for word in Detector().of('a', picture)]
    assert len(found) == 2 and 40 < found[0][0, 0] < 80 and 270 < found[1][0, 0] < 330
