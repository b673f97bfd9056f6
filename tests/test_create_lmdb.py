"""Building and checking LMDBs by the command line, on good lists, bad images and failing machines."""
import json
import os
import random
import resource
import signal
import subprocess
import sys
from pathlib import Path

import lmdb
import pytest
from helpers import alive, children, huge_png, noise, read_lmdb, status_of, wait_for, write_lmdb
from PIL import Image

from lib.wordsets.lmdb_writer import LmdbWriter
from utils import create_lmdb

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = str(ROOT / 'utils' / 'create_lmdb.py')


def make_list(folder, images, name='gt.txt', label=lambda name: name.partition('.')[0]):
    """Writes {name: bytes} and a list of them with a tab; the label is the name without extension."""
    for file, data in images.items():
        (folder / file).write_bytes(data)
    (folder / name).write_text(''.join(f'{file}\t{label(file)}\n' for file in images))
    return str(folder / name)


def build(*arguments):
    return create_lmdb.main([*map(str, arguments), '--workers', '2'])


def script(*arguments, **options):
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, timeout=60,
                          **options)


@pytest.fixture
def good(tmp_path):
    """A set of 40 words, as a path."""
    with LmdbWriter(tmp_path / 'good') as writer:
        for i in range(40):
            writer.add(f'word{i}', image=noise(16 + i, 8))
    return tmp_path / 'good'


def change(path, key, value):
    with lmdb.open(str(path)) as env, env.begin(write=True) as transaction:
        assert transaction.delete(key) if value is None else transaction.put(key, value)


def test_list_elsewhere(tmp_path, monkeypatch):
    """Images are looked for beside the list, then, for a .odgt only, in the current folder."""
    for folder in 'lists', 'here':
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    Path('here.png').write_bytes(noise(9, 9))
    (tmp_path / 'lists' / 'beside.png').write_bytes(noise(8, 8))
    Path(tmp_path, 'lists', 'a.odgt').write_text(
        '{"im_path": "here.png", "label": "here"}\n{"im_path": "beside.png", "label": "beside"}')
    Path(tmp_path, 'lists', 'a.txt').write_text('here.png\there\nbeside.png\tbeside\n')
    assert build('--input', '../lists/a.odgt', '--output', 'odgt') == 0
    assert read_lmdb('odgt')['num-samples'] == b'2'
    assert build('--input', '../lists/a.txt', '--output', 'txt') == 0
    assert read_lmdb('txt')['label-000000001'] == b'beside' and read_lmdb('txt')['num-samples'] == b'1'


def test_order_and_bytes_do_not_depend_on_workers(tmp_path):
    images = {f'{i}.{form.lower()}': noise(8 + i % 50, 8 + i % 7, form)
              for i, form in enumerate(['PNG', 'JPEG', 'BMP', 'WEBP', 'GIF', 'TIFF', 'PPM'] * 20)}
    gt = make_list(tmp_path, images)
    sets = []
    for workers in 1, 3:
        path = str(tmp_path / f'{workers}')
        assert create_lmdb.main(['--input', gt, '--output', path, '--workers', f'{workers}']) == 0
        sets.append(read_lmdb(path))
    assert sets[0] == sets[1]
    assert [sets[0][f'image-{i:09d}'] for i in range(1, 141)] == list(images.values())
    assert [sets[0][f'label-{i:09d}'].decode() for i in range(1, 141)] == [f'{i}' for i in range(140)]


def test_pairs(tmp_path, capsys):
    make_list(tmp_path, {'hr.png': noise(128, 32), 'lr.png': noise(64, 16), 'bad.png': b'x'})
    (tmp_path / 'gt.txt').write_text('hr.png\tlr.png\tone\nhr.png\tbad.png\ttwo\n')
    assert build('--input', tmp_path, '--output', tmp_path / 'set', '--min_width', 100, '--min_height', 20) == 0
    assert read_lmdb(tmp_path / 'set') == {'image_hr-000000001': noise(128, 32), 'image_lr-000000001': noise(64, 16),
                                      'label-000000001': b'one', 'num-samples': b'1'}
    assert 'bad.png (not an image)' in capsys.readouterr().out


