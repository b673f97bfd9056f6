"""What differs between systems."""
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from lib.runtime import system

ARENAS = '''
import ctypes
import threading
from lib.runtime.system import share_heap
{call}
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
@pytest.mark.parametrize('call', ['share_heap()', ''])
def test_threads_share_one_heap(call):
    done = subprocess.run([sys.executable, '-c', ARENAS.format(call=call)], capture_output=True, text=True,
                          cwd=Path(__file__).resolve().parents[1])
    assert done.returncode == 0
    assert (done.stderr.count('Arena') == 1) == bool(call)


def test_another_c_library_has_its_own_way(monkeypatch):
    monkeypatch.setattr(system.ctypes, 'CDLL', lambda name: object())
    system.share_heap()
