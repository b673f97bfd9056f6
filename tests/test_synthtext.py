import math
import random

import numpy as np
import pytest
from helpers import box, cell

from lib.wordsets import synthtext


def test_rectangle_is_the_smallest_one_inside_the_image():
    rng = random.Random(0)
    for _ in range(500):
        width, height = rng.randint(1, 50), rng.randint(1, 50)
        corners = np.array([[rng.uniform(-20, 70) for _ in range(4)] for _ in range(2)])
        if rng.random() < 0.3:
            corners = np.round(corners)
        (x0, y0), (x1, y1) = corners.min(axis=1), corners.max(axis=1)
        inside = x0 < x1 and y0 < y1 and x1 > 0 and y1 > 0 and x0 < width and y0 < height
        if not inside:
            with pytest.raises(ValueError):
                synthtext.rectangle(corners, width, height)
            continue
        left, top, right, bottom = synthtext.rectangle(corners, width, height)
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        assert (left, right) == (max(0, math.floor(x0)), min(width, math.ceil(x1)))
        assert (top, bottom) == (max(0, math.floor(y0)), min(height, math.ceil(y1)))


@pytest.mark.parametrize('bad, reason', [
    (box(3, 3, 3, 9), 'empty'), (box(60, 3, 70, 9), 'outside'), (box(-9, 3, -1, 9), 'outside'),
    (box(1, 50, 9, 60), 'outside'), (box(math.nan, 3, 9, 9), 'finite'), (box(3, 3, math.inf, 9), 'finite')])
def test_rectangle_names_what_is_wrong(bad, reason):
    with pytest.raises(ValueError, match=reason):
        synthtext.rectangle(bad, 60, 40)


def test_rectangle_takes_huge_numbers():
    assert synthtext.rectangle(box(-1e30, -1e30, 1e30, 1e30), 60, 40) == (0, 0, 60, 40)


def test_words_of_padded_blocks():
    rng = random.Random(1)
    letters = 'aZ9/\\"\',.é日\u00a0-'
    for _ in range(200):
        words = [''.join(rng.choices(letters, k=rng.randint(1, 6))) for _ in range(rng.randint(0, 8))]
        blocks, left = [], list(words)
        while left:
            count = rng.randint(1, len(left))
            block, left = left[:count], left[count:]
            blocks.append(' ' * rng.randint(0, 2) + ''.join(w + rng.choice([' ', '\n', ' \n  ']) for w in block))
        width = max(map(len, blocks), default=0)
        assert synthtext.words_of(np.array([b.ljust(width) for b in blocks])) == words
    assert synthtext.words_of(cell([np.array(['one two']), np.array(['three'])])) == ['one', 'two', 'three']


def test_boxes_of_any_number_of_words():
    assert synthtext.boxes_of(np.zeros((2, 4))).shape == (1, 2, 4)
    assert synthtext.boxes_of(np.zeros((2, 4, 4))).shape == (4, 2, 4)
    assert len(synthtext.boxes_of(np.zeros((0, 0)))) == 0
    stacked = np.stack([box(1, 2, 3, 4), box(5, 6, 7, 8)], axis=2)
    assert np.array_equal(synthtext.boxes_of(stacked)[1], box(5, 6, 7, 8))
    for bad in (np.zeros((4, 2)), np.zeros((2, 4, 1, 1)), np.array(['text'])):
        with pytest.raises(ValueError, match='shape'):
            synthtext.boxes_of(bad)


@pytest.mark.parametrize('name', ['', '.', '/etc/x.jpg', '../x.jpg', '8/../../x.jpg', '8/..', '..\\x.jpg', 'C:\\x.jpg',
                                  'C:x.jpg', '\\x.jpg', 'a\0.jpg', 'a\udfff.jpg'])
def test_names_that_leave_the_folder(name):
    assert synthtext.inner_path(name) is None
