"""What differs between systems."""
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lib.runtime import system

ARENAS = '''
import ctypes
import threading
from lib.runtime.system import share_heap
share_heap()
libc = ctypes.CDLL(None)
at_once = threading.Barrier(4)
def take():
    at_once.wait()
    libc.malloc(50_000)
threads = [threading.Thread(target=take) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc.malloc_stats()
'''


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='of glibc')
def test_threads_share_one_heap():
    done = subprocess.run([sys.executable, '-c', ARENAS], capture_output=True, text=True,
                          cwd=Path(__file__).resolve().parents[1])
    assert done.returncode == 0 and done.stderr.count('Arena') == 1


FREED = '''
import ctypes
import resource
from lib.runtime.system import keep_freed_memory
keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(100_000_000)
    ctypes.memset(block, 1, 100_000_000)
    libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
'''


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='of glibc')
def test_freed_memory_is_used_again():
    done = subprocess.run([sys.executable, '-c', FREED], capture_output=True, text=True,
                          cwd=Path(__file__).resolve().parents[1])
    assert int(done.stdout) < 20, 'pages that the system had to clear the second time'


@pytest.mark.parametrize(('largest', 'trim'), [(1 << 31, True), (1 << 25, True), (0, False)])
def test_a_c_library_with_a_limit_keeps_what_it_can(monkeypatch, largest, trim):
    """Before glibc 2.35 no more than 32 MB; the second setting without the first makes it give back more than ever."""
    taken = {}

    class Library:
        def mallopt(self, parameter, value):
            if parameter == -3 and value > largest:
                return 0
            taken[parameter] = value
            return 1

    monkeypatch.setattr(system.ctypes, 'CDLL', lambda name: Library())
    system.keep_freed_memory()
    assert taken == ({-3: min(largest, 1 << 30), -1: 1 << 30} if trim else {})


def test_another_c_library_has_its_own_way(monkeypatch):
    monkeypatch.setattr(system.ctypes, 'CDLL', lambda name: object())
    system.share_heap()
    system.keep_freed_memory()


KEPT = """
from lib.runtime.system import forget_sizes
forget_sizes()
import torch
convolution = torch.nn.Conv2d(3, 16, 9)
with torch.no_grad():
    for width in [*range(18, 88), 18]:
        convolution(torch.rand(1, 3, 12, width))
"""


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason='of oneDNN')
def test_what_was_prepared_for_a_size_is_not_kept(monkeypatch):
    """Where a size comes again after 69 others it is prepared again."""
    for cache in ('ONEDNN_PRIMITIVE_CACHE_CAPACITY', 'LRU_CACHE_CAPACITY'):
        monkeypatch.delenv(cache, raising=False)  # a conversion in this process may have set them
    monkeypatch.setenv('ONEDNN_VERBOSE', '2')
    done = subprocess.run([sys.executable, '-c', KEPT], capture_output=True, text=True,
                          cwd=Path(__file__).resolve().parents[1])
    created = [line for line in done.stdout.splitlines() if ',create' in line and ',convolution,' in line]
    assert len(created) == 71 and 'cache_miss' in created[-1], done.stderr
