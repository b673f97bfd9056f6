"""The LMDB writer: what others can read, and what is left after every kind of failure."""
import os
import signal
import subprocess
import sys
from pathlib import Path

import lmdb
import pytest
from helpers import read_lmdb

import lib.wordsets.lmdb_writer
from lib.runtime import system
from lib.wordsets.lmdb_writer import LmdbWriter

ROOT = Path(__file__).resolve().parents[1]


def write(path, labels, **options):
    with LmdbWriter(str(path), **options) as writer:
        for label in labels:
            writer.add(label, image=label.encode() * 3)
    return writer


def run(code, *arguments):
    """Runs python code that uses LmdbWriter in a process of its own."""
    code = ('import os, resource, signal, sys\nfrom lib.wordsets.lmdb_writer import LmdbWriter\n'
            'path = sys.argv[1]\n') + code
    return subprocess.run([sys.executable, '-c', code, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True,
                          timeout=60)


@pytest.fixture
def old(tmp_path):
    """A finished set of two records, as (path, contents)."""
    path = tmp_path / 'sets' / 'old'
    write(path, ['one', 'two'])
    return path, read_lmdb(path)


def test_keys_and_values(tmp_path):
    writer = write(tmp_path / 'a' / 'b', ['wörd', 'x/"y'])
    assert len(writer) == 2
    assert read_lmdb(tmp_path / 'a' / 'b') == {
        'image-000000001': 'wörd'.encode() * 3, 'label-000000001': 'wörd'.encode(),
        'image-000000002': b'x/"y' * 3, 'label-000000002': b'x/"y', 'num-samples': b'2'}
    assert sorted(os.listdir(tmp_path / 'a' / 'b')) == ['data.mdb', 'lock.mdb']
    assert os.listdir(tmp_path / 'a') == ['b']


def test_mixed_records_are_refused(tmp_path):
    with pytest.raises(ValueError, match='image_hr, image_lr'), LmdbWriter(tmp_path / 'mixed') as writer:
        writer.add('a', image=b'1')
        writer.add('b', image_hr=b'1', image_lr=b'1')
    assert os.listdir(tmp_path) == []


def test_the_map_grows_with_the_set(tmp_path, monkeypatch):
    monkeypatch.setattr(lib.wordsets.lmdb_writer, 'FIRST_MAP_SIZE', 1 << 16)
    images = [os.urandom(100 if i < 50 else 20_000) for i in range(150)]
    with LmdbWriter(tmp_path / 'set') as writer:
        for image in images:
            writer.add('a', image=image)
    contents = read_lmdb(tmp_path / 'set')
    assert [contents[f'image-{i:09d}'] for i in range(1, 151)] == images


def test_existing_target_needs_force(old):
    path, contents = old
    with pytest.raises(FileExistsError, match='old exists; give --force'):
        LmdbWriter(path)
    (path / 'notes.txt').write_text('mine')
    write(path, ['three'], force=True)
    assert read_lmdb(path) == {'image-000000001': b'three' * 3, 'label-000000001': b'three', 'num-samples': b'1'}
    assert (path / 'notes.txt').read_text() == 'mine'
    assert os.listdir(path.parent) == ['old']


def test_force_never_replaces_what_is_no_lmdb(tmp_path):
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'folder' / 'thesis.tex').write_text('')
    (tmp_path / 'file').write_text('')
    for name in 'folder', 'file':
        with pytest.raises(FileExistsError, match='not an LMDB'):
            LmdbWriter(tmp_path / name, force=True)
    (tmp_path / 'empty').mkdir()
    write(tmp_path / 'empty', ['a'], force=True)
    assert len(read_lmdb(tmp_path / 'empty')) == 3


def test_a_link_stays_a_link(old, tmp_path):
    (tmp_path / 'link').symlink_to(old[0])
    write(tmp_path / 'link', ['a'], force=True)
    assert (tmp_path / 'link').is_symlink()
    assert len(read_lmdb(old[0])) == 3
    (tmp_path / 'early').symlink_to(tmp_path / 'other_disk' / 'set')
    write(tmp_path / 'early', ['a'])
    assert (tmp_path / 'early').is_symlink() and len(read_lmdb(tmp_path / 'other_disk' / 'set')) == 3


@pytest.mark.parametrize('options', [{'force': True}, {'append': True}])
def test_exception_leaves_the_old_set(old, monkeypatch, options):
    monkeypatch.setattr(lib.wordsets.lmdb_writer, 'BATCH_RECORDS', 1)  # each record is written at once
    path, _ = old
    data = (path / 'data.mdb').read_bytes()
    with pytest.raises(KeyboardInterrupt), LmdbWriter(path, **options) as writer:
        writer.add('three', image=b'3')
        raise KeyboardInterrupt
    assert (path / 'data.mdb').read_bytes() == data
    assert os.listdir(path.parent) == ['old']


def test_append(old):
    path, contents = old
    writer = write(path, ['three'], append=True)
    assert len(writer) == 3
    assert read_lmdb(path) == {**contents, 'image-000000003': b'three' * 3, 'label-000000003': b'three',
                          'num-samples': b'3'}
    assert len(write(path.parent / 'new', ['a'], append=True)) == 1


