import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from lib.inference.drawing import (
    FRAMES,
    PAPER,
    Column,
    compare,
    draw_marked,
    draw_text,
    enlarge_detail,
    fit,
    font,
    grid,
    mark_letters,
    with_boxes,
)
from lib.vocabulary import Vocabulary


def count(picture, color):
    return (np.asarray(picture) == color).all(2).sum()


def reddish(picture):
    red, green, blue = np.moveaxis(np.asarray(picture).astype(int), 2, 0)
    return ((red > 150) & (green < 60) & (blue < 60)).sum()


@pytest.mark.parametrize('text, label, wrong', [
    ('RONALDO', 'ronaldo', ''),
    ('R0NALDO', 'RONALDO', '0'),
    ('RONALD', 'RONALDO', '_'),
    ('ONALDO', 'RONALDO', '_'),
    ('RONNALDO', 'RONALDO', 'N'),
    ('RNALDO', 'RONALDO', '_'),
    ('RO-NALDO!', 'RONALDO', ''),
    ('abc', 'xyz', 'abc'),
    ('rn', 'm', 'rn'),
    ('m', 'rn', 'm_'),
    ('', 'ab', '__'),
    ('ab', '', 'ab'),
    ('', '', ''),
    ('It’s', "it's", ''),
])
def test_wrong_and_missing_letters_are_marked(text, label, wrong):
    marked = mark_letters(text, label)
    assert ''.join(character for character, right in marked if not right) == wrong
    assert ''.join(character for character, right in marked if right or character != '_') == text


def fontconfig_finds(character):
    found = shutil.which('fc-list') and subprocess.run(['fc-list', f':scalable=true:charset={ord(character):x}'],
                                                       capture_output=True, text=True).stdout
    return bool(found)


@pytest.mark.parametrize('pair', ['éü', 'αβ', 'жш'])
def test_letters_outside_ascii_are_drawn_where_a_font_has_them(pair, monkeypatch):
    if not fontconfig_finds(pair[0]):
        pytest.skip('no font for it')
    assert draw_text(f'x{pair[0]}', 40).tobytes() != draw_text(f'x{pair[1]}', 40).tobytes()
    monkeypatch.setenv('PATH', '')  # as where there is no fontconfig
    font.cache_clear()
    assert draw_text(f'x{pair[0]}', 40).width > draw_text('x', 40).width
    font.cache_clear()


def test_without_a_label_no_letter_is_wrong():
    assert mark_letters('a_b', None) == [('a', True), ('_', True), ('b', True)]


def test_a_letter_that_is_compared_as_two_is_right():
    assert all(right for _, right in mark_letters('großen', 'GROSSEN', Vocabulary(alphabet='egnorsß').normalize))


def test_a_missing_letter_stands_in_its_place():
    assert ''.join(character for character, _ in mark_letters('RO-ALDO', 'RONALDO')) == 'RO-_ALDO'


def test_wrong_letters_are_drawn_red_and_right_ones_are_not():
    marked = draw_marked([('a', True), ('b', False)], 30)
    assert reddish(marked.crop((0, 0, marked.width, 30))) > 20  # the letter
    assert reddish(marked.crop((0, marked.height - 4, *marked.size))) > 20  # the line under it
    assert reddish(draw_marked([('a', True), ('b', True)], 30)) == 0


