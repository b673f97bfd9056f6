"""Two processes on the CPU, as torchrun would start them, against one."""
import json
import math
import os
import socket
import sys
import traceback
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from helpers import TINY_ASTER, processes
from torch import nn

import main
from lib import build, trainers
from lib.checkpoint import load_checkpoint, load_generator
from lib.models.aster import Aster
from lib.runtime import distributed

SMALL = ['--blocks', '1', '--maps', '8', '--disc_maps', '4', '-j', '0', '--lr', '1e-4', '--warmup', '0', '--height',
         '16', '--width', '32', '--ds_scale', '2', '--test_batch_size', '3']


def free_port():
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return str(free.getsockname()[1])


def _process(function, arguments, rank, port, folder):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
    status = 1
    torch.set_num_threads(1)  # as conftest.py sets it
    with open(folder / f'rank{rank}.txt', 'w') as sys.stdout:
        sys.stderr = sys.stdout
        try:
            torch.save(function(*arguments), folder / f'rank{rank}.pt')
            status = 0
        except Exception:
            traceback.print_exc()
    os._exit(status)


def in_two_processes(folder, function, *arguments):
    """What `function` returns in each of two processes; `dist` is for it to join."""
    folder.mkdir(exist_ok=True)
    port = free_port()
    ranks = [processes().Process(target=_process, args=(function, arguments, rank, port, folder)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(300)
        if process.is_alive():
            process.kill()
    texts = [(folder / f'rank{rank}.txt').read_text() for rank in range(2)]
    assert [process.exitcode for process in ranks] == [0, 0], '\n'.join(texts)
    return [SimpleNamespace(result=torch.load(folder / f'rank{rank}.pt'), text=texts[rank]) for rank in range(2)]


def run(argv):
    """main.py in this process: its status and, where it trained, the state of its networks."""
    kept, make = [], build.build_trainer

    def build_and_keep(*args):
        kept.append(make(*args))
        return kept[-1]

    build.build_trainer = build_and_keep
    try:
        status = main.main([str(word) for word in argv])
    finally:
        build.build_trainer = make
    return status, {name: value for name, value in kept[0].state_dict().items() if name != 'updates'} if kept else {}


def run_two(folder, argv):
    return in_two_processes(folder, run, argv)


def log_of(folder):
    return [json.loads(line) for line in (folder / 'log.txt').read_text().splitlines()]


def same(state, other):
    return all(torch.equal(state[network][name], other[network][name]) for network in state for name in state[network])


# The order of the gradients' sums differs; Adam makes much of that in gradients near zero, so what is compared is what
# the networks do and not their parameters.
def test_two_processes_train_as_one_on_the_same_global_batch(tmp_path, tiny_lmdb, tiny_aster):
    words = tiny_lmdb()
    argv = ['--train_data_dir', words, '--val_data_dir', words, '--aster_path', tiny_aster, '--epochs', '2',
            '--amp', 'off', '--tpl_perturbation', '0', *SMALL]
    ranks = run_two(tmp_path / 'processes', [*argv, '--sync_bn', '--batch_size', '2', '--logs_dir', tmp_path / 'two'])
    (status0, state0), (status1, state1) = ranks[0].result, ranks[1].result
    assert (status0, status1) == (0, 0)
    assert set(state0) == {'generator', 'discriminator'}
    assert same(state0, state1)
    assert run([*argv, '--batch_size', '4', '--logs_dir', tmp_path / 'one'])[0] == 0

    two, one = log_of(tmp_path / 'two'), log_of(tmp_path / 'one')
    assert two[-1]['iteration'] == one[-1]['iteration'] == 4
    for of_two, of_one in zip(two, one):
        assert set(of_two) == set(of_one)
        for name in set(of_one) - {'seconds'}:
            assert of_two[name] == pytest.approx(of_one[name], rel=1e-3, abs=1e-4), name
    images = torch.rand(2, 3, 8, 16)
    sr_two, sr_one = (load_generator(tmp_path / name / 'last.pth').eval()(images) for name in ('two', 'one'))
    assert (sr_two - sr_one).abs().max() < 1e-3
    first = load_checkpoint(tmp_path / 'two' / 'last.pth')['progress']
    assert first['epoch'] == 2 and first['samples_seen'] == 0


@pytest.mark.parametrize('flags', ['--arch srresnet --ema 0.9', '--arch aster --ema 0.9',
                                   '--arch textsr --finetune_aster'])
def test_processes_end_with_equal_networks(tmp_path, tiny_lmdb, tiny_aster, flags):
    words = tiny_lmdb()
    argv = ['--train_data_dir', words, '--aster_path', tiny_aster, '--epochs', '1', '--batch_size', '2',
            '--logs_dir', tmp_path / 'logs', *SMALL, *flags.split()]
    (status0, state0), (status1, state1) = (rank.result for rank in run_two(tmp_path / 'processes', argv))
    assert (status0, status1) == (0, 0)
    assert same(state0, state1)
    saved = load_checkpoint(tmp_path / 'logs' / 'last.pth')
    assert same({name: saved[name] for name in state0}, state0)


@pytest.mark.parametrize('flags, damaged', [('--arch srresnet --batch_size 1', (1, 2, 3)),
                                            ('--arch aster --batch_size 2', (1,))])
def test_a_batch_with_too_few_pictures_on_one_process_stops_none(tmp_path, tiny_lmdb, tiny_aster, flags, damaged):
    words = tiny_lmdb(changes={f'image-{number:09d}': b'damaged' for number in damaged})
    argv = ['--train_data_dir', words, '--aster_path', tiny_aster, '--epochs', '2', *SMALL, *flags.split(),
            '--logs_dir', tmp_path / 'logs']
    ranks = run_two(tmp_path / 'processes', argv)
    assert [rank.result[0] for rank in ranks] == [0, 0]
    assert sum(entry['unreadable'] for entry in log_of(tmp_path / 'logs')) == 2 * len(damaged)


def test_one_word_is_enough_where_batch_norm_sees_those_of_other_processes():
    recognizer, cpu = nn.Sequential(nn.BatchNorm1d(1)), torch.device('cpu')
    assert trainers.RecognizerTrainer({'recognizer': recognizer}, {}, cpu, None).least_words == 2
    recognizer = distributed.sync_batch_norm(recognizer, cpu)
    assert trainers.RecognizerTrainer({'recognizer': recognizer}, {}, cpu, None).least_words == 1


def run_with_nan_on_rank_1(argv):
    content_loss, steps = trainers.content_loss, []

    def broken(sr, hr):
        steps.append(1)
        return content_loss(sr, hr) * (math.nan if os.environ['RANK'] == '1' and len(steps) == 2 else 1)

    trainers.content_loss = broken
    return run(argv)[0]


def test_a_loss_that_is_nan_on_one_process_stops_all_with_one_message(tmp_path, tiny_lmdb, tiny_aster):
    argv = ['--arch', 'srresnet', '--train_data_dir', tiny_lmdb(), '--aster_path', tiny_aster, '--epochs', '2', *SMALL,
            '--batch_size', '2', '--logs_dir', tmp_path / 'logs', '--save_every', '1']
    ranks = in_two_processes(tmp_path / 'processes', run_with_nan_on_rank_1, argv)
    assert [rank.result for rank in ranks] == [1, 1]
    assert all('main.py: the content loss is nan; the last checkpoint is kept' in rank.text for rank in ranks)
    assert load_checkpoint(tmp_path / 'logs' / 'last.pth')['progress']['iteration'] == 1


def test_table_of_two_processes_equals_that_of_one(tmp_path, tiny_lmdb, tiny_aster):
    words = tiny_lmdb('a', ('sun', 'Moon', 'ab1', 'K9', 'rain', 'wet'), changes={'image-000000006': b'damaged'})
    sets = [f'a={words}', f'b={tiny_lmdb("b", words=("no",))}']
    argv = ['--test', '--methods', 'bicubic', '--aster_path', tiny_aster, '--single_test', *SMALL,
            '--test_data_dir', *sets]
    ranks = run_two(tmp_path / 'processes', [*argv, '--logs_dir', tmp_path / 'two'])
    assert [rank.result[0] for rank in ranks] == [0, 0]
    assert run([*argv, '--logs_dir', tmp_path / 'one'])[0] == 0
    table = (tmp_path / 'one' / 'results.md').read_text()
    assert 'below 64x32' in table and '| a | 5 |' in table and '| b | 1 |' in table and '| combined | 6 |' in table
    assert (tmp_path / 'two' / 'results.md').read_text() == table
    assert ranks[0].text.strip().endswith(table.strip()) and 'a: 1 of 6 records could not be read' in ranks[0].text
    assert ranks[1].text == ''


@pytest.mark.parametrize('first', [1, 2])
def test_a_run_goes_on_with_another_number_of_processes(tmp_path, tiny_lmdb, tiny_aster, first):
    logs = tmp_path / 'logs'
    argv = ['--arch', 'srresnet', '--train_data_dir', tiny_lmdb(), '--aster_path', tiny_aster, *SMALL,
            '--batch_size', '2', '--logs_dir', logs]
    runs = {1: lambda argv: run(argv)[0], 2: lambda argv: run_two(tmp_path / 'processes', argv)[0].result[0]}
    steps = {1: 4, 2: 2}  # of an epoch of eight words
    assert runs[first]([*argv, '--epochs', '1']) == 0
    assert load_checkpoint(logs / 'last.pth')['progress']['iteration'] == steps[first]
    assert runs[3 - first]([*argv, '--epochs', '3', '--resume']) == 0
    state, all_steps = load_checkpoint(logs / 'last.pth'), 3 * steps[3 - first]
    assert state['progress']['epoch'] == 3 and state['progress']['iteration'] == all_steps
    assert state['updates']['generator']['scheduler']['last_epoch'] == all_steps
    assert [entry['epoch'] for entry in log_of(logs)] == [0, 1, 2]


def _global_batch_norm(x, weight):
    distributed.setup(torch.device('cpu'))
    part = slice(1) if dist.get_rank() == 0 else slice(1, None)
    results = []
    for batch in (x, x.bfloat16()):  # the second as under autocast
        network = distributed.sync_batch_norm(nn.Sequential(nn.BatchNorm2d(3)), torch.device('cpu'))
        mine = batch[part].clone().requires_grad_()
        y = network(mine)
        (y * weight[part]).sum().backward()
        results.append((y.detach(), mine.grad, network.state_dict()))
    distributed.shutdown()
    return results


def test_batch_norm_over_processes_equals_that_over_the_whole_batch(tmp_path):
    torch.manual_seed(0)
    x, weight = torch.randn(2, 5, 3, 4, 6).flatten(0, 1)[:4] * 3 + 2, torch.randn(4, 3, 4, 6)
    ranks, halves = zip(*(rank.result for rank in in_two_processes(tmp_path, _global_batch_norm, x, weight)))
    norm, whole = nn.Sequential(nn.BatchNorm2d(3)), x.clone().requires_grad_()
    y = norm(whole)
    (y * weight).sum().backward()
    torch.testing.assert_close(torch.cat([rank[0] for rank in ranks]), y)
    torch.testing.assert_close(torch.cat([rank[1] for rank in ranks]), whole.grad)
    for rank in ranks:
        torch.testing.assert_close(dict(rank[2]), dict(norm.state_dict()))
    half = torch.cat([rank[0] for rank in halves])
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), y, atol=0.02, rtol=0.02)