def test_append_refuses_other_images_and_damaged_sets(old):
    path, contents = old
    with pytest.raises(ValueError, match='image_hr'), LmdbWriter(path, append=True) as writer:
        writer.add('a', image_hr=b'1', image_lr=b'1')
    assert read_lmdb(path) == contents
    for count in (b'7', b'1'):  # a smaller number than that of the records: those behind would be overwritten
        with lmdb.open(str(path)) as env, env.begin(write=True) as transaction:
            transaction.put(b'num-samples', count)
        with pytest.raises(ValueError, match=f'num-samples is {count.decode()}.* --check'):
            write(path, ['three'], append=True)
        assert read_lmdb(path) == {**contents, 'num-samples': count}
    os.truncate(path / 'data.mdb', 9000)  # copying what is missing would end the process
    with pytest.raises(ValueError, match='cut off'), LmdbWriter(path, append=True):
        pass
    assert os.listdir(path.parent) == ['old']


def test_append_notices_another_writer(old):
    path = old[0]
    with pytest.raises(OSError, match='changed by another program'), LmdbWriter(path, append=True) as writer:
        writer.add('mine', image=b'1')
        assert run('with LmdbWriter(path, append=True) as w: w.add("yours", image=b"2")', path).returncode == 0
    assert read_lmdb(path)['label-000000003'] == b'yours'
    assert os.listdir(path.parent) == ['old']


def test_a_set_that_appeared_meanwhile_is_kept(tmp_path):
    path = tmp_path / 'set'
    with pytest.raises(OSError, match='cannot write'), LmdbWriter(path) as writer:
        writer.add('mine', image=b'1')
        path.mkdir()
        (path / 'yours').write_text('')
    assert os.listdir(tmp_path) == ['set'] and os.listdir(path) == ['yours']


def test_a_place_where_nothing_can_be_made_is_named(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(OSError, match='cannot write .*file/folder/set: '), LmdbWriter(tmp_path / 'file/folder/set'):
        pass


def test_open_reader_keeps_the_old_set(old):
    path, contents = old
    with lmdb.open(str(path), readonly=True) as env:
        code = 'with LmdbWriter(path, force=True) as w: w.add("new", image=b"2")'
        assert run(code, path).returncode == 0
        with env.begin() as transaction:
            assert {key.decode(): value for key, value in transaction.cursor()} == contents
    assert read_lmdb(path)['label-000000001'] == b'new'


@pytest.mark.parametrize('step', ['remove', 'replace', 'fsync'])
def test_failing_to_move_keeps_a_whole_set(old, monkeypatch, step):
    """Each single step of putting the new set in place may fail."""
    path, contents = old

    def fail(*arguments):
        raise OSError('no luck')

    with pytest.raises(OSError, match='cannot write .*old: no luck'), LmdbWriter(path, force=True) as writer:
        writer.add('new', image=b'1')
        monkeypatch.setattr(os, step, fail)
    monkeypatch.undo()
    assert read_lmdb(path) == contents or read_lmdb(path)['label-000000001'] == b'new'
    assert os.listdir(path.parent) == ['old']


KILLED = """
with LmdbWriter(path, force=True) as writer:
    for i in range(3000):
        writer.add('word', image=b'1')
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed(old):
    path, contents = old
    assert run(KILLED, path).returncode == -signal.SIGKILL
    assert read_lmdb(path) == contents
    left, = (name for name in os.listdir(path.parent) if name != 'old')
    assert left.startswith('old.partial-')
    assert 'num-samples' not in read_lmdb(path.parent / left)
    with LmdbWriter(path, force=True) as writer:
        writer.add('new', image=b'1')
        # one that is at work, unlike the killed one, is not in the way and is not removed
        assert os.listdir(path.parent).count(left) == 0
        run('with LmdbWriter(path, force=True) as w: pass', path)
        assert os.path.basename(writer.partial) in os.listdir(path.parent)
    assert os.listdir(path.parent) == ['old']


@pytest.mark.parametrize('module, step, removed', [
    (lib.wordsets.lmdb_writer, 'hold', True), (system.fcntl, 'flock', True), (lib.wordsets.lmdb_writer, 'hold', False)])
def test_a_new_folder_that_another_writer_takes_for_a_leftover(tmp_path, monkeypatch, module, step, removed):
    """It is removed before it is opened to be locked, or after, or the other has only locked it yet."""
    path, function, locks = tmp_path / 'set', getattr(module, step), []

    def late(*arguments):
        monkeypatch.undo()
        if removed:
            LmdbWriter(path)._remove_leftovers()
        else:
            locks.append(system.hold(*tmp_path.iterdir()))
        return function(*arguments)

    monkeypatch.setattr(module, step, late)
    with LmdbWriter(path) as writer:
        for lock in locks:
            os.close(lock)
        LmdbWriter(path)._remove_leftovers()  # removes the first folder, and not that which is in use
        writer.add('a', image=b'1')
    assert len(read_lmdb(path)) == 3 and os.listdir(tmp_path) == ['set']


@pytest.mark.parametrize('count', [1, 2000])
def test_full_disk(old, count):
    """Disk full in the middle (2000 records) and at the very end (1)."""
    path, contents = old
    code = f"""
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    with LmdbWriter(path, force=True) as writer:
        for i in range({count}):
            writer.add('word', image=bytes(300_000))
except OSError as error:
    print(error)
"""
    result = run(code, path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count('\n') == 1 and result.stdout.startswith(f'cannot write {path}: ')
    assert result.stdout.count('cannot write') == 1
    assert read_lmdb(path) == contents
    assert os.listdir(path.parent) == ['old']


def test_full_disk_while_copying_for_append(old):
    path = old[0]
    write(path, ['a' * 400] * 1000, force=True)
    code = """
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
with LmdbWriter(path, append=True) as writer:
    writer.add('word', image=b'1')
"""
    result = run(code, path)
    assert result.stderr.splitlines()[-1].startswith(f'OSError: cannot write {path}: ')
    assert read_lmdb(path)['num-samples'] == b'1000'
    assert os.listdir(path.parent) == ['old']
