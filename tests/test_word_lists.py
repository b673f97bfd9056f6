"""Reading lists of words: every style in use, and labels that look like another style."""
import json
import random
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from lib.inference.box_files import Boxes
from lib.wordsets.word_lists import find_image, match_labels, open_list

PLAIN = ['Hello', 'a,b', "it's", '$10.00', 'É', '"', 'x"y', '\\', 'a.jpg', '-']


def parse(path, text, encoding='utf-8'):
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return list(open_list(str(path))[0])


def labels(entries):
    return [entry.label for entry in entries]


@pytest.mark.parametrize('end', ['\n', '\r\n', '\r'])
@pytest.mark.parametrize('bom', ['', '\ufeff'])
@pytest.mark.parametrize('separator', ['\t', ' ', ',', ', '])
def test_separators_line_ends_and_bom(tmp_path, separator, bom, end):
    lines = [f'images/{i}.jpg{separator}{label}' for i, label in enumerate(PLAIN)]
    entries = parse(tmp_path / 'gt.txt', bom + end.join(lines) + end + end)
    assert labels(entries) == PLAIN
    assert [entry.paths for entry in entries] == [{'image': f'images/{i}.jpg'} for i in range(len(PLAIN))]


@pytest.mark.parametrize('separator', ['\t', ' ', ',', ', '])
def test_quoted_labels(tmp_path, separator):
    lines = [f'{i}.png{separator}"{label}"' for i, label in enumerate(['Genaxis Theatre', 'a, b', 'word'])]
    assert labels(parse(tmp_path / 'gt.txt', '\n'.join(lines))) == ['Genaxis Theatre', 'a, b', 'word']


@pytest.mark.parametrize('separator', ['\t', ' ', ',', ', '])
def test_quoted_names(tmp_path, separator):
    """As pandas (QUOTE_ALL) and LibreOffice write a CSV."""
    rows = [('a.jpg', 'HOTEL'), ('b, c.jpg', 'Book, shop'), ('say "hi".png', '"'), ('no extension', 'x')]
    lines = [separator.join('"' + field.replace('"', '""') + '"' for field in row) for row in rows]
    assert [(entry.paths['image'], entry.label) for entry in parse(tmp_path / 'a.csv', '\n'.join(lines))] == rows
    pairs = ['"hr/1.png"\t"lr/1.png"\t"word"', '"hr/2.png"\t"lr/2.png"\t"a b"']
    entries = parse(tmp_path / 'pairs.csv', '\n'.join(pairs))
    assert entries[1].paths == {'image_hr': 'hr/2.png', 'image_lr': 'lr/2.png'}


def test_mjsynth(tmp_path):
    """Its lists have, for the label, the number of the word in a lexicon."""
    lines = ['./1/2/17_Hotel_37021.jpg 37021', './1/2/18_a_b_5.JPG 5', './1/2/19_x_7.jpg 8']
    entries = parse(tmp_path / 'annotation_train.txt', '\n'.join(lines))
    assert labels(entries) == ['Hotel', 'a_b', None] and "MJSynth's lexicon" in entries[2].problem
    assert labels(parse(tmp_path / 'gt.txt', '1_a_37021.jpg 37021\n2.jpg 5\n3.jpg 17')) == ['37021', '5', '17']


@pytest.fixture
def folders(tmp_path):
    """Two folders with an image of the same name each, and one of another."""
    paths = [tmp_path / 'a' / '1.jpg', tmp_path / 'b' / '1.jpg', tmp_path / 'b' / '2.jpg']
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return paths


def test_labels_of_images_in_the_folders_of_the_list(folders, tmp_path):
    (tmp_path / 'gt.txt').write_text('a/1.jpg\tone\nb/1.jpg\ttwo\nb/2.jpg\tthree\n')
    assert match_labels(tmp_path / 'gt.txt', folders) == (dict(zip(folders, ('one', 'two', 'three'))), [])


@pytest.mark.parametrize('listed, there', [('NFC', 'NFD'), ('NFD', 'NFC')])
def test_names_whose_letters_are_composed_elsewhere(listed, there, tmp_path):
    """macOS writes e and an accent where other systems write one character."""
    listed, there = (unicodedata.normalize(form, 'caf\u00e9.jpg') for form in (listed, there))
    (tmp_path / there).write_bytes(b'')
    (tmp_path / 'gt.txt').write_text(f'{listed}\tone\n', encoding='utf-8')
    assert find_image(listed, [str(tmp_path)])[0] == str(tmp_path / there)
    for image in (str(tmp_path / there), f'/elsewhere/{there}'):
        assert match_labels(tmp_path / 'gt.txt', [image]) == ({image: 'one'}, [])
    (tmp_path / 'boxes.txt').write_text(f'in/{listed}\t1,2,3,4\n', encoding='utf-8')
    (tmp_path / 'boxes').mkdir()
    (tmp_path / 'boxes' / listed).with_suffix('.txt').write_text('1,2,3,4')
    for path in ('boxes.txt', 'boxes'):
        boxes = Boxes(tmp_path / path)
        assert boxes.match([(tmp_path / there, Path(there))]) == '' and len(boxes.of(tmp_path / there)) == 1, path


