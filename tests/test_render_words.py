import io
import os
import signal
import struct
import subprocess
import sys
import time
from unittest import mock

import lmdb
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont, JpegImagePlugin

from lib.wordsets.rendering import fonts as font_tools
from lib.wordsets.rendering import labels, styles
from lib.wordsets.rendering.fonts import LETTERS, PRINTABLE, Font
from lib.wordsets.rendering.shapes import project
from utils import render_words

SCRIPT = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), 'utils', 'render_words.py')


def write_font(path, redraw=str):
    """Pillow's own font as a file, in which character c has the glyph of redraw(c), or none where that is empty."""
    data = bytearray(ImageFont.load_default(20).font_bytes)
    tables = [12 + 16 * i for i in range(struct.unpack('>H', data[4:6])[0])]
    entry = next(at for at in tables if data[at:at + 4] == b'cmap')
    start = struct.unpack('>I', data[entry + 8:entry + 12])[0]
    count = struct.unpack('>H', data[start + 2:start + 4])[0]
    places = [struct.unpack('>HHI', data[at:at + 8]) for at in range(start + 4, start + 4 + 8 * count, 8)]
    macintosh = start + next(offset for platform, _, offset in places if platform == 1)
    glyph_of = data[macintosh + 6:macintosh + 262]  # one byte for each of 256 characters
    groups = [(ord(c), ord(c), glyph_of[ord(redraw(c))]) for c in sorted(PRINTABLE) if redraw(c)]
    table = struct.pack('>HHHHI', 0, 1, 3, 10, 12) + struct.pack('>HHIII', 12, 0, 16 + 12 * len(groups), 0, len(groups))
    table += b''.join(struct.pack('>III', *group) for group in groups)
    data += b'\0' * (-len(data) % 4)
    data[entry + 8:entry + 16] = struct.pack('>II', len(data), len(table))
    path.write_bytes(data + table)
    return ('Test', str(path), 0)


def swap(**pairs):
    return lambda c: pairs.get(c, c)


@pytest.fixture(scope='module')
def fonts(tmp_path_factory):
    """Folder with one good font and one that has no 'q'."""
    folder = tmp_path_factory.mktemp('fonts')
    write_font(folder / 'good.ttf')
    write_font(folder / 'lacking.ttf', swap(q=''))
    os.mkfifo(folder / 'pipe.ttf')
    return folder


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / 'photos'
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, mode in (('a.jpg', 'RGB'), ('b.png', 'RGBA'), ('c.JPEG', 'L'), ('wide.png', 'P')):
        noise = Image.fromarray(rng.integers(0, 256, (8, 40 if name == 'wide.png' else 12, 3), dtype=np.uint8))
        noise.resize((noise.width * 26, 208)).convert(mode).save(folder / name)
    Image.new('RGB', (16, 16)).save(folder / 'icon.png')
    (folder / 'broken.jpg').write_bytes((folder / 'a.jpg').read_bytes()[:500])
    Image.new('RGB', (208, 208)).save(folder / 'other.png', 'SGI')  # of none of the formats that are read
    os.mkfifo(folder / 'pipe.png')
    return folder


def run(out, fonts, *flags):
    render_words.main(['--out', str(out), '--font_dir', str(fonts), '--workers', '1', *map(str, flags)])
    return read(out)


def read(path):
    """[(label, JPEG bytes)] of an LMDB."""
    with lmdb.open(str(path), readonly=True, lock=False) as env, env.begin() as transaction:
        numbers = range(1, int(transaction.get(b'num-samples')) + 1)
        assert transaction.stat()['entries'] == 2 * len(numbers) + 1
        return [(transaction.get(b'label-%09d' % i).decode(), transaction.get(b'image-%09d' % i)) for i in numbers]


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def test_same_set_for_any_number_of_workers(tmp_path, fonts, photos):
    flags = ('--count', 70, '--seed', 3, '--background_dir', photos)
    one = run(tmp_path / 'one', fonts, *flags)
    assert run(tmp_path / 'two', fonts, *flags, '--workers', 2) == one
    assert len(one) == 70
    assert run(tmp_path / 'first', fonts, *flags[2:], '--count', 5) == one[:5]
    assert run(tmp_path / 'other', fonts, '--count', 5, '--seed', 4, '--background_dir', photos) != one[:5]


