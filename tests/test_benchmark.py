from pathlib import Path

import pytest
import torch
from helpers import status_of
from PIL import Image

from lib.checkpoint import load_aster
from utils import benchmark

CPU = torch.device('cpu')


def flags(tiny_aster, *argv):
    return ['--aster_path', tiny_aster, '--rounds', '1', '--blocks', '1', *argv]


def test_the_usual_search_finds_what_ours_finds(tiny_aster):
    torch.manual_seed(2)
    recognizer = load_aster(tiny_aster).freeze()
    with torch.no_grad():
        recognizer.decoder.decoder.fc.weight.mul_(5)
        recognizer.decoder.decoder.fc.bias[recognizer.decoder.eos] += 2  # strings of several lengths
    images = torch.rand(6, 3, 64, 256) * 2 - 1
    for width in (1, 4):
        usual = benchmark.usual_search(recognizer, recognizer.encode(images), width, max_len=12)
        ours = recognizer.decode(images, width, max_len=12)[0].tolist()
        for theirs, mine in zip(usual, ours):
            theirs = theirs + [recognizer.decoder.eos] * (len(mine) - len(theirs))
            assert mine == theirs[:len(mine)] and set(theirs[len(mine):]) <= {recognizer.decoder.eos}


def test_reading_is_reported_and_compared(tiny_lmdb, tiny_aster, capsys, monkeypatch):
    data = tiny_lmdb(changes={'image-000000002': b''})
    argv = flags(tiny_aster, '--parts', 'reading', '--words', '3', '--data_dir', data)
    assert benchmark.main(argv) == 0
    text = capsys.readouterr().out
    assert 'Reading 2 words' in text and '| beam 5, usual |' in text and 'identical strings: yes' in text
    monkeypatch.setattr(benchmark, 'usual_search', lambda recognizer, columns, width: [[0]] * len(columns))
    assert benchmark.main(argv) == 1
    assert 'identical strings: NO' in capsys.readouterr().out


def test_data_is_measured_for_each_number_of_workers(tiny_lmdb, tiny_aster, capsys):
    argv = flags(tiny_aster, '--parts', 'data', '--workers', '0', '1', '--batch_size', '4', '--data_dir', tiny_lmdb())
    assert benchmark.main(argv) == 0
    assert '| -j 0 |' in (text := capsys.readouterr().out) and '| -j 1 |' in text


def test_the_batch_that_starts_the_workers_is_not_timed(tiny_lmdb, capsys, monkeypatch):
    monkeypatch.setattr(benchmark, 'measure', lambda *_: {'': ((None, 3.0), 3.1, 0.0)})  # seconds of one batch of two
    benchmark.data(benchmark.parse_args(['--batch_size', '4', '--workers', '0']), tiny_lmdb(), CPU)
    assert '| -j 0 | 1.3 | 750.00 |' in ' '.join(capsys.readouterr().out.split())


def test_words_are_rendered_from_any_folder(tiny_aster, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('PATH', '')  # no fc-list: no time for the fonts of this machine
    argv = flags(tiny_aster, '--parts', 'data', '--workers', '0', '--images', '8', '--batch_size', '4')
    assert benchmark.main(argv) == 0
    assert 'Data: 2 batches of 4 pairs' in capsys.readouterr().out


def test_records_that_cannot_be_read_are_left_out(tiny_lmdb):
    damaged = tiny_lmdb(changes={'image-000000002': b'', 'image-000000005': b''})
    assert len(benchmark.training_batch(benchmark.parse_args(['--batch_size', '8']), damaged)['label']) == 6


def test_conversion_gives_the_same_in_batches(tiny_lmdb, tiny_aster, capsys, monkeypatch):
    monkeypatch.setattr(benchmark, 'available_cores', lambda: 1)  # see conftest.py
    argv = flags(tiny_aster, '--parts', 'conversion', '--images', '3', '--data_dir', tiny_lmdb())
    assert benchmark.main(argv) == 0
    text = capsys.readouterr().out
    assert '| one by one |' in text and any(f'largest difference of the results: {n} of 255' in text for n in (0, 1))


@pytest.mark.parametrize('side, level, told', [(8, 2, '2 of 255'), (9, 0, '255 of 255')])
def test_results_that_differ_by_batches_are_told(side, level, told, tiny_lmdb, tiny_aster, capsys, monkeypatch):
    def convert(argv):
        folder = Path(argv[argv.index('--out_path') + 1])
        (folder / 'textsr').mkdir(parents=True)
        one_by_one = folder.name == '1'
        Image.new('L', (8, 8 if one_by_one else side), 0 if one_by_one else level).save(folder / 'textsr/a.png')

    monkeypatch.setattr(benchmark.convert, 'main', convert)
    assert benchmark.main(flags(tiny_aster, '--parts', 'conversion', '--data_dir', tiny_lmdb())) == 1
    assert f'largest difference of the results: {told}' in capsys.readouterr().out


def test_variants_take_turns_and_the_fastest_round_counts(capsys):
    turns, times = [], iter([0, 5, 10, 11, 20, 22, 30, 37])  # a: 5 s then 2 s, b: 1 s then 7 s
    results = benchmark.measure({name: lambda name=name: turns.append(name) or name for name in 'ab'}, CPU, 2,
                                lambda: next(times))
    assert turns == ['a', 'b', 'a', 'b']
    assert [(result, elapsed) for result, elapsed, _ in results.values()] == [('a', 2), ('b', 1)]
    assert all(memory > 1 for _, _, memory in results.values())
    benchmark.report('Title', results, 8, 'a')
    assert '| b | 8.0 | 125.00 | 2.00 |' in ' '.join(capsys.readouterr().out.split())


def test_bad_input_is_one_line(tiny_lmdb, tiny_aster, tmp_path, capsys):
    unreadable = tiny_lmdb(words=['a', 'b'], changes={'image-000000001': b'', 'image-000000002': b''})
    for path, part in ((str(tmp_path / 'none'), 'reading'), *((unreadable, part) for part in benchmark.PARTS)):
        assert benchmark.main(flags(tiny_aster, '--parts', part, '--data_dir', path)) == 2
        told = capsys.readouterr().err
        assert path in told and len(told.splitlines()) == 1
    for wrong, message in (('--rounds=0', 'must be above zero'), ('--workers=-1', 'must not be negative')):
        assert status_of(benchmark.parse_args, [wrong]) == 2
        assert f'{wrong.replace("=", " ")}: {message}' in capsys.readouterr().err


def test_cudnn_searches_for_kernels_in_training_alone(tiny_lmdb, tiny_aster, monkeypatch):
    """A conversion of pictures in their own sizes would search anew for each size, which convert.py does not."""
    seen = {}
    for name in ('reading', 'train_step', 'share', 'data', 'conversion'):
        monkeypatch.setattr(benchmark, name, lambda *_, name=name: seen.update({
            name: torch.backends.cudnn.benchmark}))
    assert benchmark.main(flags(tiny_aster, '--data_dir', tiny_lmdb())) == 0
    assert seen == {'reading': False, 'train_step': True, 'share': True, 'data': False, 'conversion': False}