def test_names_that_were_written_on_windows(folders, tmp_path):
    (tmp_path / 'gt.txt').write_text('a\\1.jpg\tone\nb\\1.jpg\ttwo\nC:\\words\\2.jpg\tthree\n')
    assert match_labels(tmp_path / 'gt.txt', folders) == (dict(zip(folders, ('one', 'two', 'three'))), [])


def test_labels_of_images_elsewhere_go_by_unambiguous_names(folders, tmp_path):
    (tmp_path / 'lists').mkdir()
    path = tmp_path / 'lists' / 'gt.txt'
    path.write_bytes(b'x/1.jpg\tone\ny/1.jpg\ttwo\n2.jpg\tthree\n9.png\tnine\n8.jpg\t\xbe\xc6\n')
    labels, lines = match_labels(path, folders)
    assert labels == {folders[2]: 'three'}
    assert lines == [f'{path}: 1 of 5 lines not used: {path}:5 (line is not UTF-8)',
                     f'{path}: 2 images with several labels, none used: {folders[0]}, {folders[1]}',
                     f'{path}: 1 names in it of no image: 9.png']
    path.write_text('1.jpg\tone\n')
    assert match_labels(path, folders[1:]) == (
        {folders[1]: 'one'}, [f'{path}: 1 of 2 images without a label: {folders[2]}'])
    assert match_labels(path, folders)[0] == {}, 'one label for two images of that name'


def test_labels_of_many_images_are_looked_up_not_searched_for(tmp_path):
    lines = [f'{n}.jpg\tone\n{n}.jpg\ttwo' if n % 2 else f'{n}.jpg\tone' for n in range(20_000)]
    (tmp_path / 'gt.txt').write_text('\n'.join(lines))
    started = time.process_time()
    labels, lines = match_labels(tmp_path / 'gt.txt', [f'/elsewhere/{n}.jpg' for n in range(5000, 25_000)])
    assert time.process_time() - started < 3, 'a search for each of them takes seconds'
    assert len(labels) == 7500 and [line.split(': ')[1] for line in lines] == [
        '7500 images with several labels, none used', '5000 of 20000 images without a label',
        '5000 names in it of no image']


def test_quotes_inside_quotes(tmp_path):
    lines = [r'1.png, "\"Photos\""', r'2.png, "a\\b"', '3.png, "say ""hi"""', '4.png, plain', '5.png, "']
    assert labels(parse(tmp_path / 'gt.txt', '\n'.join(lines))) == ['"Photos"', 'a\\b', 'say "hi"', 'plain', '"']


def test_quotes_that_belong_to_the_label_stay(tmp_path):
    assert labels(parse(tmp_path / 'gt.txt', '1.png\t"SCAN"\n2.png\tword\n')) == ['"SCAN"', 'word']


def test_names_with_blanks_commas_and_no_extension(tmp_path):
    entries = parse(tmp_path / 'gt.txt', 'my dir/a b,c.jpg one two\nd.PNG three, four\n')
    assert [(entry.paths['image'], entry.label) for entry in entries] == [
        ('my dir/a b,c.jpg', 'one two'), ('d.PNG', 'three, four')]
    entries = parse(tmp_path / 'gt.txt', 'img1 hello,world\nimg2 yes\n')
    assert [(entry.paths['image'], entry.label) for entry in entries] == [('img1', 'hello,world'), ('img2', 'yes')]
    entries = parse(tmp_path / 'gt.txt', 'img1, one two\nimg2, yes\n')
    assert [(entry.paths['image'], entry.label) for entry in entries] == [('img1', 'one two'), ('img2', 'yes')]


def test_pairs(tmp_path):
    entries = parse(tmp_path / 'gt.txt', 'hr/1.png\tlr/1.png\t(Camille\nhr/2.png\tlr/2.png\ta b\nhr/3.png\tword\n')
    assert entries[0].paths == {'image_hr': 'hr/1.png', 'image_lr': 'lr/1.png'}
    assert labels(entries[:2]) == ['(Camille', 'a b']
    assert entries[2].problem and entries[2].place.endswith('gt.txt:3')


