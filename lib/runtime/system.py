"""What Linux, macOS and Windows do differently, and how processes end with their parent."""
import ctypes
import multiprocessing
import os
import threading

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


def available_cores():
    """The number of cores that this process may use."""
    if hasattr(os, 'sched_getaffinity'):  # Linux: less than all of them in a container or under taskset
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def share_heap():
    """Let all threads take memory from one heap, where the C library is glibc.

    Otherwise each keeps what it has freed in a heap of its own: a tenth of the memory of a conversion, at no gain in
    time. Call before threads are started.
    """
    _mallopt(-8, 1)  # M_ARENA_MAX


def keep_freed_memory():
    """Let the C library keep what is freed for the next use, where it is glibc.

    Otherwise it gives large blocks back to the system, which clears every page of the next one: some 5 % of the time of
    training on a CPU.
    """
    # M_MMAP_THRESHOLD: before glibc 2.35 up to 32 MB; M_TRIM_THRESHOLD alone would leave the other at 128 kB for good
    if _mallopt(-3, 1 << 30) or _mallopt(-3, 1 << 25):
        _mallopt(-1, 1 << 30)


def _mallopt(parameter, value):
    """Set a parameter of glibc's malloc; returns whether it was, False with another C library."""
    try:
        return bool(ctypes.CDLL(None).mallopt(parameter, value))
    except (AttributeError, OSError, TypeError):
        return False


def forget_sizes():
    """Let oneDNN keep what it has prepared for 64 operations, instead of 1,024: each size of a batch needs its own.

    Otherwise the memory of a conversion grows with the number of sizes, by hundreds of megabytes. Call before torch is
    imported; what the environment says already stays.
    """
    for cache in ('ONEDNN_PRIMITIVE_CACHE_CAPACITY', 'LRU_CACHE_CAPACITY'):
        os.environ.setdefault(cache, '64')


def end_with_parent():
    """For worker processes: end when the parent does. A killed parent cannot stop them: they would wait for ever."""
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def hold(path):
    """Lock a file or folder against other calls of this function, in any process, until the process ends.

    Returns the descriptor to close for an earlier end; None on Windows, where nothing is locked. BlockingIOError while
    another one holds it.
    """
    if fcntl is None:
        return None
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def sync_folder(path):
    """Make renames in a folder survive a power cut; does nothing on Windows, which cannot open a folder."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
