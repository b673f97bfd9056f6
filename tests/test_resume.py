"""Runs that are killed, stopped, starved of disk: what is left, and that --resume ends where others end."""
import json
import math
import multiprocessing
import os
import pkgutil
import resource
import shutil
import signal
import sys
import time

import pytest
import torch
from helpers import WORDS, processes, wait_for, word_records, write_lmdb

import main
from lib import engine, trainers
from lib.checkpoint import load_checkpoint
from lib.runtime.logs import RunLog

# 8 words, 4 steps an epoch, 8 steps; a checkpoint every third step, so most lie within an epoch
TINY = ['--arch=srgan', '--blocks=1', '--maps=4', '--disc_maps=2', '--width=32', '--height=16', '--batch_size=2',
        '--epochs=2', '--save_every=3', '--warmup=2', '--workers=0', '--device=cpu', '--degradation=real', '--lr=1e-2']


@pytest.fixture(scope='module')
def words(tmp_path_factory):
    return write_lmdb(tmp_path_factory.mktemp('data') / 'words', word_records())


@pytest.fixture(scope='module')
def flags(words, tiny_aster):
    return ['--train_data_dir', words, '--aster_path', tiny_aster, *TINY]


@pytest.fixture(scope='module')
def with_val(flags, tmp_path_factory):
    val = write_lmdb(tmp_path_factory.mktemp('data') / 'val', word_records(('Up',)))
    return [*flags, '--val_data_dir', val]


def run(flags, folder, *more):
    return main.main([*flags, '--logs_dir', str(folder), *more])


@pytest.fixture(scope='module')
def whole(with_val, tmp_path_factory):
    """The folder of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp('runs') / 'whole'
    assert run(with_val, folder) == 0
    return folder


def equal(a, b):
    if torch.is_tensor(a):
        return torch.is_tensor(b) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b or (a != a and b != b)


def log(folder):
    lines = [json.loads(line) for line in (folder / 'log.txt').read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != 'seconds'} for line in lines]


def assert_same_run(folder, whole):
    """Weights, optimizers, progress and log are equal, bit by bit, and nothing else is left behind."""
    for name in ('last.pth', 'best.pth'):
        if (whole / name).exists():
            assert equal(load_checkpoint(folder / name), load_checkpoint(whole / name)), name
    assert log(folder) == log(whole)
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in whole.iterdir())


def at_call(monkeypatch, target, number, action):
    """Do `action` as the call of that number of 'module.name' or 'module.Class.name' begins."""
    owner, _, name = target.rpartition('.')
    owner = pkgutil.resolve_name(owner)
    function, calls = getattr(owner, name), []

    def wrapper(*args, **kwargs):
        calls.append(name)
        if len(calls) == number:
            action()
        return function(*args, **kwargs)
    monkeypatch.setattr(owner, name, wrapper)


def send(number):
    return lambda: os.kill(os.getpid(), number)


# ------------------------------------------------------------------------------------------------------------ same seed

def test_same_seed_same_run(with_val, whole, tmp_path):
    """Also with the data made in workers, and torch's random numbers drawn from before."""
    torch.rand(5)
    assert run(with_val, tmp_path / 'run', '--workers', '1') == 0
    assert_same_run(tmp_path / 'run', whole)
    assert run(with_val, tmp_path / 'other', '--seed', '2') == 0
    assert not equal(load_checkpoint(tmp_path / 'other' / 'last.pth')['generator'],
                     load_checkpoint(whole / 'last.pth')['generator'])
    assert [entry['iteration'] for entry in log(whole)] == [4, 8]


# -------------------------------------------------------------------------------------------------------------- signals

STEP, OPTIMIZER_STEP = 'lib.trainers.SuperResolutionTrainer.step', 'lib.trainers.OptimizerStep.step'
LOG = 'lib.runtime.logs.RunLog'
SIGNALS = [  # where the signal comes, at which call, the iteration that is saved
    (OPTIMIZER_STEP, 10, 5), ('lib.engine.validate', 1, 4), ('lib.engine.evaluate', 2, 8),
    ('lib.engine.save_checkpoint', 1, 3), (LOG + '.epoch', 1, 4),
]