@pytest.mark.parametrize('style', ['tab', 'blank', 'comma', 'quoted', 'csv', 'odgt', 'pairs'])
def test_any_word_comes_back(tmp_path, style):
    """Random labels of printable characters, as each style writes them."""
    rng = random.Random(style)
    alphabet = [chr(c) for c in range(33, 127)] + [' ', 'é', '€', '字', '\u2028', '\u00a0']
    words = [''.join(rng.choices(alphabet, k=rng.randint(1, 12))).strip() or 'x' for _ in range(300)]
    if style in ('tab', 'blank', 'pairs'):  # these cannot tell a set of nothing but quoted labels from quoting
        words.append('plain')
    write = {
        'tab': lambda i, w: f'{i}.jpg\t{w}', 'blank': lambda i, w: f'{i}.jpg {w}',
        'comma': lambda i, w: f'{i}.jpg,"{w}"' if w[0] == w[-1] == '"' and '\\' not in w else f'{i}.jpg,{w}',
        'quoted': lambda i, w: f'{i}.jpg, "' + w.replace('\\', '\\\\').replace('"', '\\"') + '"',
        'csv': lambda i, w: f'{i}.jpg,"' + w.replace('"', '""') + '"',
        'odgt': lambda i, w: json.dumps({'im_path': f'{i}.jpg', 'im_name': f'{i}', 'label': w}),
        'pairs': lambda i, w: f'{i}.jpg\t{i}_lr.jpg\t{w}'}[style]
    if style == 'comma':
        words = [word for word in words if '"' not in word]
    if style == 'csv':  # a backslash before a quote means ICDAR's escape
        words = [word for word in words if '\\' not in word]
    suffix = 'odgt' if style == 'odgt' else 'txt'
    entries = parse(tmp_path / f'list.{suffix}', '\n'.join(write(i, word) for i, word in enumerate(words)))
    assert labels(entries) == words
    assert [next(iter(entry.paths.values())) for entry in entries] == [f'{i}.jpg' for i in range(len(words))]


def test_bad_lines_are_named_and_the_rest_goes_on(tmp_path):
    entries = parse(tmp_path / 'gt.txt', b'a.jpg\tone\nb.jpg\t\xff\xfe\nnothing\nc.jpg\t  \nd.jpg\ttwo\ne.jpg\ta\rb')
    assert labels(entries) == ['one', None, None, None, 'two', None]
    assert [(entry.place.rpartition(':')[2], entry.problem) for entry in entries if entry.problem] == [
        ('2', 'line is not UTF-8'), ('3', 'line is not "image, separator, label"'), ('4', 'empty label'),
        ('6', 'label holds a control character')]


def test_bad_odgt_lines(tmp_path):
    lines = ['{"im_path": "a.jpg", "label": "one"}', 'not json', '[1]', '7', '{"im_path": "a.jpg"}', 'null',
             '{"im_path": 5, "label": "x"}', '{"im_path": "a.jpg", "label": ""}', '[' * 100_000,
             r'{"im_path": "a.jpg", "label": "\ud800"}', '{"im_path": "b.jpg", "label": "two"}']
    entries = parse(tmp_path / 'a.odgt', '\n'.join(lines))
    assert [entry.label for entry in entries if not entry.problem] == ['one', 'two']
    assert len(entries) == len(lines)
    assert entries[9].problem == 'label is not valid Unicode'


@pytest.mark.parametrize('variable, field', [('testdata', 'GroundTruth'), ('trainCharBound', 'chars')])
def test_iiit5k(tmp_path, variable, field):
    records = np.zeros((1, 3), dtype=[('ImgName', object), (field, object), ('other', object)])
    records['ImgName'][0] = ['test/1_1.png', 'test/2_1.png', 'test/3_1.png']
    records[field][0] = ['PRIVATE', 'A', '']
    records['other'][0] = [np.eye(2), np.eye(2), np.eye(2)]
    savemat(tmp_path / 'words.mat', {variable: records})
    entries, total, folders = open_list(str(tmp_path / 'words.mat'))
    entries = list(entries)
    assert [(entry.paths, entry.label) for entry in entries[:2]] == [
        ({'image': 'test/1_1.png'}, 'PRIVATE'), ({'image': 'test/2_1.png'}, 'A')]
    assert entries[2].problem == 'empty label' and total == 3 and folders == [str(tmp_path)]


def test_lists_in_utf_16(tmp_path):
    with pytest.raises(ValueError, match='UTF-16'):
        parse(tmp_path / 'a.txt', b'\xff\xfea\x00')


def test_other_mat_file(tmp_path):
    savemat(tmp_path / 'a.mat', {'x': np.eye(3)})
    with pytest.raises(ValueError, match='a.mat holds no struct with ImgName'):
        open_list(str(tmp_path / 'a.mat'))


def test_the_list_of_a_folder(tmp_path):
    (tmp_path / 'gt.txt').write_text('images/1.jpg\tword\n')
    entries, total, folders = open_list(str(tmp_path))
    assert labels(entries) == ['word'] and total == 1 and folders == [str(tmp_path)]
