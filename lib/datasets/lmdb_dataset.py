"""Word images and labels in LMDB folders, in the usual keys and in TextZoom's paired ones."""
import os
from array import array
from typing import NamedTuple, Optional

import lmdb
import numpy as np
import six
from PIL import Image
from torch.utils.data import Dataset

from lib.imaging import read_image
from lib.vocabulary import composed
from lib.wordsets.lmdb_reader import open_lmdb


class Record(NamedTuple):
    """One word: 8-bit RGB pictures, `image_lr` only where the set is paired; or `error` alone, which says why not."""

    label: str = ''
    image: Optional[Image.Image] = None
    image_lr: Optional[Image.Image] = None
    error: Optional[str] = None


_ENVIRONMENTS = {}  # path: (process id, environment); lmdb allows each folder to be open once in a process


def environment(path):
    """The LMDB environment of a folder, opened at the first call in each process: it must not be used across a fork.

    ValueError that names the folder where it is no LMDB or cut off.
    """
    path = os.path.realpath(path)
    opened_by, env = _ENVIRONMENTS.get(path, (None, None))
    if opened_by != os.getpid():
        if env is not None:
            env.close()  # this process's copy of what its parent had open
        env = open_lmdb(path, readahead=False, meminit=False)
        _ENVIRONMENTS[path] = os.getpid(), env
    return env


class LmdbFolder:
    """One LMDB folder; safe to pass to forked or spawned workers."""

    def __init__(self, path):
        self.path = str(path)
        if not os.path.isfile(os.path.join(self.path, 'data.mdb')):
            raise FileNotFoundError(f'{path}: no LMDB there (a folder that holds data.mdb was looked for)')
        count = self.get('num-samples')
        try:
            self.count = int(count or b'')
        except ValueError:
            raise ValueError(f'{path}: its key num-samples is {count!r}, not a number; build it with '
                             'utils/create_lmdb.py') from None
        if self.count < 1:
            raise ValueError(f'{path}: an empty set (num-samples is {self.count})')
        entries = environment(self.path).stat()['entries']
        if self.count > entries:
            raise ValueError(f'{path}: num-samples is {self.count}, but there are {entries} keys only; build it with '
                             'utils/create_lmdb.py')
        if self.get(f'label-{self.count + 1:09d}') is not None:
            raise ValueError(f'{path}: num-samples is {self.count}, but there are more records; check the set with '
                             'utils/create_lmdb.py --check')
        self.paired = self._has('image_hr-') and not self._has('image-')

    def get(self, key):
        """The bytes under a key, None where there is none; ValueError where the LMDB is damaged there."""
        try:
            with environment(self.path).begin() as transaction:
                return transaction.get(key.encode())
        except lmdb.Error as error:
            raise ValueError(f'{self.path}: damaged at {key} ({error})') from error

    def all_labels(self):
        """Yield the bytes of each label, None where it is missing, in one transaction for all."""
        try:
            with environment(self.path).begin() as transaction:
                for number in range(1, self.count + 1):
                    yield transaction.get(f'label-{number:09d}'.encode())
        except lmdb.Error as error:
            raise ValueError(f'{self.path}: damaged among its labels ({error})') from error

    def _has(self, prefix):
        """Whether there is a key with this prefix."""
        with environment(self.path).begin() as transaction, transaction.cursor() as cursor:
            return cursor.set_range(prefix.encode()) and cursor.key().startswith(prefix.encode())

    def label(self, key):
        """The label under `key`; ValueError that names the key where it is missing, empty or not UTF-8."""
        value = self.get(key)
        if not value:
            raise ValueError(f'no key {key}' if value is None else f'{key} is empty')
        try:
            return value.decode('utf-8')
        except UnicodeDecodeError as error:
            raise ValueError(f'{key} is not UTF-8') from error

    def image(self, key):
        """The RGB picture under `key`; ValueError that names the key where there is none or it is damaged."""
        value = self.get(key)
        if not value:
            raise ValueError(f'no key {key}' if value is None else f'{key} holds no bytes')
        try:
            return read_image(six.BytesIO(value))
        except ValueError as error:
            raise ValueError(f'{key}: {error}') from error

    def read(self, number):
        """Record `number`, counted from 1. Damage is reported in `error`; no other record takes its place."""
        kinds = ('image_hr', 'image_lr') if self.paired else ('image',)
        try:
            return Record(self.label(f'label-{number:09d}'), *(self.image(f'{kind}-{number:09d}') for kind in kinds))
        except ValueError as error:
            return Record(error=f'{self.path}#{number}: {error}')


class LmdbDataset(Dataset):
    """The records of one or several LMDB folders, concatenated.

    paths: folders. max_len: for training, leaves out the words that are blank or have more characters; `left_out`
    counts them, and `outside` the words with characters that are not in `characters`. None, for testing, keeps all,
    and an empty label is an error of its record. An item is a `Record`; `lengths` holds the number per folder.
    FileNotFoundError or ValueError, naming the folder, where one is missing, empty or damaged as a whole.
    """

    def __init__(self, paths, max_len=None, characters=None):
        self.folders = [LmdbFolder(path) for path in paths]
        self.outside = 0
        self.numbers = [np.arange(1, folder.count + 1) if max_len is None else
                        self._of_length(folder, max_len, characters) for folder in self.folders]
        self.lengths = [len(numbers) for numbers in self.numbers]
        self.left_out = sum(folder.count for folder in self.folders) - sum(self.lengths)
        for path, length in zip(paths, self.lengths):
            if not length:
                raise ValueError(f'{path}: no word has 1 to {max_len} characters')
        self._ends = np.cumsum(self.lengths)

    def _of_length(self, folder, max_len, characters):
        """The numbers of the records to train on. A damaged label stays in, to be reported when it is read."""
        kept, known = array('q'), set(characters or ())  # of millions, a list would take five times the memory
        for number, value in enumerate(folder.all_labels(), 1):
            label = '?' if value is None else value.decode('utf-8', 'replace')
            if label.strip() and len(label) <= max_len:
                kept.append(number)
                self.outside += bool(known) and not known.issuperset(composed(label))
        return np.array(kept)

    def __len__(self):
        return int(self._ends[-1])

    def __getitem__(self, index):
        which = int(np.searchsorted(self._ends, index, side='right'))
        number = index - (int(self._ends[which - 1]) if which else 0)
        return self.folders[which].read(int(self.numbers[which][number]))
