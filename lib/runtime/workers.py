"""One pool of worker processes for the data commands."""
import multiprocessing
import signal
from collections import deque
from concurrent.futures import ProcessPoolExecutor

from lib.runtime.system import end_with_parent


def in_order(function, items, workers, start_method=None, initializer=None):
    """Yield function(item) for each item in turn, computed in `workers` processes, or in this one where workers is 0.

    No more than 2 * workers + 1 items are taken ahead, so memory does not grow with their number. start_method:
    'spawn' for workers that get no copy of what this process holds in memory. initializer: called first in each worker.
    A signal stops this process, which stops the workers; they also end where it is killed. BrokenProcessPool where a
    worker is killed.
    """
    if not workers:
        if initializer:
            initializer()
        yield from map(function, items)
        return
    context = multiprocessing.get_context(start_method)
    pool = ProcessPoolExecutor(workers, context, _start_worker, (initializer,))
    waiting = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(initializer):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it may go to the whole group; the parent decides when to stop
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent()
    if initializer:
        initializer()
