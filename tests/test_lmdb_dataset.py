import io
import os
import shutil
import tempfile
import tracemalloc
from itertools import repeat
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import WORDS, huge_png, noise, processes, word_image, word_records, write_lmdb
from PIL import Image
from torch.utils.data import DataLoader

from lib.datasets.lmdb_dataset import LmdbDataset
from lib.datasets.samples import EvalSamples, PairSamples, ReadingSamples, collate

FIRST, THIRD = '000000001', '000000003'


def pairs_of(dataset):
    return PairSamples(dataset, [(16, 32)], 2)


# ------------------------------------------------------------------------------------------------- the set as a whole

def test_labels_and_pictures(tiny_lmdb):
    dataset = LmdbDataset([tiny_lmdb()])
    assert [dataset[i].label for i in range(len(dataset))] == list(WORDS)
    for i, word in enumerate(WORDS):
        drawn = np.asarray(Image.open(io.BytesIO(word_image(word))))
        assert np.array_equal(np.asarray(dataset[i].image), drawn)
        assert dataset[i].image_lr is None and dataset[i].error is None


def test_paired_set(tiny_lmdb):
    record = LmdbDataset([tiny_lmdb(paired=True)])[1]
    assert (record.label, record.image.size, record.image_lr.size) == (WORDS[1], (32, 16), (16, 8))


def test_first_pair_damaged(tiny_lmdb):
    dataset = LmdbDataset([tiny_lmdb(paired=True, changes={f'image_hr-{FIRST}': None})])
    assert f'no key image_hr-{FIRST}' in dataset[0].error
    assert dataset[1].error is None and dataset[1].image_lr is not None


def test_two_folders_concatenated(tiny_lmdb):
    dataset = LmdbDataset([tiny_lmdb('a', ('x', 'y')), tiny_lmdb('b', ('z',))])
    assert [dataset[i].label for i in range(3)] == ['x', 'y', 'z'] and dataset.lengths == [2, 1]


def test_the_same_folder_twice_in_a_process(tiny_lmdb):
    path = tiny_lmdb()
    first, second = LmdbDataset([path, path]), LmdbDataset([path])
    assert first[8].label == first[0].label == second[0].label == WORDS[0]


def test_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match='nothing: no LMDB there'):
        LmdbDataset([tmp_path / 'nothing'])
    (tmp_path / 'empty').mkdir()
    with pytest.raises(FileNotFoundError, match='empty: no LMDB there'):
        LmdbDataset([tmp_path / 'empty'])


@pytest.mark.parametrize('count, message', [
    (None, 'num-samples is None, not a number'), (b'', 'not a number'), (b'many', 'not a number'), (b'\xff', 'not a'),
    (b'0', 'an empty set'), (b'-3', 'an empty set'), (b'1000000000000', 'but there are 17 keys only')])
def test_num_samples_wrong(tiny_lmdb, count, message):
    with pytest.raises(ValueError, match=f'words: .*{message}'):
        LmdbDataset([tiny_lmdb(changes={'num-samples': count})])