@pytest.mark.parametrize('target, number, saved', SIGNALS)
def test_stopped_by_a_signal(with_val, whole, tmp_path, monkeypatch, capsys, target, number, saved):
    signum, status = ((signal.SIGINT, 130), (signal.SIGTERM, 143))[number % 2]
    with monkeypatch.context() as patches:
        at_call(patches, target, number, send(signum))
        assert run(with_val, tmp_path / 'run') == status
    assert f'main.py: stopped by {signum.name}; go on with --resume\n' in capsys.readouterr().err
    assert load_checkpoint(tmp_path / 'run' / 'last.pth')['progress']['iteration'] == saved
    assert run(with_val, tmp_path / 'run', '--resume') == 0
    assert_same_run(tmp_path / 'run', whole)


def test_a_signal_at_every_step(flags, tmp_path):
    """Eight stops, and after each the next run goes on."""
    flags = [*flags, '--arch=srresnet']
    assert run(flags, tmp_path / 'whole') == 0
    for step in range(1, 9):
        with pytest.MonkeyPatch.context() as patches:
            at_call(patches, STEP, 1, send(signal.SIGTERM))
            assert run(flags, tmp_path / 'run', '--resume') == 143
        assert load_checkpoint(tmp_path / 'run' / 'last.pth')['progress']['iteration'] == step
    assert run(flags, tmp_path / 'run', '--resume') == 0
    assert_same_run(tmp_path / 'run', tmp_path / 'whole')


def test_a_second_signal_does_not_wait_for_the_step(flags, tmp_path, monkeypatch):
    at_call(monkeypatch, STEP, 5, lambda: (send(signal.SIGINT)(), send(signal.SIGTERM)(), time.sleep(60)))
    assert run(flags, tmp_path) == 143
    assert load_checkpoint(tmp_path / 'last.pth')['progress']['iteration'] == 4


