import numpy as np
from PIL import Image, ImageDraw

from lib.inference.boxes import blend, corners_of, cut, normalize_corners, text_of, window

WORD = [(10, 20), (40, 20), (40, 30), (10, 30)]


def test_corners_as_text():
    assert corners_of([10, 20, 30, 10]) == WORD and corners_of([1, 2, 0.5, 3])[2] == (1.5, 5)
    assert text_of(WORD) == '10,20,30,10' and text_of([(0.5, 1), (2, 1), (2, 3)]) == '0.5,1,2,1,2,3'


def test_places_in_and_outside_of_an_image():
    assert normalize_corners(WORD, 80, 40) == [(0.125, 0.5), (0.5, 0.5), (0.5, 0.75), (0.125, 0.75)]
    beyond = [(-5, -5), (200, -5), (200, 20), (-5, 20)]
    assert normalize_corners(beyond, 100, 40) == [(0, 0), (1, 0), (1, 0.5), (0, 0.5)]
    for x, y in ((0, 20), (70, 0), (-40, 0), (0, -30)):  # beyond each side
        assert normalize_corners([(left + x, top + y) for left, top in WORD], 80, 40) is None


def test_a_word_is_covered_and_fades_into_the_ground():
    ground = Image.new('L', (400, 200))
    corners = normalize_corners([(150, 80), (250, 80), (250, 120), (150, 120)], 400, 200)
    (left, top, right, bottom), margin = window(corners, 400, 200)
    assert margin == 10 and (left, top, right, bottom) == (140, 70, 260, 130)
    blend(ground, Image.new('L', (right - left, bottom - top), 200), corners, (left, top), margin)
    pixels = np.asarray(ground).astype(int)
    assert (pixels[80:120, 150:250] >= 198).mean() > 0.99 and (pixels[85:115, 155:245] == 200).all()
    outside = pixels.copy()
    outside[top:bottom, left:right] = 0
    assert not outside.any()
    assert np.abs(np.diff(pixels, axis=0)).max() <= 200 / margin * 1.8, 'an edge is seen'
    assert np.abs(np.diff(pixels, axis=1)).max() <= 200 / margin * 1.8


def test_a_word_at_the_edge_of_a_picture_does_not_fade_there():
    ground, corners = Image.new('L', (100, 100)), normalize_corners([(0, 0), (60, 0), (60, 20), (0, 20)], 100, 100)
    (left, top, right, bottom), margin = window(corners, 100, 100)
    assert (left, top) == (0, 0)
    blend(ground, Image.new('L', (right, bottom), 255), corners, (0, 0), margin)
    assert np.asarray(ground)[:15, :50].min() >= 245


def test_a_tiny_word_has_a_margin_of_four_pixels():
    assert window(normalize_corners(corners_of([64, 32, 16, 8]), 128, 64), 128, 64) == ((60, 28, 84, 44), 4)


def test_a_slanted_word_is_straightened():
    picture = Image.new('RGB', (200, 200), 'white')
    corners = [(40, 100), (140, 50), (150, 70), (50, 120)]  # read upwards to the right
    draw = ImageDraw.Draw(picture)
    draw.polygon(corners, fill='red')
    draw.polygon([(40, 100), (90, 75), (100, 95), (50, 120)], fill='blue')  # its left half
    word = np.asarray(cut(picture, normalize_corners(corners, 200, 200)))
    assert word.shape[:2] == (22, 112)
    assert (word[4:-4, 4:50] == [0, 0, 255]).all(2).mean() > 0.95
    assert (word[4:-4, 62:-4] == [255, 0, 0]).all(2).mean() > 0.95
    anticlockwise = [corners[0], *corners[:0:-1]]
    assert (np.asarray(cut(picture, normalize_corners(anticlockwise, 200, 200))) == word).all(), 'mirrored'


def test_an_upright_word_is_cut_out_pixel_by_pixel():
    picture = Image.effect_noise((60, 40), 90)
    assert (np.asarray(cut(picture, normalize_corners(corners_of([10, 20, 30, 10]), 60, 40)))
            == np.asarray(picture)[20:30, 10:40]).all()
    turned = [(40, 30), (10, 30), (10, 20), (40, 20)]  # upside down
    assert (np.asarray(cut(picture, normalize_corners(turned, 60, 40))) == np.asarray(picture)[29:19:-1, 39:9:-1]).all()
    assert cut(picture, normalize_corners([(59.9, 39.9), (60, 39.9), (60, 40)], 60, 40)).size == (1, 1)
