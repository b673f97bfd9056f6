"""Short runs of main.py as a whole: what they show, and what they make of damaged records."""
import json
import re

import pytest
from conftest import word_records, write_lmdb

import main

# 8 words, 4 steps an epoch, 8 steps
TINY = ['--arch=srgan', '--blocks=1', '--maps=4', '--disc_maps=2', '--width=32', '--height=16', '--batch_size=2',
        '--epochs=2', '--warmup=2', '--workers=0', '--device=cpu']


@pytest.fixture
def flags(tiny_lmdb, tiny_aster):
    return ['--train_data_dir', tiny_lmdb(), '--aster_path', tiny_aster, *TINY]


def run(flags, folder, *more):
    return main.main([*flags, '--logs_dir', str(folder), *more])


def log(folder):
    return [json.loads(line) for line in (folder / 'log.txt').read_text().splitlines()]


def test_progress_does_not_fill_a_file_with_every_step(flags, tmp_path, capsys):
    assert run(flags, tmp_path / 'logs') == 0
    shown = [line for line in re.split('[\r\n]', capsys.readouterr().err) if 'gradient=' in line]
    assert 2 <= len(shown) <= 4 and 'discriminator=' in shown[-1], 'of 8 steps in 2 epochs'


def test_augmentation_changes_what_a_generator_trains_on_and_is_off_by_default(flags, tmp_path):
    content = []
    for number, more in enumerate(([], ['--augmentation', '0'], ['--augmentation', '1'])):
        assert run(flags, tmp_path / str(number), '--arch=srresnet', *more) == 0
        content.append([entry['content'] for entry in log(tmp_path / str(number))])
    assert content[0] == content[1] != content[2]


def damaged(tmp_path, numbers, name='damaged'):
    records = word_records()
    return write_lmdb(tmp_path / name, {**records, **{f'image-{n:09d}': b'' for n in numbers}})


def test_training_reports_damaged_records_once_and_goes_on(flags, tmp_path, capsys):
    data = damaged(tmp_path, (2, 5))
    assert run(flags, tmp_path / 'run', '--train_data_dir', data) == 0
    out = capsys.readouterr().out
    for number in (2, 5):
        assert out.count(f'unreadable, left out: {data}#{number}: image-{number:09d} holds no bytes') == 1
    assert out.count('unreadable') == 2
    assert [entry['unreadable'] for entry in log(tmp_path / 'run')] == [2, 2]


def test_training_past_a_batch_without_one_readable_record(flags, tmp_path):
    data = damaged(tmp_path, (1, 2, 3, 4, 5, 6, 7))
    assert run(flags, tmp_path / 'run', '--train_data_dir', data) == 0
    assert [(entry['unreadable'], entry['iteration']) for entry in log(tmp_path / 'run')] == [(7, 4), (7, 8)]


def test_nothing_to_train_on(flags, tmp_path, capsys):
    data = damaged(tmp_path, range(1, 9))
    assert run(flags, tmp_path / 'run', '--train_data_dir', data) == 1
    assert f'main.py: {data}: not one word of the epoch could be read' in capsys.readouterr().err


def test_testing_counts_what_could_be_read(flags, tmp_path, capsys):
    data, ruin = damaged(tmp_path, (3, 8)), damaged(tmp_path, range(1, 9), 'ruin')
    test = ['--test', '--methods', 'bicubic', '--test_data_dir']
    assert run(flags, tmp_path, *test, data) == 0
    out, err = capsys.readouterr()
    assert 'damaged: 2 of 8 records could not be read' in err and err.count('unreadable, not counted') == 2
    rows = json.loads((tmp_path / 'results.json').read_text())
    assert {row['words'] for row in rows} == {6} and '| damaged | 6 | bicubic |' in out
    assert run(flags, tmp_path / 'none', *test, ruin) == 1
    assert 'not one word could be read' in capsys.readouterr().err
    assert not (tmp_path / 'none').exists()
