"""Batches from data workers: none is lost when shared memory is short, a worker that dies is reported in one line."""
import contextlib
import multiprocessing
import os
import signal
import threading
import warnings

import torch
from torch.utils.data import DataLoader, get_worker_info

from lib.runtime.interruption import follow_main_process

SHARED_MEMORY = '/dev/shm'  # where Linux keeps it
SPARE = 8  # times the size of a tensor that must be free there: others are on their way, and other workers fill it too


class DataWorkerDied(OSError):
    """A data worker ended, or was ended by the system, before it gave its batch."""


class ByValue:
    """A tensor that goes to another process as bytes through a pipe, without shared memory; it arrives as a tensor."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __reduce__(self):
        return torch.from_numpy, (self.tensor.numpy(),)


def room_for(size):
    """Whether shared memory has room for `size` bytes and others to come."""
    try:
        status = os.statvfs(SHARED_MEMORY)
    except (OSError, AttributeError):  # no such folder on macOS, no statvfs on Windows
        return True
    return status.f_bavail * status.f_frsize >= SPARE * size


def stack(tensors):
    """torch.stack of equal shapes; in a data worker, in memory that is shared with the main process or `ByValue`.

    Left to itself torch asks for shared memory only when it sends a batch, in a thread of the worker: where there is
    none left, as in a container of 64 MB, that thread loses the batch and the main process waits for it for ever.
    """
    if get_worker_info() is None:
        return torch.stack(tensors)
    shape, first = (len(tensors), *tensors[0].shape), tensors[0]
    if room_for(len(tensors) * first.numel() * first.element_size()):
        with contextlib.suppress(RuntimeError):  # another process was faster
            return torch.stack(tensors, out=torch.empty(shape, dtype=first.dtype).share_memory_())
    return ByValue(torch.stack(tensors))


def alone(tensor):
    """One of many tensors of different shapes, as it is; in a data worker `ByValue`.

    In shared memory each would hold a file descriptor, of which a process may often have only 1,024: beyond them the
    batch would be lost as in `stack`.
    """
    return tensor if get_worker_info() is None else ByValue(tensor)


def make_loader(samples, workers, device, collate_fn, **options):
    """A DataLoader for the device whose workers end with this process and leave signals to it."""
    # at each start of workers: there are more than cores; how many is the user's choice
    warnings.filterwarnings('ignore', 'This DataLoader will create', UserWarning)
    return DataLoader(samples, num_workers=workers, collate_fn=collate_fn, pin_memory=device.type == 'cuda',
                      worker_init_fn=follow_main_process, **options)


def batches(loader, waiting=contextlib.nullcontext):
    """Yield the batches of a DataLoader. `waiting`: a context that is entered while one is waited for.

    DataWorkerDied where a worker does.
    """
    others = set(multiprocessing.active_children())
    iterator = iter(loader)
    workers = set(multiprocessing.active_children()) - others
    if hasattr(signal, 'SIGCHLD') and loader.num_workers and threading.current_thread() is threading.main_thread():
        # torch raises as soon as a worker ends, in the middle of a step; without that, when its batch is waited for
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    while True:
        try:
            with waiting():
                batch = next(iterator, None)
        except Exception as error:  # of many kinds: it may have died while it wrote
            for worker in workers:
                worker.join(0.1)  # a dying one shuts its pipe first
            if not any(worker.exitcode for worker in workers):
                raise
            raise DataWorkerDied('a data worker was ended from outside; if the system ran out of memory, fewer '
                                 '--workers or a smaller batch need less') from error
        if batch is None:
            return
        yield batch
