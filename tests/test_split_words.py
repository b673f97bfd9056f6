import json
import os

import numpy as np
import pytest
from helpers import files, status_of
from PIL import Image

from utils import create_lmdb
from utils.split_words import main


def picture(folder, name, seed, noise=0.0):
    """A picture of light blocks that the seed sets: much like any other, but for what differs from its mean."""
    blocks = np.random.default_rng(seed).integers(128, 256, (4, 8)).astype(float).repeat(8, 0).repeat(8, 1)
    grain = np.random.default_rng(seed + 1000).normal(0, 255 * noise, blocks.shape)
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray((blocks + grain).clip(0, 255).astype(np.uint8)).save(folder / name)


def word_list(folder, words):
    """words: [(name, label, seed, noise)]."""
    for name, _, seed, noise in words:
        picture(folder, name, seed, noise)
    (folder / 'gt.txt').write_text(''.join(f'{name}\t{label}\n' for name, label, *_ in words), encoding='utf-8')
    return str(folder)


def names(path):
    return [json.loads(line)['im_path'].rsplit('/', 1)[1] for line in path.read_text().splitlines()]


@pytest.fixture
def words(tmp_path):
    return word_list(tmp_path / 'words', [(f'{i}.png', f'word{i}', i, 0) for i in range(20)])


def run(tmp_path, *flags):
    assert main([*flags, '--out', str(tmp_path / 'out')]) == 0
    return names(tmp_path / 'out' / 'train.odgt'), names(tmp_path / 'out' / 'val.odgt')


def test_every_word_is_in_one_list(words, tmp_path):
    train, val = run(tmp_path, '--input', words, '--val_share', '0.25')
    assert len(val) == 5 and sorted(train + val) == sorted(f'{i}.png' for i in range(20))


def test_of_pairs_the_high_resolution_is_taken_and_none_need_be_for_validation(tmp_path):
    pairs = word_list(tmp_path / 'pairs', [(f'{i}.png', f'small.png\tword{i}', i, 0) for i in range(3)])
    assert run(tmp_path, '--input', pairs, '--val_share', '0') == (['0.png', '1.png', '2.png'], [])


def test_the_seed_sets_the_draw(words, tmp_path):
    first = run(tmp_path, '--input', words)
    assert run(tmp_path, '--input', words) == first
    assert run(tmp_path, '--input', words, '--seed', '2') != first


@pytest.mark.parametrize('allowed', [0, 1])
def test_no_training_list_stands_beside_another_validation_list(words, tmp_path, monkeypatch, allowed):
    """Where only so many lists get their names before the run ends."""
    run(tmp_path, '--input', words)
    rename, done = os.replace, []

    def replace(source, target):
        if len(done) == allowed:
            raise KeyboardInterrupt
        done.append(rename(source, target))
    monkeypatch.setattr(os, 'replace', replace)
    with pytest.raises(KeyboardInterrupt):
        main(['--input', words, '--seed', '2', '--out', str(tmp_path / 'out')])
    assert files(tmp_path / 'out') == ['val.odgt']


def test_near_duplicates_of_test_words_are_left_out(words, tmp_path, capsys):
    tests = word_list(tmp_path / 'tests', [('a.png', 'WORD-3', 3, 0.02), ('b.png', 'word4', 99, 0),
                                           ('c.png', 'x', 5, 0), ('d.png', 'word3', 98, 0)])
    train, val = run(tmp_path, '--input', words, '--apart', tests)
    # 3 has the letters and nearly the picture; 4 has the letters alone, 5 the picture alone
    assert sorted(train + val) == sorted(f'{i}.png' for i in range(20) if i != 3)
    assert '1 left out as near duplicates' in capsys.readouterr().out


