"""Files that are written whole or not at all, and whether two paths are of one file."""
import contextlib
import os
import re
import time
from pathlib import Path

from lib.runtime.console import printable
from lib.runtime.system import sync_folder


def same_file(path, other):
    """Whether both exist and are one file, under whatever names."""
    return os.path.exists(path) and os.path.exists(other) and os.path.samefile(path, other)


@contextlib.contextmanager
def written_beside(path, flush=True):
    """Yield a temporary path beside `path`; on success it is flushed and renamed to `path`, otherwise removed.

    flush: wait until the file is on the disk, to survive a power cut; False for files that are quickly made again.
    OSError that names `path` where it cannot be written, as on a full disk; what was there stays.
    """
    path = Path(path)
    if path.is_dir():  # '.' too, which has no name to put another one beside
        raise OSError(f'{printable(path)}: is a folder; name the file to write')
    partial = path.with_name(f'.{path.name}.{os.getpid()}.partial')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        if flush:
            with open(partial, 'rb+') as file:
                os.fsync(file.fileno())
        os.replace(partial, path)
        if flush:
            sync_folder(path.parent)  # the renaming has to survive too
    except OSError as error:
        kept = '; the file that was there is untouched' if path.is_file() else ''
        raise OSError(f'{printable(path)}: could not be written ({error.strerror or error}){kept}') from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def remove_abandoned(folder):
    """Remove what `written_beside` leaves in a folder where its process is killed: files that have not grown for a
    minute. Their process may have run on another machine, so its number tells nothing."""
    for path in Path(folder).glob('.*.partial'):
        with contextlib.suppress(OSError):  # gone meanwhile, or of another user
            if re.fullmatch(r'\..+\.\d+\.partial', path.name) and time.time() - path.stat().st_mtime > 60:
                path.unlink()