@pytest.mark.parametrize('damage', ['no lmdb', 'zero bytes', 'cut off', 'last page', 'no pages'])
def test_data_file_damaged(tiny_lmdb, tmp_path, damage):
    path = tiny_lmdb(changes={f'image-{THIRD}': os.urandom(200_000)})
    data = tmp_path / 'words' / 'data.mdb'
    whole = data.read_bytes()
    data.write_bytes({'no lmdb': b'<html>not found</html>' * 1000, 'zero bytes': b'',
                      'cut off': whole[:len(whole) // 2], 'last page': whole[:-1], 'no pages': whole[:8192]}[damage])
    with pytest.raises(ValueError, match='words: (not a readable LMDB|cut off)'):
        LmdbDataset([path])


def test_without_write_permission(tmp_path):
    """Read by a user who may not write there, and without leaving a lock file."""
    base = Path(tempfile.mkdtemp())  # below tmp_path only its owner may read
    try:
        path = Path(write_lmdb(base / 'words', word_records()))
        (path / 'lock.mdb').unlink()
        for folder, mode in ((base, 0o755), (path, 0o555), (path / 'data.mdb', 0o444)):
            folder.chmod(mode)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                if os.getuid() == 0:
                    os.setgid(65534)
                    os.setuid(65534)
                assert not os.access(path, os.W_OK)
                status = 0 if LmdbDataset([path])[0].label == WORDS[0] else 1
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert [file.name for file in path.iterdir()] == ['data.mdb']
    finally:
        (base / 'words').chmod(0o755)
        shutil.rmtree(base)


# ---------------------------------------------------------------------------------------------------- damaged records

DAMAGE = {
    'no image': ({f'image-{THIRD}': None}, f'no key image-{THIRD}'),
    'zero bytes': ({f'image-{THIRD}': b''}, f'image-{THIRD} holds no bytes'),
    'no picture': ({f'image-{THIRD}': b'rain'}, 'of no known format'),
    'truncated JPEG': ({f'image-{THIRD}': noise(64, 32, 'JPEG')[:-300]}, 'truncated'),
    'truncated PNG': ({f'image-{THIRD}': noise(64, 32)[:-300]}, 'unreadable image'),
    'bomb': ({f'image-{THIRD}': huge_png(30_000, 30_000)}, 'decompression bomb'),
    'small bomb': ({f'image-{THIRD}': huge_png(10_000, 10_000)}, 'decompression bomb'),
    'no label': ({f'label-{THIRD}': None}, f'no key label-{THIRD}'),
    'not UTF-8': ({f'label-{THIRD}': b'caf\xe9'}, f'label-{THIRD} is not UTF-8'),
}


@pytest.mark.parametrize('damage', DAMAGE)
def test_a_damaged_record_is_told_and_not_replaced(tiny_lmdb, damage):
    changes, message = DAMAGE[damage]
    path = tiny_lmdb(changes=changes)
    for max_len in (None, 100):  # testing, training
        dataset = LmdbDataset([path], max_len)
        assert len(dataset) == len(WORDS)
        record = dataset[2]
        assert record.image is None and message in record.error and f'{path}#3' in record.error
        batch = collate([pairs_of(dataset)[index, 0, 0] for index in range(len(WORDS))])
        assert batch['errors'] == [record.error]
        assert batch['label'] == [word for word in WORDS if word != WORDS[2]]
        assert len(batch['hr']) == len(WORDS) - 1


def test_all_damaged(tiny_lmdb):
    path = tiny_lmdb(changes={f'image-{number:09d}': b'' for number in range(1, 9)})
    for samples in (pairs_of(LmdbDataset([path])), ReadingSamples(LmdbDataset([path]))):
        batch = collate([samples[index, 0, 0] for index in range(8)])
        assert list(batch) == ['errors'] and len(set(batch['errors'])) == 8


def test_num_samples_above_the_records(tiny_lmdb):
    dataset = LmdbDataset([tiny_lmdb(changes={'num-samples': b'12'})])
    assert [index for index in range(12) if dataset[index].error] == [8, 9, 10, 11]
    assert 'no key label-000000012' in dataset[11].error


def test_num_samples_below_the_records(tiny_lmdb):
    with pytest.raises(ValueError, match='words: num-samples is 3, but there are more records; .* --check'):
        LmdbDataset([tiny_lmdb(changes={'num-samples': b'3'})])


def test_labels_empty_too_long_or_outside_the_vocabulary(tiny_lmdb):
    path = tiny_lmdb(words=('sun', '', 'a' * 101, 'a' * 100, 'Änne', 'x y', ' '))
    training = LmdbDataset([path], 100, 'abcdefghijklmnopqrstuvwxyz')
    assert [training[i].label for i in range(len(training))] == ['sun', 'a' * 100, 'Änne', 'x y']
    assert (training.left_out, training.outside) == (3, 2)
    testing = LmdbDataset([path])
    assert len(testing) == 7 and [i for i in range(7) if testing[i].error] == [1]
    assert 'label-000000002 is empty' in testing[1].error and testing[2].label == 'a' * 101


def test_memory_of_many_words():
    """Of each word to train on eight bytes are kept: sets have millions."""
    class Folder:
        count = 50_000

        def all_labels(self):
            return repeat(b'word', self.count)

    tracemalloc.start()
    try:
        numbers = LmdbDataset._of_length(SimpleNamespace(outside=0), Folder(), 100, 'dorw')
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert numbers.dtype == np.int64 and numbers[[0, -1]].tolist() == [1, Folder.count]
    assert peak < 24 * Folder.count  # while it is made


def test_no_word_of_that_length(tiny_lmdb):
    with pytest.raises(ValueError, match='b: no word has 1 to 2 characters'):
        LmdbDataset([tiny_lmdb('a', ('x',)), tiny_lmdb('b', ('long', 'word'))], 2)


@pytest.mark.filterwarnings('ignore::UserWarning')
@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'GIF', 'BMP', 'TIFF', 'WEBP', 'DDS'])
def test_flipped_bytes_never_stop_a_run(tiny_lmdb, kind):
    """Whatever the decoder makes of damage, the answer is a picture or an error of the record."""
    random = np.random.default_rng(1)
    whole = np.frombuffer(noise(40, 20, kind), np.uint8)
    changes = {'num-samples': b'40'}
    for number in range(1, 41):
        bytes_ = whole.copy()
        where = random.integers(len(bytes_) if number % 2 else 60, size=3)
        bytes_[where] = random.integers(256, size=3)
        changes[f'image-{number:09d}'], changes[f'label-{number:09d}'] = bytes_.tobytes(), b'sun'
    dataset = LmdbDataset([tiny_lmdb(changes=changes)])
    samples = EvalSamples(dataset, [(8, 16)], 2)
    for index in range(40):
        assert ('error' in samples[index]) == (dataset[index].image is None)


# ------------------------------------------------------------------------------------------------------------- workers

@pytest.mark.parametrize('method, workers', [('fork', 2), ('forkserver', 1)])
def test_workers(tiny_lmdb, method, workers):
    """The set is in use before the workers start, and in the main process while they run."""
    context = processes() if method == 'forkserver' else method  # to the first, the set is sent
    dataset = LmdbDataset([tiny_lmdb()], 100)
    alone = collate([pairs_of(dataset)[index, 5, 5] for index in range(8)])
    loader = DataLoader(pairs_of(dataset), batch_sampler=[[(i, 5, 5), (i + 1, 5, 5)] for i in (0, 2, 4, 6)],
                        num_workers=workers, collate_fn=collate, multiprocessing_context=context)
    for number, batch in enumerate(loader):
        assert batch['label'] == alone['label'][2 * number:2 * number + 2]
        assert torch.equal(batch['lr'], alone['lr'][2 * number:2 * number + 2])
        assert dataset[number].label == WORDS[number]