def test_letters_of_every_script_are_compared(tmp_path):
    """All pictures are alike."""
    labels = ['кафе24', 'бар24', 'ΣΟΦΟΣ', '咖啡', '店', 'cafe\u0301', 'cafe', '?', '!']
    words = word_list(tmp_path / 'words', [(f'{i}.png', label, 3, 0) for i, label in enumerate(labels)])
    tests = word_list(tmp_path / 'tests', [(f'{i}.png', label, 3, 0) for i, label in enumerate(
        ['КАФЕ-24', 'σοφος', '店。', 'CAFÉ', '!'])])
    train, val = run(tmp_path, '--input', words, '--apart', tests, '--val_share', '0.25')
    assert sorted(train + val) == ['1.png', '3.png', '6.png', '7.png']


def test_training_words_are_apart_from_validation_words(tmp_path):
    twins = word_list(tmp_path / 'twins', [(f'{i}{kind}.png', f'word{i}', i, noise) for i in range(10)
                                           for kind, noise in (('a', 0), ('b', 0.02))])
    train, val = run(tmp_path, '--input', twins, '--val_share', '0.3')
    assert val and not {name[0] for name in train} & {name[0] for name in val}


def test_create_lmdb_takes_the_lists(words, tmp_path):
    train, _ = run(tmp_path, '--input', words)
    create_lmdb.main(['--input', str(tmp_path / 'out' / 'train.odgt'), '--output', str(tmp_path / 'set'),
                      '--workers', '1'])
    assert (tmp_path / 'set' / 'data.mdb').exists()


def test_names_that_are_not_utf8_are_listed(tmp_path):
    folder = tmp_path / os.fsdecode(b'w\xf6rter')
    train, val = run(tmp_path, '--input', word_list(folder, [(f'{i}.png', f'word{i}', i, 0) for i in range(3)]),
                     '--val_share', '0.4')
    first = json.loads((tmp_path / 'out' / 'train.odgt').read_text().splitlines()[0])
    assert len(train + val) == 3 and (tmp_path / 'out' / first['im_path']).is_file()


def test_what_cannot_be_used_is_counted(words, tmp_path, capsys):
    (tmp_path / 'words' / '7.png').write_bytes(b'no image')
    (tmp_path / 'words' / '8.png').unlink()
    with open(f'{words}/gt.txt', 'a') as file:
        file.write('\x1b[2J.png\tcleared\n')
    train, val = run(tmp_path, '--input', words)
    assert len(train + val) == 18
    out = capsys.readouterr().out
    assert '\x1b' not in out and r'\x1b[2J.png' in out, 'what would act on the terminal is quoted'
    assert '1 image unusable' in out and '2 image not found' in out
    assert '7.png' in out and '8.png' in out


@pytest.mark.parametrize('flag', ['--input', '--apart'])
@pytest.mark.parametrize('name', ['train', 'val'])
def test_a_list_that_is_read_is_not_overwritten(words, tmp_path, capsys, flag, name):
    run(tmp_path, '--input', words)
    lists = {path: path.read_bytes() for path in (tmp_path / 'out').iterdir()}
    path = f'{tmp_path}/out/{name}.odgt'
    assert main(['--input', words, flag, path, '--out', str(tmp_path / 'out' / '..' / 'out')]) == 2
    assert capsys.readouterr().err == f'split_words.py: {path}: would be overwritten; name another folder with --out\n'
    assert {path: path.read_bytes() for path in (tmp_path / 'out').iterdir()} == lists


def test_bad_input_is_named(words, tmp_path, capsys):
    assert main(['--input', str(tmp_path / 'none.txt')]) == 2 and 'none.txt' in capsys.readouterr().err
    one = word_list(tmp_path / 'one', [('0.png', 'word', 0, 0)])
    assert main(['--input', one, '--out', str(tmp_path / 'out')]) == 1 and not (tmp_path / 'out').exists()
    (tmp_path / 'one' / '0.png').unlink()
    assert main(['--input', one, '--out', str(tmp_path / 'out')]) == 1
    assert '1 image not found' in capsys.readouterr().out, 'why there are too few'
    assert status_of(main, ['--input', words, '--val_share', '1.5']) == 2