def test_images_have_the_height_and_differ(tmp_path, fonts):
    records = run(tmp_path / 'words', fonts, '--count', 60, '--height', 48)
    images = [pixels(data) for _, data in records]
    assert all(48 <= image.shape[0] <= 72 and image.shape[2] == 3 and image.shape[1] >= 16 for image in images)
    assert all(image.std() > 4 for image in images)
    assert all(JpegImagePlugin.get_sampling(Image.open(io.BytesIO(data))) == 0 for _, data in records), 'colour in full'
    colours = {tuple(image.mean((0, 1)).astype(int) // 16) for image in images}
    assert len({image.shape for image in images}) > 50 and len(colours) > 40
    assert len({label for label, _ in records}) > 45


def test_labels_are_drawable_and_like_those_of_signs():
    words, dropped = labels.read_words(labels.DEFAULT_WORDS)
    assert dropped == 0 and len(words) > 3000
    made = [labels.make_label(words, np.random.default_rng(i)) for i in range(8000)]
    assert set(''.join(made)) == set(PRINTABLE)
    made += [labels.make_label(['x' * labels.MAX_LENGTH], np.random.default_rng(i)) for i in range(300)]
    lengths = np.array([len(label) for label in made])
    assert lengths.min() >= 1 and lengths.max() <= labels.MAX_LENGTH and 5 < lengths.mean() < 7.5
    for share, test in ((0.2, str.isupper), (0.15, str.islower), (0.08, lambda s: not any(c.isalpha() for c in s))):
        assert np.mean([test(label) for label in made]) > share


def test_word_list(tmp_path, fonts):
    words = tmp_path / 'list.txt'
    words.write_bytes('﻿Zürich\r\nabcde\r\n\ntwo words\n'.encode() + b'x' * 40 + b'\n\xff\xfe\n')
    assert labels.read_words(words) == (['abcde'], 4)
    words.write_text('x' * 20 + '\n' + 'x' * 21)
    assert labels.read_words(words) == (['x' * 20], 1)
    words.write_text('abcde\n')
    drawn = [label for label, _ in run(tmp_path / 'out', fonts, '--count', 40, '--words', words)]
    assert sum(label.lower() == 'abcde' for label in drawn) > 10
    words.write_text('Zürich\n')
    with pytest.raises(SystemExit, match='list.txt.*--words'):
        run(tmp_path / 'none', fonts, '--words', words)
    assert not (tmp_path / 'none').exists()


def test_the_label_is_what_is_drawn(monkeypatch):
    """What reaches the canvas is the label, whatever the style: letter by letter when spaced."""
    drawn = []
    text = ImageDraw.ImageDraw.text
    monkeypatch.setattr('PIL.ImageDraw.ImageDraw.text',
                        lambda self, xy, chars, **style: (drawn.append(chars), text(self, xy, chars, **style))[1])
    caps = Font('caps', None, 0, LETTERS + '-', 'upper')
    setup = {'seed': 0, 'height': 32, 'words': ['Wo_rt'], 'photos': [], 'families': [[caps]], 'odds': [1]}
    made = []
    for index in range(60):
        drawn.clear()
        label, _ = render_words.render_record(index, setup)
        whole = ''.join(drawn)
        assert whole in (label, label * 2)  # twice with an outline
        assert label == label.upper() and set(label) <= set(caps.chars)
        made.append(label)
    assert 'WORT' in made, 'less what the font has not'


@pytest.mark.parametrize('ink', [0, 15, 60])
def test_small_hairlines_are_cut_out_too(ink):
    """Letters of a few pixels that cover none of them, or of which nothing is left."""
    word = Image.new('L', (40, 20))
    word.paste(ink, (10, 8, 30, 13))
    for seed in range(60):
        crop = project(word, np.random.default_rng(seed), 8)
        assert crop.shape[0] == 8 and (crop.max() > 0.6 * ink or not ink)


def test_fonts_are_checked(tmp_path):
    def check(name, redraw=str):
        return font_tools.check_font(write_font(tmp_path / f'{name}.ttf', redraw))

    font, reason, _ = check('good')
    assert reason is None and font.chars == font_tools.LETTERS + ''.join(sorted(PRINTABLE[62:])) and font.case == ''
    assert check('lacking', swap(q=''))[:2] == (None, 'glyphs missing')
    assert check('same', swap(q='p'))[1] == 'letters that look the same'
    shifted = dict(zip(LETTERS, LETTERS[7:] + LETTERS[:7]))
    assert check('cipher', swap(**shifted))[1] == 'not readable'
    assert check('caps', str.upper)[0].case == 'upper'
    assert check('small', str.lower)[0].case == 'lower'
    odd = {'&': 'b', '$': '', '%': '~'}
    assert set(PRINTABLE) - set(check('odd', swap(**odd))[0].chars) == set(odd)
    (tmp_path / 'broken.ttf').write_bytes(b'no font')
    assert font_tools.check_font(('', str(tmp_path / 'broken.ttf'), 0))[1].startswith('unreadable')


def test_plain_fonts_are_drawn_more_often(tmp_path):
    """A font counts as much as its letters are like plain ones; a family as its plainest font."""
    good, odd = (font_tools.check_font(write_font(tmp_path / f'{name}.ttf', redraw))[0]
                 for name, redraw in (('good', str), ('odd', swap(a='b', b='a', c='d', d='c'))))
    assert good.plainness == 1 and odd.plainness == pytest.approx(58 / 62)
    odds = font_tools.odds_of([[good], [odd], [odd, good]])
    assert odds.sum() == pytest.approx(1) and odds[0] == odds[2] == pytest.approx(odds[1] * (62 / 58) ** 4)
    setup = {'seed': 0, 'height': 32, 'words': ['a'], 'photos': [], 'odds': [1, 0],
             'families': [[good], [good._replace(path='nowhere')]]}
    assert all(render_words.render_record(index, setup)[1] for index in range(5)), 'the second cannot be opened'


def test_letters_are_not_joined(tmp_path):
    """This font has a ligature of f and l, which is narrower."""
    font = font_tools.load_font(write_font(tmp_path / 'font.ttf')[1], 0, 48)
    assert font.getlength('fl') == font.getlength('f') + font.getlength('l')


def test_doubles_and_splits(fonts, tmp_path):
    families, skipped = font_tools.choose_fonts(font_tools.list_fonts(fonts))
    assert [len(styles) for styles in families.values()] == [1] and skipped == {'glyphs missing': 1}
    path = str(fonts / 'good.ttf')
    _, skipped = font_tools.choose_fonts([('One', path, 0), ('Two', path, 0)])
    assert skipped == {'same letters as another font': 1}
    names = [f'Family {i}' for i in range(500)]
    assert 25 < sum(map(font_tools.is_val_family, names)) < 80
    assert font_tools.is_val_family('Lato Light') == font_tools.is_val_family('Lato') and \
        font_tools.family_key('Roboto Condensed Extra Bold') == 'roboto'
    for name in (next(filter(font_tools.is_val_family, names)), 'Family 0'):
        chosen = [bool(font_tools.choose_fonts([(name, path, 0)], split)[0]) for split in ('val', 'train', 'all')]
        assert chosen == [name != 'Family 0', name == 'Family 0', True]


def test_without_fontconfig_pillows_font_is_used(tmp_path):
    done = subprocess.run([sys.executable, SCRIPT, '--out', tmp_path / 'words', '--count', '6', '--workers', '1'],
                          env={'PATH': str(tmp_path)}, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and "Pillow's own" in done.stderr
    assert len(read(tmp_path / 'words')) == 6 and '6 words written' in done.stdout


def test_unusable_photos_are_counted(photos, tmp_path, fonts, capsys, monkeypatch):
    loaded, unusable = render_words.load_photos([str(photos)], 1)
    assert len(loaded) == 4 and unusable == 4
    with monkeypatch.context() as patch:
        patch.setattr(Image, 'open', mock.Mock(side_effect=RuntimeError))  # as of a damaged AVIF, whatever its name
        assert render_words.load_photos([str(photos)], 1) == ([], 8)
    assert {photo.mode for photo in loaded} == {'RGB'} and max(max(photo.size) for photo in loaded) == 640
    (tmp_path / 'empty').mkdir()
    run(tmp_path / 'words', fonts, '--count', 2, '--background_dir', tmp_path / 'empty')
    assert 'empty: no JPEG or PNG photo' in capsys.readouterr().err


def test_long_words_on_any_photo(photos):
    loaded, _ = render_words.load_photos([str(photos)], 1)
    font = Font('own', None, 0, PRINTABLE, '')
    for seed in range(12):
        image = styles.render('W' * 20, font, np.random.default_rng(seed), 64, loaded)
        assert 64 <= image.height <= 96 and image.width <= 14 * image.height
        assert styles.render('.', font, np.random.default_rng(seed), 64, loaded).width >= 21


def test_a_cut_of_any_shape_fits_the_photo():
    photo, rng = Image.new('RGB', (641, 213)), np.random.default_rng(0)
    for width in range(20, 1400, 7):
        assert styles.cut(photo, width, 66, rng).size == (width, 66)


def test_letters_stand_out():
    """The letters of painted words differ in luma from what is round them."""
    font = Font('own', None, 0, PRINTABLE, '')
    gaps = []
    for seed in range(40):
        image = np.asarray(styles.render('HOUSE', font, np.random.default_rng(seed), 64).convert('L'), float)
        low, high = np.percentile(image[10:-10], (5, 95))
        gaps.append(high - low)
    assert min(gaps) > 20
    assert styles.luma_of(np.eye(3) * 255) == pytest.approx([76, 150, 29], abs=0.5)


@pytest.mark.parametrize('flags', [('--count', 0), ('--workers', 0), ('--height', 2), ('--seed', -1),
                                   ('--font_dir', 'nowhere'), ('--background_dir', 'nowhere'), ('--words', 'nowhere'),
                                   ('--font_split', 'some')])
def test_bad_flags(flags, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        render_words.main(['--out', str(tmp_path / 'words'), *map(str, flags)])
    assert stopped.value.code == 2
    assert flags[0] in capsys.readouterr().err and not (tmp_path / 'words').exists()


def test_existing_set_needs_force(tmp_path, fonts, capsys):
    first = run(tmp_path / 'words', fonts, '--count', 2)
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path / 'words', fonts, '--count', 3, '--seed', 2)
    assert stopped.value.code == 2 and '--force' in capsys.readouterr().err
    assert read(tmp_path / 'words') == first
    assert len(run(tmp_path / 'words', fonts, '--count', 3, '--seed', 2, '--force')) == 3


def test_nothing_is_left_after_a_failure(tmp_path, fonts, monkeypatch):
    old = run(tmp_path / 'words', fonts, '--count', 2)
    kept = sorted(os.listdir(tmp_path))
    monkeypatch.setattr(styles, 'encode', lambda image, rng: 1 / 0)
    for workers in (1, 2):
        with pytest.raises(ZeroDivisionError):
            run(tmp_path / 'words', fonts, '--count', 40, '--force', '--workers', workers)
        with pytest.raises(ZeroDivisionError):
            run(tmp_path / 'new', fonts, '--count', 40, '--workers', workers)
    assert sorted(os.listdir(tmp_path)) == kept and read(tmp_path / 'words') == old


def test_interrupt(tmp_path, fonts):
    command = [sys.executable, SCRIPT, '--out', tmp_path / 'words', '--count', '500000', '--workers', '2',
               '--font_dir', fonts]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not any(name.startswith('words.partial') for name in os.listdir(tmp_path)):
        time.sleep(0.05)
        assert process.poll() is None
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does: all of them get it
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and 'Traceback' not in errors
    assert os.listdir(tmp_path) == []
