"""Short runs of main.py as a whole: what they show, and what they make of damaged records."""
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import word_records, write_lmdb
from torch.utils._python_dispatch import TorchDispatchMode

import main
from lib import engine
from lib.checkpoint import load_checkpoint, load_generator
from lib.runtime.system import hold

ROOT = Path(__file__).resolve().parents[1]

# 8 words, 4 steps an epoch, 8 steps
TINY = ['--arch=srgan', '--blocks=1', '--maps=4', '--disc_maps=2', '--width=32', '--height=16', '--batch_size=2',
        '--epochs=2', '--warmup=2', '--workers=0', '--device=cpu']


@pytest.fixture
def flags(tiny_lmdb, tiny_aster):
    return ['--train_data_dir', tiny_lmdb(), '--aster_path', tiny_aster, *TINY]


class Operations(TorchDispatchMode):
    """Notes the names of the operations that are run, backward too."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


# their backward adds up in no fixed order on CUDA: what torch.use_deterministic_algorithms lists, of what is used here
UNORDERED = {'grid_sampler_2d_backward', 'upsample_bilinear2d_backward', '_upsample_bilinear2d_aa_backward',
             'upsample_bicubic2d_backward', '_upsample_bicubic2d_aa_backward', 'reflection_pad2d_backward',
             'replication_pad2d_backward', '_adaptive_avg_pool2d_backward', 'nll_loss2d_forward'}


@pytest.mark.parametrize('deterministic', [[], ['--deterministic']])
def test_deterministic_training_has_no_operation_that_cuda_sums_up_in_no_order(flags, tmp_path, deterministic):
    torch.manual_seed(0)
    with Operations() as run_through:
        try:
            assert run(flags, tmp_path, '--arch=textsr', '--tpl_perturbation=1', '--max_steps=2', *deterministic) == 0
        finally:
            torch.use_deterministic_algorithms(False)
    assert 'convolution_backward' in run_through.names
    assert bool(UNORDERED & run_through.names) != bool(deterministic)


def test_losses_that_are_read_seldom_are_logged_all_the_same(flags, tmp_path):
    for every in ('1', '3'):
        assert run(flags, tmp_path / every, '--grad_clip=1', '--log_every', every, '--save_every=2') == 0
    each, third = ([{**entry, 'seconds': 0} for entry in log(tmp_path / every)] for every in ('1', '3'))
    assert each == third and each[0]['gradient'] > 0


def test_cudnn_searches_for_kernels_in_training_alone(flags, tmp_path, monkeypatch):
    seen = []
    for place in ('train_one_epoch', 'validate', 'test'):
        function = getattr(engine, place)
        monkeypatch.setattr(engine, place, lambda *args, place=place, function=function, **keywords: (
            seen.append((place, torch.backends.cudnn.benchmark)), function(*args, **keywords))[1])
    words = flags[1]
    assert run(flags, tmp_path, '--epochs=1', '--val_data_dir', words, '--test_data_dir', words) == 0
    assert seen == [('train_one_epoch', True), ('validate', True), ('test', False)]


@pytest.mark.parametrize('more, method', [([], 'srgan'), (['--arch=aster'], 'none'),
                                          (['--arch=aster', '--read_reduced'], 'bicubic')])
def test_the_best_weights_are_chosen_by_what_is_trained(more, method, flags, tmp_path, monkeypatch):
    names = [f'{name}/accuracy' for name in ('none', 'bicubic', 'srgan')]
    figures = iter({**dict.fromkeys(names, others), f'{method}/accuracy': own}
                   for others, own in ((0.1, 0.4), (0.9, 0.2)))
    monkeypatch.setattr(engine, 'validate', lambda *_: next(figures))
    assert run(flags, tmp_path, '--val_data_dir', flags[1], *more) == 0
    assert load_checkpoint(tmp_path / 'best.pth')['progress']['best'] == 0.4


def run(flags, folder, *more):
    return main.main([*flags, '--logs_dir', str(folder), *more])


def log(folder):
    return [json.loads(line) for line in (folder / 'log.txt').read_text().splitlines()]


def test_progress_does_not_fill_a_file_with_every_step(flags, tmp_path, capsys):
    assert run(flags, tmp_path / 'logs', '--warmup=9') == 0
    out, err = capsys.readouterr()
    assert '--warmup 9: more than the 8 steps, so the learning rate never gets to --lr 0.0001' in out
    shown = [line for line in re.split('[\r\n]', err) if 'gradient=' in line]
    assert 2 <= len(shown) <= 4 and 'discriminator=' in shown[-1], 'of 8 steps in 2 epochs'


def test_augmentation_changes_what_a_generator_trains_on_and_is_off_by_default(flags, tmp_path):
    content = []
    for number, more in enumerate(([], ['--augmentation', '0'], ['--augmentation', '1'])):
        assert run(flags, tmp_path / str(number), '--arch=srresnet', '--epochs=1', *more) == 0
        content.append([entry['content'] for entry in log(tmp_path / str(number))])
    assert content[0] == content[1] != content[2]


def test_characters_are_withheld_from_the_recognizer_in_its_own_training(flags, tmp_path):
    totals = []
    for share in ('0', '0.9'):
        assert run(flags, tmp_path / share, '--arch=aster', '--max_steps=1', '--teacher_dropout', share) == 0
        totals.append(log(tmp_path / share)[0]['total'])
    assert totals[0] != totals[1]


def test_a_second_run_in_the_same_folder_is_refused(flags, tmp_path, capsys):
    (tmp_path / 'log.txt').write_text('{"epoch": 0}\n')
    descriptor = hold(tmp_path)
    try:
        assert run(flags, tmp_path) == 2
    finally:
        os.close(descriptor)
    assert f'--logs_dir {tmp_path}: another run is at work there' in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(('log.txt', 'earlier'))] == ['log.txt']
    assert run(flags, tmp_path) == 0  # the first one let go
    assert (tmp_path / 'earlier-1/log.txt').read_text() == '{"epoch": 0}\n', 'a log without its checkpoint'


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


@pytest.mark.parametrize('more, numbers', [([], range(1, 8)), (['--arch=aster'], (2,))])  # which has batch norm
def test_training_past_a_batch_of_which_too_few_words_are_read(flags, tmp_path, more, numbers):
    assert run(flags, tmp_path / 'run', *more, '--train_data_dir', damaged(tmp_path, numbers)) == 0
    entries = [(entry['unreadable'], entry['iteration']) for entry in log(tmp_path / 'run')]
    assert entries == [(len(numbers), 4), (len(numbers), 8)]


def test_nothing_to_train_on(flags, tmp_path, capsys):
    data = damaged(tmp_path, range(1, 9))
    assert run(flags, tmp_path / 'run', '--train_data_dir', data) == 1
    assert f'main.py: {data}: too few words of the epoch could be read for one step' in capsys.readouterr().err


@pytest.mark.parametrize('more', [[], ['--test', '--methods', 'bicubic']])
def test_too_little_memory_is_told_in_one_line(flags, tmp_path, tiny_lmdb, capsys, monkeypatch, more):
    monkeypatch.setattr(engine, 'make_loader', lambda *_, **__: torch.empty(2 ** 50))
    monkeypatch.setattr('lib.build.make_loader', lambda *_, **__: torch.empty(2 ** 50))
    folders = ['--test_data_dir', tiny_lmdb('test')] if more else []
    assert main.main([*flags, '--logs_dir', str(tmp_path / 'run'), *folders, *more]) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith(f'main.py: out of memory; a smaller {"--test_batch_size" if more else "--batch_size"} or')


def test_testing_counts_what_could_be_read(flags, tmp_path, capsys):
    data, ruin = damaged(tmp_path, (3, 8)), damaged(tmp_path, range(1, 9), 'ruin')
    test = ['--test', '--methods', 'bicubic', '--single_test', '--test_data_dir']
    assert run(flags, tmp_path, *test, data) == 0
    out, err = capsys.readouterr()
    assert 'damaged: 2 of 8 records could not be read' in err and err.count('unreadable, not counted') == 2
    rows = json.loads((tmp_path / 'results.json').read_text())
    assert {row['words'] for row in rows} == {6} and '| damaged | 6 | bicubic |' in out
    assert 'below 64x32' in {row['lr_size'] for row in rows}
    assert run(flags, tmp_path / 'none', *test, ruin) == 1
    assert 'not one word could be read' in capsys.readouterr().err
    assert not (tmp_path / 'none').exists()


def test_the_words_of_a_demo_are_rendered_where_they_are_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'dataset/demo_val').mkdir(parents=True)
    (tmp_path / 'dataset/demo_val/data.mdb').touch()
    commands, statuses = [], iter([0, 1])
    monkeypatch.setattr(subprocess, 'run', lambda command: commands.append(command)
                        or subprocess.CompletedProcess(command, next(statuses)))
    main.render_words()
    with pytest.raises(OSError, match='demo_train: utils/render_words.py could not render it'):
        main.render_words()
    train = ['--out', './dataset/demo_train', '--count', '2400', '--seed', '1']
    assert [command[2:] for command in commands] == [train, train]


@pytest.mark.parametrize(('scale', 'methods'), [('2', ['bicubic', 'textsr_x2']),
                                                ('4', ['bicubic', 'srgan', 'textsr_32x8', 'textsr'])])
def test_a_test_takes_the_shipped_generators_of_the_scale(scale, methods, flags, tmp_path, tiny_lmdb):
    assert main.main([*flags, '--test', '--ds_scale', scale, '--test_data_dir', tiny_lmdb('one', ['sun']), '--logs_dir',
                      str(tmp_path / 'out')]) == 0
    rows = json.loads((tmp_path / 'out' / 'results.json').read_text())
    assert [row['method'] for row in rows if row['method'] != 'none'] == methods


def test_testing_from_another_folder_with_the_default_recognizer(tmp_path, tiny_lmdb):
    (tmp_path / 'torchvision.py').write_text('raise ImportError("for the VGG loss alone")')
    flags = ['--test', '--methods', 'bicubic', '--test_data_dir', tiny_lmdb(words=['sun', 'Moon']), '--workers', '0']
    done = subprocess.run([sys.executable, str(ROOT / 'main.py'), *flags], cwd=tmp_path, capture_output=True, text=True,
                          env={**os.environ, 'PYTHONPATH': str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert '| words | 2 | bicubic |' in done.stdout
    assert done.stdout.strip() == (tmp_path / 'logs' / 'results.md').read_text().strip()


def test_compiled_networks_learn_and_are_saved_as_all_others(flags, tmp_path, monkeypatch):
    """In a process that has imported no compiler yet. Traced only: code takes a minute and a C++ compiler."""
    few = [1, 2]  # of the discriminator's seven layers of a kind: each of its four graphs takes seconds to trace
    monkeypatch.setattr('lib.models.discriminator.range', lambda *_: few, raising=False)
    code = ('import sys, torch, functools, lib.models.discriminator, main\n'
            f'lib.models.discriminator.range = lambda *_: {few}\n'
            'torch.compile = functools.partial(torch.compile, backend="aot_eager")\n'
            'sys.exit(main.main(sys.argv[1:]))')
    flags = [*flags, '--amp=off', '--hr_sizes', '32x16', '48x16']
    assert run(flags, tmp_path / 'plain') == 0
    flags += ['--logs_dir', str(tmp_path / 'compiled'), '--compile']
    subprocess.run([sys.executable, '-c', code, *flags], cwd=ROOT, check=True)
    plain, compiled = (load_checkpoint(tmp_path / name / 'last.pth') for name in ('plain', 'compiled'))
    for network in ('generator', 'discriminator'):
        assert list(compiled[network]) == list(plain[network])
        change = torch.cat([(compiled[network][name] - value).abs().flatten().float()
                            for name, value in plain[network].items()])
        # not all: of a gradient that is nearly zero, rounding decides in which direction Adam makes its full step
        assert change.quantile(0.95) < 1e-5, f'{network}: a tenth of the learning rate'
    load_generator(tmp_path / 'compiled' / 'last.pth')


def test_deterministic_runs_are_equal_to_the_last_bit(flags, tmp_path, device):
    flags, states = [*flags, '--device', device.type], []
    for name in ('one', 'two'):
        assert run(flags, tmp_path / name, '--deterministic') == 0
        assert torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.benchmark
        states.append(load_checkpoint(tmp_path / name / 'last.pth'))
    for network in ('generator', 'discriminator'):
        torch.testing.assert_close(states[0][network], states[1][network], rtol=0, atol=0)
    assert run(flags, tmp_path / 'three', '--max_steps=1') == 0
    assert not torch.are_deterministic_algorithms_enabled()
