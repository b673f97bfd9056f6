"""Word images and labels in LMDB folders, in the usual keys and in TextZoom's paired ones."""
import os
from typing import NamedTuple, Optional

import lmdb
import numpy as np
import six
from PIL import Image
from torch.utils.data import Dataset

from lib.imaging import read_image


class Record(NamedTuple):
    """One word: 8-bit RGB pictures, `image_lr` only where the set is paired. `error` says why there is no picture."""

    name: str
    label: str
    image: Optional[Image.Image]
    image_lr: Optional[Image.Image]
    error: Optional[str]


_ENVIRONMENTS = {}  # path: (process id, environment); lmdb allows each folder to be open once in a process


def environment(path):
    """The LMDB environment of a folder, opened at the first call in each process: one must not be used across a fork.

    ValueError that names the folder where it is no LMDB.
    """
    path = os.path.realpath(path)
    opened_by, env = _ENVIRONMENTS.get(path, (None, None))
    if opened_by != os.getpid():
        if env is not None:
            env.close()  # this process's copy of what its parent had open
        try:
            env = lmdb.open(path, readonly=True, lock=False, readahead=False, meminit=False)
        except lmdb.Error as error:
            raise ValueError(f'{path}: not a readable LMDB ({error})') from error
        _ENVIRONMENTS[path] = os.getpid(), env
    return env


class LmdbFolder:
    """One LMDB folder; it can be sent to workers that are forked or spawned."""

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
        self.paired = self.get('image-000000001') is None and self.get('image_hr-000000001') is not None

    def get(self, key):
        with environment(self.path).begin() as transaction:
            return transaction.get(key.encode())

    def label(self, number):
        """The label of record `number`, 1 the first, and what is wrong with it or None."""
        value = self.get(f'label-{number:09d}')
        if value is None:
            return '', f'no key label-{number:09d}'
        try:
            return value.decode('utf-8'), None
        except UnicodeDecodeError:
            return value.decode('utf-8', 'replace'), f'label-{number:09d} is not UTF-8'

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
        """Record `number`, 1 the first. Damage is told in `error`; no other record is put in its place."""
        name = f'{self.path}#{number}'
        label, error = self.label(number)
        if error:
            return Record(name, label, None, None, f'{name}: {error}')
        try:
            if self.paired:
                pair = [self.image(f'image_{kind}-{number:09d}') for kind in ('hr', 'lr')]
                return Record(name, label, *pair, None)
            return Record(name, label, self.image(f'image-{number:09d}'), None, None)
        except ValueError as error:
            return Record(name, label, None, None, f'{name}: {error}')


class LmdbDataset(Dataset):
    """The records of one or several LMDB folders, one behind the other.

    paths: folders. max_len: for training, leaves out the words that are empty or have more characters; `left_out`
    counts them. None, for testing, keeps all. An item is a `Record`; `lengths` has the number of each folder's.
    FileNotFoundError or ValueError, naming the folder, where one is missing, empty or damaged as a whole.
    """

    def __init__(self, paths, max_len=None):
        self.folders = [LmdbFolder(path) for path in paths]
        self.numbers = [np.arange(1, folder.count + 1) for folder in self.folders]
        self.left_out = 0
        if max_len is not None:
            self.numbers = [self._of_length(folder, max_len) for folder in self.folders]
            self.left_out = sum(folder.count for folder in self.folders) - sum(map(len, self.numbers))
        self.lengths = [len(numbers) for numbers in self.numbers]
        self._ends = np.cumsum(self.lengths)
        if not len(self):
            raise ValueError(f'{", ".join(map(str, paths))}: no word has 1 to {max_len} characters')

    @staticmethod
    def _of_length(folder, max_len):
        """The numbers of the records to train on. A damaged label stays in, to be reported when it is met."""
        kept = []
        with environment(folder.path).begin() as transaction:
            for number in range(1, folder.count + 1):
                value = transaction.get(f'label-{number:09d}'.encode())
                if value is None or 1 <= len(value.decode('utf-8', 'replace')) <= max_len:
                    kept.append(number)
        return np.array(kept, dtype=np.int64)

    def __len__(self):
        return int(self._ends[-1])

    def __getitem__(self, index):
        which = int(np.searchsorted(self._ends, index, side='right'))
        number = index - (int(self._ends[which - 1]) if which else 0)
        return self.folders[which].read(int(self.numbers[which][number]))