def test_text_is_made_to_fit():
    wide = draw_text('a rather long line of text', 30)
    assert draw_text('a rather long line of text', 30, width=wide.width // 2).width <= wide.width // 2 + 2
    assert draw_text('two\nlines\there', 20).height == draw_text('two lines here', 20).height


@pytest.mark.parametrize('size, expected', [
    ((128, 32), (384, 96)), ((64, 16), (384, 96)), ((1, 1), (8, 8)), ((300, 200), (300, 200)), ((960, 400), (960, 400)),
    ((1920, 1080), (960, 540)), ((8000, 6000), (960, 720)), ((5000, 1), (960, 1)),
])
def test_images_are_drawn_at_a_size_for_the_eye(size, expected):
    assert fit(Image.new('RGB', size)).size == expected


def test_the_grid_keeps_every_picture_whole_and_apart():
    red, green, blue = (Image.new('RGB', size, color)
                        for size, color in [((10, 5), 'red'), ((3, 8), 'green'), ((4, 4), 'blue')])
    sheet = grid([[red, green], [blue, None]], gap=2)
    assert sheet.size == (10 + 3 + 3 * 2, 8 + 4 + 3 * 2)
    assert (count(sheet, (255, 0, 0)), count(sheet, (0, 128, 0)), count(sheet, (0, 0, 255))) == (50, 24, 16)
    rows, columns = np.nonzero((np.asarray(sheet) == (255, 0, 0)).all(2))
    assert (rows.min(), columns.min()) == (2 + (8 - 5) // 2, 2), 'in the middle of its cell'


def test_boxes_are_drawn_where_they_lie():
    image = Image.new('RGB', (101, 51), 'white')
    boxed = np.asarray(with_boxes(image, [(0.5, 0.2, 1, 1)]))
    rows, columns = np.nonzero((boxed == FRAMES[0]).all(2))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (10, 50, 50, 100)
    assert count(image, FRAMES[0]) == 0, 'the image itself is drawn on'


@pytest.mark.parametrize('size, expected', [((10, 5), (200, 100)), ((5, 100), (8, 150)), ((300, 10), (300, 10))])
def test_details_are_enlarged_but_kept_within_bounds(size, expected):
    assert enlarge_detail(Image.new('RGB', size), 200).size == expected


def versions(texts, **more):
    colors = ['#204060', '#206040', '#602040']
    return [Column(f'v{number}', Image.new('RGB', (128, 32), color), text, **more)
            for number, (text, color) in enumerate(zip(texts, colors))]


def test_a_comparison_shows_each_version_once_and_alike():
    picture = compare(versions(['one', 'two', 'three']))
    for color in ((0x20, 0x40, 0x60), (0x20, 0x60, 0x40), (0x60, 0x20, 0x40)):
        assert count(picture, color) == 384 * 96
    assert picture.getpixel((0, 0)) == PAPER
    assert 3 * 384 < picture.width < 3 * 384 + 100


def test_a_comparison_marks_what_differs_from_the_label():
    assert reddish(compare(versions(['word', 'WORD', 'w-ord']), label='Word')) == 0
    assert reddish(compare(versions(['word', 'w0rd', 'word']), label='Word')) > 20
    assert reddish(compare(versions(['word', '', 'word']), label='Word')) > 20
    assert reddish(compare(versions(['word', 'w0rd', '']))) == 0


def test_a_label_and_notes_make_room_for_themselves():
    plain = compare(versions(['a', 'b'])).height
    assert compare(versions(['a', 'b']), label='a').height > plain
    assert compare(versions(['a', 'b'], note='20 dB')).height > plain
    assert compare(versions([None, None])).height < plain


def test_details_stand_below_in_the_colour_of_their_box():
    detail = Image.new('RGB', (16, 8), 'yellow')
    shown = versions(['a', 'b'], details=(detail, detail), detail_texts=('x', 'y'))
    picture = compare(shown, boxes=[(0, 0, 0.2, 0.5), (0.5, 0, 0.7, 0.5)])
    assert count(picture, (255, 255, 0)) > 4 * 300 * 150
    assert count(picture, FRAMES[1]) > 2 * 2 * 300
    assert picture.height > compare(shown[:1]).height / 2
    unread = versions(['a', 'b'], details=(detail, detail))
    assert compare(unread).height < picture.height


def test_a_hundred_letters_do_not_widen_the_picture():
    assert compare(versions(['W' * 100, 'b'])).width <= compare(versions(['a', 'b'])).width + 1000
    assert compare([Column('t', Image.new('RGB', (1, 3000)), 'word')]).height < 1200