def _reduce(_):
    distributed.setup(torch.device('cpu'))
    rank = distributed.rank()
    norm = nn.BatchNorm1d(1)
    norm.running_mean.fill_(rank)
    distributed.average_buffers(norm)
    result = (distributed.gather([rank, 'x'][:rank + 1]), distributed.any_process(rank == 1),
              distributed.any_process(None), distributed.mean([torch.tensor(float(rank)), torch.tensor(4.0)]),
              float(norm.running_mean))
    distributed.shutdown()
    return result


def test_what_processes_tell_each_other(tmp_path):
    for rank in in_two_processes(tmp_path, _reduce, None):
        assert rank.result == ([0, 1, 'x'], True, False, [0.5, 4.0], 0.5)


def test_constants_are_not_averaged(monkeypatch):
    """The sum of three equal numbers, divided by three, may differ from them in its last bit."""
    monkeypatch.setattr(distributed, 'world', lambda: 3)
    monkeypatch.setattr(dist, 'all_reduce', lambda buffer: buffer.mul_(3))
    tps = Aster(**TINY_ASTER).tps
    before = {name: buffer.clone() for name, buffer in tps.named_buffers()}
    distributed.average_buffers(tps)
    assert before and all(torch.equal(buffer, before[name]) for name, buffer in tps.named_buffers())


def test_one_process_needs_no_group(monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '')
    distributed.setup(torch.device('cpu'))
    norm = nn.BatchNorm1d(1)
    assert distributed.rank() == 0 and distributed.world() == 1
    assert distributed.gather([1]) == [1]
    assert distributed.any_process(3) and not distributed.any_process(None)
    assert distributed.mean([torch.tensor(1.0)]) == [1.0] and distributed.mean([]) == []
    assert distributed.wrap(norm, torch.device('cpu')) is norm is distributed.unwrap(norm)


@pytest.mark.parametrize(('backend', 'together', 'left'), [
    ('cpu:gloo,cuda:nccl', True, True), ('cpu:gloo,cuda:nccl', False, False), ('gloo', False, True)])
def test_a_process_that_fails_alone_does_not_wait_for_the_others(backend, together, left, monkeypatch):
    destroyed = []
    monkeypatch.setattr(dist, 'is_initialized', lambda: True)
    monkeypatch.setattr(dist, 'get_backend', lambda: backend)
    monkeypatch.setattr(dist, 'destroy_process_group', lambda: destroyed.append(backend))
    distributed.shutdown(together)
    assert bool(destroyed) == left
