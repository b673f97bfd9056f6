import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from helpers import WORDS, status_of
from PIL import Image

import main
from lib.inference.drawing import FRAMES
from utils import plot_training


@pytest.fixture
def run_folder(tmp_path):
    def make(name, arch, values, metric='accuracy', **others):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / 'args.json').write_text(json.dumps({'arch': arch}))
        method = 'none' if arch == 'aster' else arch
        (tmp_path / name / 'log.txt').write_text(''.join(
            json.dumps({'iteration': step, **{f'{method}/{metric}': value for method, value in
                                              {method: value, **others}.items() if value is not None}}) + '\n'
            for step, value in values.items()))
        return str(tmp_path / name)
    return make


def colored(path, color):
    """Columns of the picture, below the legend, that hold a colour, and the mean row of it in each."""
    rows, columns = np.nonzero((np.asarray(Image.open(path))[45:] == color).all(2))
    return {column: rows[columns == column].mean() for column in np.unique(columns)}


def test_a_line_for_each_run_at_its_values(run_folder, tmp_path):
    rising = run_folder('rising', 'textsr', {100: 40.0, 200: None, 400: 60.0})
    level = run_folder('level', 'aster', {100: 50.0, 400: 50.0})
    assert plot_training.main([rising, level, '--out', str(tmp_path / 'out.png')]) == 0
    lines = [colored(tmp_path / 'out.png', FRAMES[number]) for number in range(2)]
    first, last = min(lines[0]), max(lines[0])
    assert (first, last) == pytest.approx((min(lines[1]), max(lines[1])), abs=2)
    quarter = first + (last - first) // 4
    assert lines[0][first] > lines[1][first] and lines[0][last] < lines[1][last], 'up is more'
    assert lines[0][quarter] == pytest.approx(0.75 * lines[0][first] + 0.25 * lines[0][last], abs=3)
    spread = list(lines[1].values())
    assert max(spread) - min(spread) < 3


def test_bicubic_interpolation_is_drawn_once_as_far_as_the_longest_run(run_folder, tmp_path):
    runs = [run_folder(str(last), 'srgan', {100: 24.0, last: 25.0}, 'psnr', bicubic=22.0) for last in (200, 400, 300)]
    assert plot_training.main([*runs, '--metric', 'psnr', '--out', str(tmp_path / 'out.png')]) == 0
    first, longest, bicubic = (colored(tmp_path / 'out.png', FRAMES[number]) for number in (0, 1, 3))
    assert max(bicubic) == pytest.approx(max(longest), abs=2)
    assert min(first) == pytest.approx(min(bicubic), abs=2), 'the first run lies on top where all begin'
    words, x, y = plot_training.legend('PSNR (dB)', [])[0]
    unit = Image.open(tmp_path / 'out.png').crop((x, y, x + words.width, y + words.height))
    assert unit.tobytes() == words.tobytes()


@pytest.mark.parametrize('values', [{5: 50.0}, {1: 0.0, 2: 0.0}, {1: 50.0, 2: float('inf')}])
def test_runs_with_little_to_show(run_folder, tmp_path, values):
    assert plot_training.main([run_folder('short', 'srgan', values), '--out', str(tmp_path / 'out.png')]) == 0
    assert colored(tmp_path / 'out.png', FRAMES[0])


def test_the_picture_is_a_png_by_its_name_too(run_folder, tmp_path, capsys):
    flags = [run_folder('run', 'srgan', {1: 50.0}), '--out', str(tmp_path / 'out.jpg')]
    assert status_of(plot_training.main, flags) == 2
    assert 'out.jpg: the picture is a PNG' in capsys.readouterr().err


def test_runs_in_folders_of_one_name_are_all_drawn_and_told_apart(run_folder, tmp_path):
    first, second = (run_folder(f'{name}/logs', 'srgan', {1: value, 2: value}) for name, value in (('a', 5), ('b', 6)))
    assert plot_training.main([first, second, '--out', str(tmp_path / 'out.png')]) == 0
    assert all(colored(tmp_path / 'out.png', FRAMES[number]) for number in range(2))
    assert plot_training.labels(['a/logs', 'b/logs', 'c/d/']) == ['a/logs', 'b/logs', 'd']


def test_the_legend_has_the_names_of_all_runs():
    names = [f'a_long_name_of_a_run_{number}' for number in range(8)] + ['x' * 100]  # more than there are colours
    picture = plot_training.plot([(name, [(1, 5), (9, 5 + number)]) for number, name in enumerate(names)], 'SSIM')
    places = plot_training.legend('SSIM', names)
    for (_, left, top), (words, x, y) in zip(places, places[1:]):
        assert (y, x) > (top, left) and x + words.width <= picture.width
        box = (x, y, x + words.width, y + words.height)
        assert picture.crop(box).tobytes() == words.tobytes(), 'neither the next line nor a curve lies on it'


def test_ticks_are_round_and_reach_over_the_values():
    assert plot_training.ticks(39.9, 56.2) == pytest.approx([35, 40, 45, 50, 55, 60])
    for low, high in ((0, 3), (0.5812, 0.5817), (24.5, 28.1), (0, 1e6)):
        marks = plot_training.ticks(low, high)
        assert marks[0] <= low + 1e-9 and marks[-1] >= high - 1e-9 and 2 <= len(marks) <= 9


@pytest.mark.parametrize('spoil', ['folder', 'log', 'values', 'infinite', 'step', 'out'])
def test_bad_input_is_one_line_that_names_it(run_folder, tmp_path, capsys, spoil):
    value = {'values': None, 'infinite': float('inf')}.get(spoil, 50.0)
    folder, out = run_folder('run', 'srgan', {'1' if spoil == 'step' else 1: value}), tmp_path / 'out.png'
    if spoil == 'folder':
        folder += '-none'
    if spoil == 'log':
        (tmp_path / 'run' / 'log.txt').write_text('{"iteration": 1')
    if spoil == 'out':
        out.mkdir()
    assert plot_training.main([folder, '--out', str(out)]) == 2
    reported = capsys.readouterr().err
    assert (str(out) if spoil == 'out' else folder) in reported and len(reported.splitlines()) == 1
    assert out.is_dir() == (spoil == 'out') and (spoil == 'out' or not out.exists())


def test_the_last_line_of_a_run_names_the_command(tmp_path, tiny_lmdb, tiny_aster, capsys):
    """Of a recognizer's training too: its accuracy over the epochs becomes a line of as many points."""
    words, val, logs = tiny_lmdb(words=WORDS[:4]), tiny_lmdb('val', WORDS[:1]), str(tmp_path / 'my logs')
    assert main.main(['--arch', 'aster', '--train_data_dir', words, '--val_data_dir', val, '--aster_path', tiny_aster,
                      '--logs_dir', logs, '--batch_size', '4', '--epochs', '2', '--workers', '0', '--device', 'cpu',
                      '--width', '32', '--height', '16', '--ds_scale', '2']) == 0
    python, script, *flags = shlex.split(capsys.readouterr().out.splitlines()[-1].partition('steps: ')[2])
    assert python == 'python3' and Path(script).resolve() == Path(plot_training.__file__).resolve()
    assert plot_training.main(flags) == 0
    assert len(plot_training.read_curve(logs, 'accuracy')[0]) == 2
    assert colored(tmp_path / 'my logs' / 'training.png', FRAMES[0])