def test_signals_are_those_of_before_when_a_run_is_over(flags, tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert run(flags, tmp_path, '--max_steps', '1') == 0
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.parametrize('more', [
    ['--arch=textsr', '--finetune_aster', '--ema=0.9', '--grad_clip=0.1'],
    ['--arch=aster', '--augmentation=1', '--teacher_dropout=0.5', '--ema=0.9', '--decay_steps=2'],
    ['--arch=srresnet', '--amp=bf16', '--train_shares=1', '--epoch_size=10']], ids=' '.join)
def test_every_kind_of_run_goes_on(flags, tiny_lmdb, tmp_path, monkeypatch, more):
    """Stopped in the middle of the second time through the words."""
    more = ['--train_data_dir', tiny_lmdb(words=WORDS[:4]), '--max_steps=4', '--save_every=2', *more]
    assert run(flags, tmp_path / 'whole', *more) == 0
    with monkeypatch.context() as patches:
        trainer = 'RecognizerTrainer' if '--arch=aster' in more else 'SuperResolutionTrainer'
        at_call(patches, f'lib.trainers.{trainer}.step', 3, send(signal.SIGINT))
        assert run(flags, tmp_path / 'run', *more) == 130
    assert run(flags, tmp_path / 'run', *more, '--resume') == 0
    assert_same_run(tmp_path / 'run', tmp_path / 'whole')


def test_a_resumed_run_takes_the_learning_rates_of_its_flags(flags, tmp_path):
    """From its first step on: rates of next to nothing leave the weights where they are."""
    flags = [*flags, '--arch=textsr', '--finetune_aster', '--aster_lr=1e-2']
    assert run(flags, tmp_path, '--max_steps=1') == 0
    before = load_checkpoint(tmp_path / 'last.pth')
    assert run(flags, tmp_path, '--max_steps=2', '--lr=1e-9', '--aster_lr=2e-9', '--resume') == 0
    after = load_checkpoint(tmp_path / 'last.pth')
    for name in ('generator', 'recognizer'):
        torch.testing.assert_close(after[name], before[name], rtol=1e-5, atol=1e-6)
    for name, rates in (('generator', [1e-9, 2e-9]), ('discriminator', [1e-9])):
        groups = after['updates'][name]['optimizer']['param_groups']
        assert after['updates'][name]['scheduler']['base_lrs'] == [group['initial_lr'] for group in groups] == rates


def test_resume_of_a_finished_run(with_val, whole, tmp_path, capsys):
    shutil.copytree(whole, tmp_path / 'run')
    before = (tmp_path / 'run' / 'last.pth').read_bytes()
    assert run(with_val, tmp_path / 'run', '--resume') == 0
    assert (tmp_path / 'run' / 'last.pth').read_bytes() == before
    assert_same_run(tmp_path / 'run', whole)
    assert run(with_val, tmp_path / 'run', '--resume', '--epochs', '3') == 0
    assert [entry['iteration'] for entry in log(tmp_path / 'run')] == [4, 8, 12]


def test_a_run_without_resume_does_not_write_over_an_older_one(flags, tmp_path, capsys):
    assert run(flags, tmp_path, '--max_steps', '1') == 0
    before = (tmp_path / 'last.pth').read_bytes(), (tmp_path / 'log.txt').read_bytes()
    for _ in range(2):
        assert run(flags, tmp_path, '--max_steps', '1', '--seed', '2') == 0
    older = tmp_path / 'earlier-1'
    assert ((older / 'last.pth').read_bytes(), (older / 'log.txt').read_bytes()) == before
    assert (tmp_path / 'earlier-2' / 'last.pth').exists() and len(log(tmp_path)) == 1
    assert f'is in {older} now' in capsys.readouterr().out


def test_resuming_from_the_best_checkpoint_keeps_the_last(with_val, whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / 'run')
    before = (folder / 'last.pth').read_bytes(), (folder / 'log.txt').read_bytes()
    (folder / 'best.pth').write_bytes(before[0])  # whichever epoch was the best
    assert run(with_val, folder, '--resume', str(folder / 'best.pth')) == 0
    older = folder / 'earlier-1'
    assert ((older / 'last.pth').read_bytes(), (older / 'log.txt').read_bytes()) == before
    assert (folder / 'best.pth').exists()


def test_validation_sees_what_a_test_of_the_checkpoint_sees(with_val, whole, tmp_path):
    """Above all not a generator that is still in training mode."""
    val = with_val[-1]
    assert run(with_val, tmp_path, '--test', '--test_data_dir', val, '--methods', f'srgan={whole / "last.pth"}') == 0
    row, = (row for row in json.loads((tmp_path / 'results.json').read_text()) if row['psnr'] is not None)
    assert row['psnr'] == pytest.approx(log(whole)[-1]['srgan/psnr'], abs=1e-4)


def test_a_run_that_goes_on_in_another_folder_has_a_best_there(with_val, whole, tmp_path):
    epochs = len(log(whole)) + 1
    assert run(with_val, tmp_path, '--resume', str(whole / 'last.pth'), '--epochs', str(epochs)) == 0
    assert load_checkpoint(tmp_path / 'best.pth')['progress']['iteration'] > log(whole)[-1]['iteration']


# ---------------------------------------------------------------------------------------------------------------- kills

def killed_run(flags, target=None, number=0, workers='fork'):
    """What the process that is to be killed does; it leads a group, to which its data workers belong."""
    os.setsid()
    multiprocessing.set_start_method(workers, force=True)
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = open(os.devnull, 'w')  # noqa: SIM115
    if target:
        at_call(pytest.MonkeyPatch(), target, number, send(signal.SIGKILL))
    os._exit(main.main(flags))


KILLS = [  # where SIGKILL comes, at which call; the run is resumed after each
    (LOG + '.start', 1), (STEP, 2), ('os.fsync', 5), ('os.replace', 4), ('lib.engine.save_checkpoint', 2),
    (LOG + '.epoch', 1), ('os.replace', 5), (STEP, 3), ('lib.engine.validate', 1),
]


def test_killed_at_every_kind_of_moment(with_val, whole, tmp_path):
    folder = tmp_path / 'run'
    flags = [*with_val, '--logs_dir', str(folder), '--resume']
    iterations = []
    for target, number in KILLS:
        process = processes().Process(target=killed_run, args=(flags, target, number))
        process.start()
        process.join(120)
        assert process.exitcode == -signal.SIGKILL, (target, number)
        if (folder / 'last.pth').exists():
            iterations.append(load_checkpoint(folder / 'last.pth')['progress']['iteration'])
        if (folder / 'log.txt').exists():
            assert log(folder) == log(whole)[:len(log(folder))]
    assert iterations == sorted(iterations) and len(set(iterations)) > 2
    assert run(flags, folder) == 0
    assert_same_run(folder, whole)


@pytest.mark.parametrize('workers', ['fork', 'forkserver'])  # the second is the default of newer Pythons
def test_data_workers_do_not_outlive_a_killed_run(with_val, whole, tmp_path, workers):
    folder = tmp_path / 'run'
    flags = [*with_val, '--logs_dir', str(folder), '--resume', '--workers', '1']
    process = processes().Process(target=killed_run, args=([*flags, '--epochs=1000'], None, 0, workers))
    process.start()
    wait_for(lambda: (folder / 'last.pth').exists())
    process.kill()
    process.join()
    wait_for(lambda: not group_lives(process.pid), 15)


def group_lives(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_signal_to_the_whole_group(flags, tmp_path):
    """As Ctrl-C in a terminal: the data workers leave it to the main process to finish the step and save."""
    process = processes().Process(target=killed_run, args=(
        [*flags, '--logs_dir', str(tmp_path), '--workers', '2', '--epochs', '1000', '--save_every', '1'],))
    process.start()
    wait_for(lambda: (tmp_path / 'last.pth').exists())
    os.killpg(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130
    assert load_checkpoint(tmp_path / 'last.pth')['progress']['iteration'] >= 1


# ----------------------------------------------------------------------------------------------- full disks and numbers

def limited(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_full_disk(with_val, whole, tmp_path, monkeypatch, capsys):
    """From the sixth step on there is no room for a checkpoint; afterwards the run goes on where it was saved."""
    with monkeypatch.context() as patches:
        at_call(patches, STEP, 6, lambda: limited(30_000))
        try:
            assert run(with_val, tmp_path / 'run') == 2
        finally:
            limited(resource.RLIM_INFINITY)
    assert 'last.pth: could not be written' in capsys.readouterr().err
    assert load_checkpoint(tmp_path / 'run' / 'last.pth')['progress']['iteration'] == 4
    assert log(tmp_path / 'run') == log(whole)[:1]
    assert run(with_val, tmp_path / 'run', '--resume') == 0
    assert_same_run(tmp_path / 'run', whole)


def test_full_disk_for_tensorboard_alone(flags, tmp_path, monkeypatch, capsys):
    at_call(monkeypatch, 'lib.runtime.logs.RunLog.scalars', 2, lambda: limited(100))
    monkeypatch.setattr(engine.Run, 'save', lambda *_: None)
    monkeypatch.setattr(RunLog, '_write', lambda *_: None)
    try:
        assert run(flags, tmp_path, '--arch=srresnet') == 0
    finally:
        limited(resource.RLIM_INFINITY)
    assert capsys.readouterr().err.count('TensorBoard: could not be written') == 1


def finite(value):
    if isinstance(value, dict):
        return all(map(finite, value.values()))
    return not torch.is_tensor(value) or bool(torch.isfinite(value.float()).all())


def test_a_loss_that_is_not_finite_ends_the_run(flags, tmp_path, monkeypatch, capsys):
    calls, content_loss = [], trainers.content_loss

    def broken(sr, hr):
        calls.append(1)
        return content_loss(sr, hr) * (math.nan if len(calls) == 6 else 1)
    monkeypatch.setattr(trainers, 'content_loss', broken)
    assert run(flags, tmp_path) == 1
    err = capsys.readouterr().err
    assert 'main.py: the content loss is' in err and 'the last checkpoint is kept' in err
    state = load_checkpoint(tmp_path / 'last.pth')
    assert state['progress']['iteration'] == 4 and finite(state) and len(log(tmp_path)) == 1


def test_a_run_that_diverges_keeps_a_finite_checkpoint(flags, tmp_path):
    assert run(flags, tmp_path, '--arch=srresnet', '--lr=1e25', '--warmup=0', '--epochs=40', '--save_every=1') == 1
    assert finite(load_checkpoint(tmp_path / 'last.pth'))


def test_exploding_gradients(flags, tmp_path, capsys):
    assert run(flags, tmp_path / 'a', '--arch=srresnet', '--content_weight=1e15', '--grad_clip=1', '--epochs=1') == 0
    assert finite(load_checkpoint(tmp_path / 'a' / 'last.pth')) and log(tmp_path / 'a')[0]['gradient'] > 1e10
    assert run(flags, tmp_path / 'b', '--arch=srresnet', '--content_weight=1e38', '--epochs=1') == 1
    assert 'the gradient is not finite' in capsys.readouterr().err


@pytest.mark.skipif(torch.__version__ < (2, 3), reason='fp16 on CPUs')
def test_fp16_overflow_is_skipped_and_counted(flags, tmp_path):
    """The scale starts at 65536 and with this weight the first gradients overflow; the weights stay finite."""
    more = ['--arch=srresnet', '--amp=fp16', '--content_weight=1e32']
    assert run(flags, tmp_path, *more) == 0
    state = load_checkpoint(tmp_path / 'last.pth')
    skipped = [entry['skipped'] for entry in log(tmp_path)]
    assert skipped[-1] == state['updates']['generator']['skipped'] > 0 and skipped == sorted(skipped)
    assert finite(state['generator']) and state['updates']['generator']['scaler']['scale'] < 65536
