"""Writes word images and labels into an LMDB that is complete or not there at all."""
import contextlib
import glob
import os
import shutil

import lmdb

from lib.runtime.system import hold, sync_folder
from lib.wordsets.lmdb_reader import open_lmdb

FIRST_MAP_SIZE = 64 << 20  # bytes; doubled whenever it is full
BATCH_BYTES = 16 << 20  # a transaction is committed at this size or at BATCH_RECORDS, whichever is first
BATCH_RECORDS = 1000


class LmdbWriter:
    """Builds an LMDB beside `path` and moves it into place when the `with` block ends without an exception.

    Keys: `image-%09d`, `label-%09d` (1-based) and `num-samples`, as the loaders of most scene-text projects expect;
    with `add('word', image_hr=..., image_lr=...)` the pairs of TextZoom. Images are stored as given, labels as UTF-8.

    The set grows in `<path>.partial-<pid>`; an exception removes that folder and leaves an older set at `path` alone.
    An older set is replaced by one rename of its data.mdb, so it is there until the new one is whole, even if the
    process is killed; what a killed process leaves behind is removed by the next writer to the same path. A writer
    that was given no record puts nothing in place.

    Args:
        path: folder of the LMDB; missing parents are made.
        force: replace an LMDB that is already there. Other files in its folder are left alone.
        append: continue after the last record of the LMDB that is there, if any. It is copied first (twice its size is
            needed on disk for that time), so neither a reader nor a crash ever sees a half-extended set.

    Raises:
        FileExistsError: something is at `path` and neither `force` nor `append` is given, or it is no LMDB.
        ValueError: `append` to an LMDB that is no set of this kind, or `add` of other images than the first record has.
        OSError: the disk is full or not writable; the text names `path`.
    """

    def __init__(self, path, force=False, append=False):
        self.path = os.path.realpath(path)  # a link stays a link, its target is replaced
        self.partial = f'{self.path}.partial-{os.getpid()}'
        self.append = append
        self._count = 0
        self._env = self._lock = self._kinds = self._source = None
        self._batch, self._batch_bytes = [], 0
        if not os.path.lexists(self.path):
            return
        if not (force or append):
            raise FileExistsError(f'{path} exists; give --force to replace it')
        is_lmdb = os.path.isfile(self._data(self.path))
        if not (is_lmdb or (os.path.isdir(self.path) and not os.listdir(self.path))):
            raise FileExistsError(f'{path} exists and is not an LMDB folder (no data.mdb in it); choose another path')

    def __enter__(self):
        try:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            self._remove_leftovers()
            os.mkdir(self.partial)
        except OSError as error:
            raise self._error(error) from error
        try:
            self._lock = self._hold_partial()
            if self.append and os.path.exists(self._data(self.path)):
                self._copy_existing()
            self._env = lmdb.open(self.partial, map_size=FIRST_MAP_SIZE, sync=False, meminit=False)
            if self._source:
                self._read_existing()
        except BaseException as error:
            self._discard()
            if isinstance(error, (lmdb.Error, OSError)):
                raise self._error(error) from error
            raise
        return self

    def __exit__(self, kind, error, trace):
        if kind is not None:
            self._discard()
            return
        try:
            self._flush()
            if self._count:
                self._put([(b'num-samples', str(self._count).encode())])
                self._env.sync(True)
                self._env.close()
                self._env = None
                self._install()
        except (lmdb.Error, OSError) as failure:
            raise self._error(failure) from failure
        finally:
            self._discard()

    def __len__(self):
        """Number of records so far, with those of the set that is being appended to."""
        return self._count

    def add(self, label: str, **images: bytes):
        """Adds one record: `add('word', image=data)` or `add('word', image_hr=data, image_lr=data)`."""
        kinds = tuple(sorted(images))
        if self._kinds is None:
            self._kinds = kinds
        if kinds != self._kinds or not kinds:
            raise ValueError(f'{self.path}: a record with {", ".join(kinds) or "no image"} '
                             f'in a set with {", ".join(self._kinds) or "none"}')
        number = self._count + 1
        items = [(f'label-{number:09d}'.encode(), label.encode('utf-8'))]
        items += [(f'{kind}-{number:09d}'.encode(), data) for kind, data in images.items()]
        self._batch += items
        self._batch_bytes += sum(len(value) for _, value in items)
        self._count = number
        if self._batch_bytes >= BATCH_BYTES or len(self._batch) >= BATCH_RECORDS * len(items):
            try:
                self._flush()
            except lmdb.Error as error:
                raise self._error(error) from error

    def _flush(self):
        if self._batch:
            self._put(sorted(self._batch))  # in the order of the tree, which is faster
        self._batch, self._batch_bytes = [], 0

    def _put(self, items):
        """Writes one transaction, with a larger map if it does not fit."""
        while True:
            try:
                with self._env.begin(write=True) as transaction:
                    for key, value in items:
                        transaction.put(key, value)
                return
            except lmdb.MapFullError:
                self._env.set_mapsize(2 * self._env.info()['map_size'])

    def _error(self, error):
        # LMDB reports a write that was cut short, as on a full disk, as "Input/output error".
        hint = ' (is the disk full?)' if isinstance(error, lmdb.Error) else ''
        return OSError(f'cannot write {self.path}: {error}{hint}')

    def _copy_existing(self):
        self._source = self._identity()
        with open_lmdb(self.path) as env:
            env.copy(self.partial, compact=True)

    def _read_existing(self):
        """Reads the count and the kinds of image of the copied set."""
        with self._env.begin() as transaction:
            count = transaction.get(b'num-samples', b'')
            self._count = int(count) if count.isdigit() else 0
            suffix = f'-{self._count:09d}'
            kinds = [kind for kind in ('image', 'image_hr', 'image_lr') if transaction.get((kind + suffix).encode())]
            if not kinds or transaction.get(('label' + suffix).encode()) is None:
                raise ValueError(f'cannot append to {self.path}: num-samples is {count.decode("latin-1") or "missing"}'
                                 ' and no record has that number; check the set with create_lmdb.py --check')
            if transaction.get(f'label-{self._count + 1:09d}'.encode()) is not None:
                raise ValueError(f'cannot append to {self.path}: num-samples is {self._count}, but there are more '
                                 'records, which would be overwritten; check the set with create_lmdb.py --check')
        self._kinds = tuple(kinds)

    def _install(self):
        """Moves the finished folder to `path`; at no moment is there half a set, or none where there was one."""
        if self._source and self._source != self._identity():
            raise OSError('the set was changed by another program while records were appended; start again')
        if not os.path.exists(self._data(self.path)):
            os.rename(self.partial, self.path)  # refused by the system if a non-empty folder appeared meanwhile
        else:
            # The lock file holds the readers of one data file only, so it goes with it.
            with contextlib.suppress(FileNotFoundError):
                os.remove(os.path.join(self.path, 'lock.mdb'))
            os.replace(self._data(self.partial), self._data(self.path))
            os.replace(os.path.join(self.partial, 'lock.mdb'), os.path.join(self.path, 'lock.mdb'))
            sync_folder(self.path)
        sync_folder(os.path.dirname(self.path))

    def _discard(self):
        if self._env is not None:
            self._env.close()
        self._env = None
        shutil.rmtree(self.partial, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
        self._lock = None

    def _hold_partial(self):
        """Locks the unfinished folder, which tells other writers that it is in use; returns what `hold` does.

        Until then another writer may take it for a leftover and remove it: then one of another name is made, as that
        writer may not be done with this one.
        """
        for attempt in range(1, 10):
            with contextlib.suppress(BlockingIOError, FileNotFoundError):
                lock = hold(self.partial)
                if os.path.exists(self.partial):
                    return lock
                os.close(lock)  # it was removed after it had been opened
            self.partial = f'{self.path}.partial-{os.getpid()}-{attempt}'
            os.mkdir(self.partial)
        return hold(self.partial)

    def _remove_leftovers(self):
        """Removes the unfinished folders of processes that were killed: those that nobody holds a lock on."""
        for folder in glob.glob(glob.escape(self.path) + '.partial-*'):
            with contextlib.suppress(OSError):
                descriptor = hold(folder)
                if descriptor is not None:  # else nothing tells whether it is in use
                    try:
                        shutil.rmtree(folder)
                    finally:
                        os.close(descriptor)

    def _identity(self):
        status = os.stat(self._data(self.path))
        return status.st_ino, status.st_size, status.st_mtime_ns

    @staticmethod
    def _data(folder):
        return os.path.join(folder, 'data.mdb')
