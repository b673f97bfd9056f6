"""Data workers: short of shared memory, killed, stuck."""
import multiprocessing
import os
import resource
import signal
import sys
import time

import pytest
import torch
from helpers import children, processes, wait_for
from torch.utils.data import DataLoader

import main
from lib.checkpoint import load_checkpoint
from lib.datasets import loading
from lib.datasets.lmdb_dataset import LmdbDataset
from lib.datasets.loading import DataWorkerDied, batches, make_loader
from lib.datasets.samples import EvalSamples, PairSamples, collate

CPU = torch.device('cpu')
SIZE = (4, 8)


def no_shared_memory(_):
    """As on a full /dev/shm: files can no longer grow."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))


def flat(batch):
    """The tensors of a batch, in order."""
    return [*batch['original'], *batch['pairs'][SIZE], *(image for image in batch['small'] if image is not None)]


@pytest.mark.parametrize('checked', [True, False])
def test_no_batch_is_lost_without_shared_memory(tiny_lmdb, monkeypatch, checked):
    """Whether it is known before (`room_for`) or found out when it is asked for."""
    samples = EvalSamples(LmdbDataset([tiny_lmdb()]), [SIZE], below=(99, 99))
    alone = list(DataLoader(samples, 2, collate_fn=collate))
    monkeypatch.setattr(loading, 'room_for', lambda size: not checked)
    init = None if checked else no_shared_memory
    worked = list(DataLoader(samples, 2, collate_fn=collate, num_workers=1, worker_init_fn=init, timeout=60))
    assert [batch['label'] for batch in worked] == [batch['label'] for batch in alone]
    for mine, other in zip(worked, alone):
        assert len(flat(mine)) == len(flat(other)) == 5
        assert all(torch.equal(a, b) and a.is_shared() is False for a, b in zip(flat(mine), flat(other)))


def few_files(_):
    """As after `ulimit -n`, with 60 left."""
    taken = set(map(int, os.listdir('/dev/fd')))
    limit = [number for number in range(2000) if number not in taken][60]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))


def test_no_batch_is_lost_where_few_files_may_be_open(tiny_lmdb):
    """In shared memory each picture of its own size would be one."""
    samples = EvalSamples(LmdbDataset([tiny_lmdb()]), [SIZE], below=(99, 99), indices=[0, 1] * 50)
    loader = DataLoader(samples, 100, collate_fn=collate, num_workers=1, worker_init_fn=few_files, timeout=20)
    assert [len(batch['small']) for batch in loader] == [100]


def test_room_is_what_the_system_says(monkeypatch):
    free = os.statvfs('/').f_bavail * os.statvfs('/').f_frsize
    monkeypatch.setattr(loading, 'SHARED_MEMORY', '/')
    assert loading.room_for(free // 20) and not loading.room_for(free)
    monkeypatch.setattr(loading, 'SHARED_MEMORY', '/no such folder')
    assert loading.room_for(free)


@pytest.mark.skipif(not hasattr(os, 'sched_getaffinity'), reason='torch counts the cores of the whole machine')
def test_more_workers_than_cores_are_no_reason_for_a_warning(tiny_lmdb, monkeypatch, recwarn):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda process: {0})
    samples = EvalSamples(LmdbDataset([tiny_lmdb()]), [SIZE])
    assert list(batches(make_loader(samples, 2, CPU, collate))) and not recwarn.list


def test_workers_on_a_system_without_their_signal(monkeypatch):
    """Windows."""
    monkeypatch.delattr(signal, 'SIGCHLD')
    assert [batch.tolist() for batch in batches(DataLoader(torch.arange(4), 2, num_workers=1))] == [[0, 1], [2, 3]]


class Ending(torch.utils.data.Dataset):
    """Its second sample ends the process that reads it."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return index


def test_a_worker_that_is_killed_is_told_when_its_batch_is_due():
    with pytest.raises(DataWorkerDied, match='ended from outside.*fewer --workers') as caught:
        for _ in batches(make_loader(Ending(), 1, CPU, list, batch_size=1)):
            time.sleep(0.5)  # the worker dies meanwhile: nothing is raised here
    assert '\n' not in str(caught.value)


# ------------------------------------------------------------------------------------------------------- whole runs

def training(argv, flag, errors):
    """main.py, whose data workers are stuck as soon as there is a file `flag`; it ends as a command does."""
    read = PairSamples.__getitem__

    def stuck(self, draw):
        if flag.exists():
            time.sleep(1000)
        return read(self, draw)

    PairSamples.__getitem__ = stuck
    multiprocessing.set_start_method('fork', force=True)
    sys.stdout, sys.stderr = open(os.devnull, 'w'), open(errors, 'w', buffering=1)  # noqa: SIM115
    sys.exit(main.main(argv))


@pytest.mark.parametrize('way', ['stuck', 'killed'])
def test_training_saves_its_last_step(tiny_lmdb, tiny_aster, tmp_path, request, way):
    """A data worker that gives no more batches, and one SIGTERM; or one that the system kills."""
    flag, logs, errors = tmp_path / 'flag', tmp_path / 'logs', tmp_path / 'errors.txt'
    argv = ['--train_data_dir', tiny_lmdb(), '--aster_path', tiny_aster, '--arch=srresnet', '--blocks=1', '--maps=4',
            '--width=32', '--height=16', '--batch_size=2', '--epoch_size=40000', '--workers=1', '--device=cpu',
            '--logs_dir', str(logs), '--save_every=1']
    process = processes().Process(target=training, args=(argv, flag, errors))
    process.start()
    request.addfinalizer(process.kill)
    wait_for(lambda: (logs / 'last.pth').exists())
    if way == 'killed':
        worker, = children(process.pid)
        os.kill(worker, signal.SIGKILL)
    else:
        flag.touch()
        before = None
        while before != (logs / 'last.pth').stat().st_mtime_ns:  # until no step is done any more
            before = (logs / 'last.pth').stat().st_mtime_ns
            time.sleep(1)
        os.kill(process.pid, signal.SIGTERM)
    process.join(120)
    err = errors.read_text()
    message = 'a data worker was ended from outside' if way == 'killed' else 'stopped by SIGTERM; go on with --resume'
    assert process.exitcode == (1 if way == 'killed' else 143)
    assert 'Traceback' not in err and err.strip().splitlines()[-1].startswith(f'main.py: {message}')
    progress = load_checkpoint(logs / 'last.pth')['progress']
    assert progress['iteration'] > 0 and progress['samples_seen'] == 2 * progress['iteration']