def test_sizes_are_strictly_bigger(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6  # lies on its side: 33x129 is shown as 129x33
    images = {'equal.png': noise(128, 32), 'wide.png': noise(129, 32), 'high.png': noise(128, 33),
              'both.png': noise(129, 33), 'turned.jpg': noise(33, 129, 'JPEG', exif=turned)}
    gt = make_list(tmp_path, images)
    assert build('--input', gt, '--output', tmp_path / 'set', '--min_width', 128, '--min_height', 32) == 0
    contents = read_lmdb(tmp_path / 'set')
    assert [contents[key] for key in contents if key.startswith('label')] == [b'both', b'turned']


def test_sizes_are_strictly_smaller(tmp_path, capsys):
    gt = make_list(tmp_path, {'equal.png': noise(64, 31), 'high.png': noise(63, 32), 'both.png': noise(63, 31)})
    assert build('--input', gt, '--output', tmp_path / 'set', '--max_width', 64, '--max_height', 32) == 0
    contents = read_lmdb(tmp_path / 'set')
    assert [contents[key] for key in contents if key.startswith('label')] == [b'both']
    assert '2 skipped, image too large' in capsys.readouterr().out


BAD = {'empty.png': b'', 'text.jpg': b'hello', 'truncated.jpg': noise(90, 40, 'JPEG')[:-300],
       'truncated.png': noise(90, 40)[:2000], 'header.png': noise(90, 40)[:20], 'bomb.png': huge_png(30000, 30000),
       'lesser_bomb.png': huge_png(10000, 10000),  # only a warning to Pillow
       'rare.pcx': noise(9, 9, 'PCX'),
       'script.eps': b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n'}


def test_bad_images_are_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(create_lmdb, 'NAMED', len(BAD))
    gt = make_list(tmp_path, {'a.png': noise(9, 9), **BAD, 'b.png': noise(9, 9)})
    assert build('--input', gt, '--output', tmp_path / 'set') == 0
    summary, told = capsys.readouterr().out.splitlines()
    assert f'2 written, {len(BAD)} skipped' in summary
    assert all(f'{tmp_path}/{name} (' in told for name in BAD) and told.count('decompression bomb') == 2
    contents = read_lmdb(tmp_path / 'set')
    assert contents['num-samples'] == b'2' and contents['label-000000002'] == b'b'


def test_missing_and_special_files(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(create_lmdb, 'MAX_BYTES', 1 << 20)
    os.mkfifo(tmp_path / 'pipe.png')
    (tmp_path / 'folder.png').mkdir()
    (tmp_path / 'new\nline.png').write_bytes(b'')
    with open(tmp_path / 'large.png', 'wb') as file:
        file.truncate((1 << 20) + 1)
    (tmp_path / 'ok.png').write_bytes(noise(9, 9))
    names = ['pipe.png', 'folder.png', 'large.png', '/dev/zero', 'nul\0.png', 'ok.png', *(f'{i}.png' for i in range(9))]
    lines = [json.dumps({'im_path': name, 'label': 'x'}) for name in [*names, 'new\nline.png']]
    (tmp_path / 'a.odgt').write_text('\n'.join([*lines, 'nonsense']))
    assert build('--input', tmp_path / 'a.odgt', '--output', tmp_path / 'set') == 0
    out = capsys.readouterr().out.splitlines()
    assert '1 written, 16 skipped' in out[0]
    assert out[1].startswith(f'  13 skipped, image not found: {tmp_path}/pipe.png nor pipe.png, ')
    assert out[1].endswith('/0.png nor 0.png and 8 more')
    assert sum('MiB: ' in line and 'large.png' in line for line in out) == 1
    assert sum(f'a.odgt:{len(lines) + 1}' in line for line in out) == 1
    assert sum(r'new\nline.png' in line for line in out) == 1


def test_nothing_came_out(tmp_path, good, capsys):
    before = read_lmdb(good)
    gt = make_list(tmp_path, {'a.png': b''})
    assert build('--input', gt, '--output', good, '--force') == 1
    assert capsys.readouterr().err == f'create_lmdb.py: nothing came out of {gt}; {good} was not touched\n'
    assert read_lmdb(good) == before
    assert build('--input', gt, '--output', tmp_path / 'new') == 1
    assert not (tmp_path / 'new').exists()


def test_force_and_append(tmp_path, good, capsys):
    gt = make_list(tmp_path, {'a.png': noise(9, 9)})
    assert build('--input', gt, '--output', good) == 2
    assert capsys.readouterr().err == f'create_lmdb.py: {good} exists; give --force to replace it\n'
    assert build('--input', gt, '--output', good, '--append') == 0
    assert '1 written, 0 skipped' in (out := capsys.readouterr().out) and '41 records in all' in out
    assert read_lmdb(good)['label-000000041'] == b'a' and read_lmdb(good)['label-000000001'] == b'word0'
    change(good, b'num-samples', b'39')
    assert build('--input', gt, '--output', good, '--append') == 1
    assert 'num-samples is 39, but there are more records' in (err := capsys.readouterr().err) and err.count('\n') == 1
    assert read_lmdb(good)['label-000000040'] == b'word39'
    assert build('--input', gt, '--output', good, '--force') == 0
    assert read_lmdb(good)['num-samples'] == b'1'


@pytest.mark.parametrize('arguments, message', [
    (['--input', 'none.txt'], '--input none.txt does not exist'), (['--min_width', '-1'], '--min_width'),
    (['--workers', '0'], '--workers'), (['--check', 'none'], 'none: no such folder'),
    (['--force', '--append'], 'not allowed with'), (['--min_height', 'x'], 'invalid int'),
    (['--max_height', '-1'], '--max_height'),
    (['--min_width', '63', '--max_width', '64'], '--min_width 63 --max_width 64: no size')])
def test_bad_flags(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'syntax_crop.odgt').write_text('')
    assert status_of(create_lmdb.main, arguments) == 2 and message in capsys.readouterr().err
    assert os.listdir(tmp_path) == ['syntax_crop.odgt']


def test_bad_lists(tmp_path, capsys):
    (tmp_path / 'a.mat').write_bytes(b'garbage')
    for name, message in ('a.mat', 'cannot be read as a .mat'), ('.', 'no gt.txt'):
        assert build('--input', tmp_path / name, '--output', tmp_path / 'set') == 2
        err = capsys.readouterr().err
        assert message in err and err.count('\n') == 1
    assert os.listdir(tmp_path) == ['a.mat']


@pytest.mark.parametrize('number, status', [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_stopped_in_the_middle(tmp_path, good, number, status):
    """Whatever stops it, the old set stays, nothing readable is left and no worker stays behind."""
    before = read_lmdb(good)
    make_list(tmp_path, {'a.png': noise(64, 32)})
    (tmp_path / 'gt.txt').write_text('a.png\tword\n' * 200_000)
    command = [sys.executable, SCRIPT, '--input', tmp_path, '--output', good, '--force', '--workers', '2']
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True, start_new_session=True)
    data = tmp_path / f'good.partial-{process.pid}' / 'data.mdb'
    wait_for(lambda: data.exists() and data.stat().st_size > 1_000_000)
    workers = children(process.pid)
    assert len(workers) >= 2
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # Ctrl-C reaches the workers, too
    else:
        process.send_signal(number)
    assert process.wait(30) == status
    err = process.stderr.read()
    assert 'Traceback' not in err and err.count('\n') <= 1
    assert read_lmdb(good) == before
    assert data.exists() == (number == signal.SIGKILL)
    wait_for(lambda: not any(alive(worker) for worker in workers))
    if data.exists():
        assert 'num-samples' not in read_lmdb(data.parent)


def test_full_disk(tmp_path, good):
    before = read_lmdb(good)
    make_list(tmp_path, {'a.png': noise(64, 32)})
    (tmp_path / 'gt.txt').write_text('a.png\tword\n' * 500)
    limit = resource.RLIMIT_FSIZE, (300_000, 300_000)
    result = script('--input', tmp_path, '--output', good, '--force', preexec_fn=lambda: resource.setrlimit(*limit))
    assert result.returncode == 1 and result.stdout == ''
    assert result.stderr.startswith(f'create_lmdb.py: cannot write {good}: ') and result.stderr.count('\n') == 1
    assert read_lmdb(good) == before
    assert sorted(os.listdir(tmp_path)) == ['a.png', 'good', 'gt.txt']


def test_a_worker_that_dies(tmp_path, capsys, monkeypatch):
    gt = make_list(tmp_path, {'a.png': noise(9, 9)})
    monkeypatch.setattr(create_lmdb, 'load_entry', lambda *_, **__: os._exit(9))
    assert build('--input', gt, '--output', tmp_path / 'set') == 1
    assert 'a worker process died' in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ['a.png', 'gt.txt']


def test_check_of_a_good_set(good, capsys):
    os.chmod(good, 0o555)  # a set that this user may only read
    before = sorted(os.listdir(good))
    assert create_lmdb.main(['--check', str(good)]) == 0
    out, err = capsys.readouterr()
    assert err == '' and out.splitlines() == [
        f'{good}: 40 records of label, image', 'label lengths: 5: 10, 6: 30', 'alphabet: 0123456789dorw',
        'other characters: ', 'widths in pixels: 16-31: 16, 32-63: 24', 'heights in pixels: 8-15: 40']
    assert sorted(os.listdir(good)) == before
    os.chmod(good, 0o755)


@pytest.mark.parametrize('key, value, message', [
    (b'image-000000007', None, 'record 7: image: missing'), (b'label-000000040', None, 'record 40: label: missing'),
    (b'image-000000001', b'', 'record 1: image: empty file'),
    (b'image-000000020', noise(30, 20)[:-200], 'record 20: image: image file is truncated'),
    (b'image-000000020', huge_png(10000, 10000), 'record 20: image: Image size (100000000 pixels)'),
    (b'label-000000003', b'\xff', "record 3: label: 'utf-8'"), (b'label-000000003', b' ', 'record 3: label: empty'),
    (b'label-000000003', b'ab\r', "record 3: label: control character in 'ab\\r'"),
    (b'num-samples', None, 'num-samples is missing'), (b'num-samples', b'x', "num-samples is b'x', not a number"),
    (b'num-samples', b'999999999', 'num-samples is 999999999, but the last record is 40'),
    (b'num-samples', b'39', 'num-samples is 39, but the last record is 40')])
def test_check_names_damage(good, capsys, key, value, message):
    change(good, key, value)
    assert create_lmdb.main(['--check', str(good)]) == 1
    out, err = capsys.readouterr()
    assert out.startswith(message)
    assert err == f'create_lmdb.py: {good} is damaged: 1 fault, named above\n'


def test_check_of_pairs(tmp_path, capsys):
    with LmdbWriter(tmp_path / 'pairs') as writer:
        for _ in range(3):
            writer.add('wörd', image_hr=noise(128, 32), image_lr=noise(64, 16))
    assert create_lmdb.main(['--check', str(tmp_path / 'pairs')]) == 0
    out = capsys.readouterr().out
    assert '3 records of label, image_hr, image_lr' in out and "other characters: 'ö': 3" in out
    change(tmp_path / 'pairs', b'image_lr-000000002', None)
    assert create_lmdb.main(['--check', str(tmp_path / 'pairs')]) == 1
    assert capsys.readouterr().out.startswith('record 2: image_lr: missing\n')


def test_check_of_labels_without_images(tmp_path, capsys):
    path = write_lmdb(tmp_path / 'set', {'label-000000001': b'word', 'num-samples': b'1'})
    assert create_lmdb.main(['--check', path, '--workers', '1']) == 1
    assert capsys.readouterr().out == 'no image-%09d or image_hr-%09d keys in it\n'


@pytest.mark.parametrize('size', [0, 100, 5000, 20_000])
def test_check_of_a_data_file_cut_short(good, capsys, size):
    os.truncate(good / 'data.mdb', size)
    assert create_lmdb.main(['--check', str(good)]) == 1
    out, err = capsys.readouterr()
    assert f'{good} is damaged' in err
    assert 'cannot be read' in out and (size <= 4096 or 'cut off' in out)


def test_check_of_random_damage(good, tmp_path):
    """Bytes changed anywhere: never a traceback, never a hang. All in one process of their own, which may crash."""
    rng = random.Random(0)
    data, sets = bytearray((good / 'data.mdb').read_bytes()), []
    for number in range(6):
        hurt = bytearray(data)
        for _ in range(2000):
            hurt[rng.randrange(8192, len(hurt))] = rng.randrange(256)
        sets.append(tmp_path / f'hurt {number}')
        sets[-1].mkdir()
        (sets[-1] / 'data.mdb').write_bytes(hurt)
    code = ('import sys\nfrom utils import create_lmdb\n'
            'print([create_lmdb.main(["--check", path, "--workers", "1"]) for path in sys.argv[1:]])')
    result = subprocess.run([sys.executable, '-c', code, *sets], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0 and result.stdout.endswith(f'\n{6 * [1]}\n') and 'Traceback' not in result.stderr, \
        result.stderr


def test_check_goes_on_when_reading_ends_a_worker(tmp_path, capsys, monkeypatch):
    with LmdbWriter(tmp_path / 'set') as writer:
        for i in range(300):
            writer.add('word', image=noise(8 + i // 256, 8))  # the second chunk has another width
    sound = create_lmdb.image_size
    monkeypatch.setattr(create_lmdb, 'image_size', lambda data: sound(data) if sound(data)[0] == 8 else os._exit(9))
    assert create_lmdb.main(['--check', str(tmp_path / 'set'), '--workers', '1']) == 1
    assert capsys.readouterr().out.startswith('some record after 256: reading it ended the process')


@pytest.mark.parametrize('files', [[], ['data.mdb']])
def test_check_of_a_folder_without_a_set(tmp_path, capsys, files):
    for name in files:
        (tmp_path / name).write_bytes(b'no database' * 1000)
    assert create_lmdb.main(['--check', str(tmp_path)]) == 1
    assert 'cannot be read' in capsys.readouterr().out
    assert os.listdir(tmp_path) == files
