import errno
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from helpers import alive, box, cell, children, status_of, wait_for
from PIL import Image
from scipy.io import savemat

from lib.wordsets import synthtext
from utils import crop_800k
from utils.crop_800k import main

SCRIPT = Path(crop_800k.__file__)


def make_set(root, entries, name='gt.mat'):
    """Writes gt.mat from (image name, boxes (2, 4, n) or list of (2, 4), text blocks); returns the flags for it."""
    root.mkdir(exist_ok=True)
    boxes = [np.stack(b, axis=2) if isinstance(b, list) and b else b for _, b, _ in entries]
    boxes = [b[..., 0] if isinstance(b, np.ndarray) and b.ndim == 3 and b.shape[2] == 1 else b for b in boxes]
    savemat(root / name, {'imnames': cell([np.array([n]) for n, _, _ in entries]), 'wordBB': cell(boxes),
                          'txt': cell([np.array(t) for _, _, t in entries])})
    return [f'--gt_path={root / name}', f'--syntxt_path={root}', '--workers=1']


def make_image(path, size=(60, 40), mode='RGB', seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1] // 4, size[0] // 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize(size).convert(mode).save(path)


def rows(path):
    return [json.loads(line) for line in Path(path).read_text(encoding='utf-8').splitlines()]


def content(folder):
    """Every file below a folder but the run's own state: {relative path: bytes}."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob('*'))
            if path.is_file() and crop_800k.RUN not in path.parts}


@pytest.fixture(scope='module')
def words(tmp_path_factory):
    """Flags of a set of 150 small images with one to three words each, in two folders: three tasks. Not written to."""
    root, rng, entries = tmp_path_factory.mktemp('words'), random.Random(3), []
    for i in range(150):
        name = f'{i % 2 + 1}/im_{i}_0.jpg'
        make_image(root / name, seed=i)
        count = rng.randint(1, 3)
        boxes = [box(x := rng.uniform(0, 30), y := rng.uniform(0, 20), x + rng.uniform(5, 25), y + rng.uniform(5, 18))
                 for _ in range(count)]
        entries.append((name, boxes, ['\n'.join(f'w{i}{k}' for k in range(count))]))
    return make_set(root, entries)


@pytest.fixture(scope='module')
def whole(words, tmp_path_factory):
    """What one undisturbed run makes of the words; see `content`."""
    out = tmp_path_factory.mktemp('whole')
    assert main([*words, f'--out_path={out}']) == 0
    return content(out)


def test_crops_are_the_pixels_of_the_boxes(tmp_path):
    make_image(tmp_path / 'set' / '8' / 'a.png')
    flags = make_set(tmp_path / 'set', [('8/a.png', [box(3.2, 4.9, 20.1, 17), box(40, 30, 90, 90)], ['don\'t $5/"x"'])])
    assert main([*flags, f'--out_path={tmp_path / "out"}']) == 0
    first, second = rows(tmp_path / 'out' / 'syntax_crop.odgt')
    assert first == {'im_path': 'syntxt_crop/8/a_0.jpg', 'im_name': 'a_0.jpg', 'label': "don't"}
    assert second == {'im_path': 'syntxt_crop/8/a_1.jpg', 'im_name': 'a_1.jpg', 'label': '$5/"x"'}
    image = Image.open(tmp_path / 'set' / '8' / 'a.png')
    for row, rectangle in ((first, (3, 4, 21, 17)), (second, (40, 30, 60, 40))):
        crop = Image.open(tmp_path / 'out' / row['im_path'])
        assert crop.mode == 'RGB' and crop.size == image.crop(rectangle).size
        assert np.abs(np.asarray(crop, float) - np.asarray(image.crop(rectangle), float)).mean() < 4


@pytest.mark.parametrize('mode', ['L', 'P', 'RGBA', 'LA', '1'])
def test_images_of_other_modes_become_rgb(tmp_path, mode):
    make_image(tmp_path / 'set' / 'a.png', mode=mode)
    flags = make_set(tmp_path / 'set', [('a.png', [box(0, 0, 20, 20)], ['word'])])
    assert main([*flags, f'--out_path={tmp_path / "out"}']) == 0
    assert Image.open(tmp_path / 'out' / 'syntxt_crop' / 'a_0.jpg').mode == 'RGB'


def test_subsets_are_strictly_bigger_and_share_the_crops(tmp_path, capsys):
    make_image(tmp_path / 'set' / 'a.jpg', size=(400, 100))
    sizes = [(20, 10), (30, 10), (20, 11), (21, 11), (30, 25), (40, 20), (31, 21), (400, 5), (60, 60)]
    entries = [('a.jpg', [box(0, 0, w, h) for w, h in sizes], [' '.join(f'{w}x{h}' for w, h in sizes)])]
    flags = [*make_set(tmp_path / 'set', entries), f'--out_path={tmp_path / "out"}']
    assert main([*flags, '--min_width', '20', '30', '20', '--min_height', '10', '20', '10']) == 0
    assert '\n4 words not bigger than any' in capsys.readouterr().out
    names = {path.name: [row['label'] for row in rows(path)] for path in (tmp_path / 'out').glob('*.odgt')}
    assert names['syntax_crop_20x10.odgt'] == ['21x11', '30x25', '40x20', '31x21', '60x60']
    assert names['syntax_crop_30x20.odgt'] == ['31x21', '60x60']
    assert names['syntax_crop.odgt'] == names['syntax_crop_20x10.odgt'] and len(names) == 3
    assert sorted(path.name for path in (tmp_path / 'out' / 'syntxt_crop').iterdir()) == [
        'a_3.jpg', 'a_4.jpg', 'a_5.jpg', 'a_6.jpg', 'a_8.jpg']


def test_size_zero_is_every_word(tmp_path, words, whole):
    assert main([*words, f'--out_path={tmp_path}', '--min_width', '0', '20', '--min_height', '0', '9']) == 0
    sizes = content(tmp_path)
    assert sizes.pop('syntax_crop_0x0.odgt') == whole['syntax_crop.odgt']
    assert 0 < len(sizes.pop('syntax_crop_20x9.odgt')) < len(whole['syntax_crop.odgt'])
    assert sizes == whole


def test_every_odd_case_is_counted_and_named_and_the_rest_written(tmp_path, capsys):
    root, good = tmp_path / 'set', box(5, 5, 25, 25)
    for name in ('good.jpg', '1/more.jpg', 'odd.jpg', 'name" \'é日.jpg', 'same.jpg', 'same.png', 'shape.jpg',
                 'cut.jpg'):
        make_image(root / name)
    make_image(tmp_path / 'outside.jpg')
    (root / 'cut.jpg').write_bytes((root / 'cut.jpg').read_bytes()[:500])
    Image.new('RGB', (60, 40)).save(root / 'text.jpg', 'SGI')  # Pillow would read it; other formats run programs
    (root / 'folder.jpg').mkdir()
    entries = [('good.jpg', [good], ['one']), ('../outside.jpg', [good], ['two']),
               (str(tmp_path / 'outside.jpg'), [good], ['three']), ('1/../../outside.jpg', [good], ['four']),
               ('missing.jpg', [good, good], ['five six']), ('cut.jpg', [good], ['seven']),
               ('text.jpg', [good], ['eight']), ('folder.jpg', [good], ['nine']),
               ('odd.jpg', [good, good], ['ten']), ('1/more.jpg', [good], ['eleven twelve']),
               ('shape.jpg', np.zeros((4, 2)), ['thirteen']), ('good.jpg', [good], ['again']),
               ('same.jpg', [good], ['a/b']), ('./same.png', [good], ['fifteen']),
               ('name" \'é日.jpg', [good, box(90, 0, 99, 9), box(3, 3, 3, 9), box(0, 0, math.nan, 9), good],
                ['../../é/日"\'\\ out empty nan  ', '..                        ']),
               ('none.jpg', np.zeros((0, 0)), ['   '])]
    before = set(tmp_path.rglob('*'))
    assert main([*make_set(root, entries), f'--out_path={tmp_path / "out"}']) == 0
    assert {path for path in tmp_path.rglob('*') if tmp_path / 'out' not in [path, *path.parents]} == {
        *before, root / 'gt.mat'}
    written = rows(tmp_path / 'out' / 'syntax_crop.odgt')
    assert [row['label'] for row in written] == ['one', 'a/b', '../../é/日"\'\\', '..']
    for row in written:
        assert Image.open(tmp_path / 'out' / row['im_path']).size == (20, 20)
    assert len(list((tmp_path / 'out' / 'syntxt_crop').rglob('*'))) == 4

    skipped = rows(tmp_path / 'out' / 'syntax_crop_skipped.jsonl')
    found = {}
    for row in skipped:
        found.setdefault(row['skip'], []).append(row['im_name'])
    assert {reason: len(names) for reason, names in found.items()} == {
        'image name leaves the folder or is no file name': 3, 'image is missing': 2, 'image cannot be read': 2,
        'words and boxes disagree in number': 2, 'boxes of a wrong shape': 1, 'image name used before': 2,
        'box is outside the image': 1, 'box is empty': 1, 'box is not finite': 1}
    assert found['words and boxes disagree in number'] == ['odd.jpg', '1/more.jpg']
    assert sum(row['words'] for row in skipped) == 17
    out, err = capsys.readouterr()
    assert '4 words written' in out and '17 words skipped' in out
    assert all(reason in err for reason in found) and "'missing.jpg'" in err and "'odd.jpg': 1 words, 2 boxes" in err


def test_an_unwritable_name_does_not_stop_the_run(tmp_path):
    long = 'x' * 248 + '.jpg'  # readable, but its crop's name would be longer than file names can be
    make_image(tmp_path / 'set' / long)
    make_image(tmp_path / 'set' / 'a.jpg')
    flags = make_set(tmp_path / 'set', [(n, [box(0, 0, 9, 9)], ['word']) for n in (long, 'a.jpg')])
    assert main([*flags, f'--out_path={tmp_path / "out"}']) == 0
    assert [row['im_name'] for row in rows(tmp_path / 'out' / 'syntax_crop.odgt')] == ['a_0.jpg']
    assert [row['skip'] for row in rows(tmp_path / 'out' / 'syntax_crop_skipped.jsonl')] == ['crop cannot be written']


def test_two_workers_write_what_one_does(tmp_path, words, whole):
    assert main([*words, f'--out_path={tmp_path}', '--workers=2']) == 0
    assert content(tmp_path) == whole
    order = [int(row['im_name'].split('_')[1]) for row in rows(tmp_path / 'syntax_crop.odgt')]
    assert order == sorted(order) and set(order) == set(range(150))


def test_killed_at_any_moment_it_goes_on_to_the_same_result(tmp_path, words, whole):
    out = tmp_path / 'out'
    rng, kills, workers = random.Random(5), 0, []
    command = [sys.executable, str(SCRIPT), *words[:2], '--workers=2', f'--out_path={out}']
    for _ in range(2):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        crops = rng.randint(1, 100)
        while len(list(out.rglob('*.jpg'))) < crops and process.poll() is None:
            time.sleep(0.01)
        workers += children(process.pid)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills
    wait_for(lambda: not any(map(alive, workers)))  # none is left waiting for its dead parent
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert content(out) == whole


def test_a_full_disk_stops_the_run_and_leaves_no_list(tmp_path, words, monkeypatch, capsys):
    def full(path, data):
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(synthtext, 'replace_file', full)
    assert main([*words, f'--out_path={tmp_path}']) == 1
    assert 'stopped' in capsys.readouterr().err
    assert not list(tmp_path.glob('*.odgt')) and not list(tmp_path.glob('*.jsonl'))


@pytest.mark.parametrize('code', [errno.EIO, errno.EMFILE])
def test_a_failing_machine_stops_the_run_and_takes_no_picture_for_broken(tmp_path, monkeypatch, capsys, code):
    make_image(tmp_path / 'set/a.jpg')
    flags = [*make_set(tmp_path / 'set', [('a.jpg', [box(0, 0, 9, 9)], ['word'])]), f'--out_path={tmp_path}']
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, 'convert', mock.Mock(side_effect=OSError(code, os.strerror(code))))
        assert main(flags) == 1
    told = capsys.readouterr().err
    assert 'stopped' in told and os.strerror(code) in told and 'a.jpg' in told
    assert not list(tmp_path.glob('*.odgt')) and not list(tmp_path.glob('*.jsonl'))
    assert main(flags) == 0 and len(rows(tmp_path / 'syntax_crop.odgt')) == 1


def test_all_but_the_crops_is_on_the_disk_before_the_parts_are_deleted(tmp_path, words, monkeypatch):
    """A part that a power cut left empty would count as done."""
    flushed, real = [], os.fsync
    monkeypatch.setattr(os, 'fsync', lambda file: flushed.append(os.readlink(f'/proc/self/fd/{file}')) or real(file))
    assert main([*words, f'--out_path={tmp_path}']) == 0
    names = [os.path.basename(path).removesuffix('.tmp') for path in flushed]
    assert names == ['settings.json', *(f'part-{number:06d}.jsonl' for number in range(3)),
                     'syntax_crop_skipped.jsonl', 'syntax_crop.odgt', tmp_path.name, 'finished.json']


def test_it_goes_on_where_it_was(tmp_path, words, whole, monkeypatch):
    flags, done, real = [*words, f'--out_path={tmp_path}'], [], crop_800k.crop_image

    def failing(name, *rest):
        if len(done) == 100:
            raise OSError(28, 'No space left on device')
        done.append(name)
        return real(name, *rest)
    monkeypatch.setattr(crop_800k, 'crop_image', failing)
    assert main(flags) == 1
    assert not list(tmp_path.glob('*.odgt'))
    monkeypatch.setattr(crop_800k, 'crop_image', lambda name, *rest: done.append(name) or real(name, *rest))
    assert main(flags) == 0
    assert len(done) == 100 + 150 - crop_800k.CHUNK  # the first task was not done again
    assert content(tmp_path) == whole


def test_other_flags_do_not_mix(tmp_path, words, monkeypatch, capsys):
    flags = [*words, f'--out_path={tmp_path / "out"}']

    def stop(*_):
        raise KeyboardInterrupt
    with monkeypatch.context() as patch:
        patch.setattr(crop_800k, 'merge', stop)
        assert main(flags) == 130
    assert main([*flags, '--min_width=20', '--min_height=9']) == 2
    assert 'sizes' in capsys.readouterr().err
    assert main([*flags, '--min_width=20', '--min_height=9', '--force']) == 0
    assert main(flags) == 2
    assert main([*flags, '--force']) == 0
    assert {path.name for path in (tmp_path / 'out').glob('*.odgt')} == {'syntax_crop.odgt'}


def test_neither_do_other_files_of_the_same_name_and_a_lost_list_is_made_again(tmp_path, capsys):
    for folder in ('set', 'other'):
        make_image(tmp_path / folder / 'a.jpg')
    flags = make_set(tmp_path / 'set', [('a.jpg', [box(0, 0, 20, 20)], ['word'])]) + [f'--out_path={tmp_path / "out"}']
    gt, lines = tmp_path / 'set/gt.mat', tmp_path / 'out/syntax_crop.odgt'
    assert main(flags) == 0
    assert '1/1' in capsys.readouterr().err  # its progress, in images
    before = gt.read_bytes()
    gt.write_bytes(before[:-1])
    assert main([*flags, f'--syntxt_path={tmp_path / "other"}']) == 2
    assert '(gt_path, syntxt_path)' in capsys.readouterr().err
    gt.write_bytes(before)
    lines.unlink()
    assert main(flags) == 0 and len(rows(lines)) == 1


def test_a_finished_run_is_left_alone_until_forced(tmp_path, words, whole, capsys):
    flags = [*words, f'--out_path={tmp_path}']
    assert main(flags) == 0
    crop = next(tmp_path.rglob('*.jpg'))
    crop.unlink()
    first = capsys.readouterr().out
    assert main(flags) == 0 and not crop.exists()
    second = capsys.readouterr()
    assert '--force' in second.err and second.out == first
    assert main([*flags, '--force']) == 0
    assert content(tmp_path) == whole


def test_only_one_run_at_a_time(tmp_path, words, capsys):
    with crop_800k.only_run(tmp_path / 'out'):
        assert main([*words, f'--out_path={tmp_path / "out"}']) == 1
    assert 'another run' in capsys.readouterr().err


def test_nothing_written_is_status_1_and_leaves_no_list(tmp_path, words, capsys):
    flags = [*words, f'--out_path={tmp_path / "out"}']
    (tmp_path / 'empty').mkdir()
    assert main([*flags, f'--syntxt_path={tmp_path / "empty"}']) == 1
    reported = capsys.readouterr().err
    assert 'no word was written' in reported and reported.count("\n    '") == 3 and '\n    ...\n' in reported
    assert not list((tmp_path / 'out').glob('*.odgt'))
    assert len(rows(tmp_path / 'out' / 'syntax_crop_skipped.jsonl')) == 150
    assert main(flags) == 0  # the mistake is not held against the next try


@pytest.mark.parametrize('mat, message', [
    ({'imnames': cell(['a']), 'wordBB': cell(['b'])}, 'txt'),
    ({'imnames': cell(['a']), 'wordBB': cell(['b']), 'txt': cell(['c', 'd'])}, 'paired'),
    (None, 'cannot be read')])
def test_a_bad_gt_is_refused_in_one_line(tmp_path, capsys, mat, message):
    if mat:
        savemat(tmp_path / 'gt.mat', mat)
    else:
        (tmp_path / 'gt.mat').write_bytes(b'no mat file' * 99)
    assert main([f'--gt_path={tmp_path / "gt.mat"}', f'--syntxt_path={tmp_path}', f'--out_path={tmp_path / "o"}']) == 2
    err = capsys.readouterr().err
    assert message in err and 'gt.mat' in err and err.count('\n') == 1


@pytest.mark.parametrize('flags, message', [
    (['--min_width', '128', '256', '--min_height', '32'], '--min_height'), (['--min_width', '-1'], '--min_width'),
    (['--gt_path', 'nowhere.mat'], 'nowhere.mat'), (['--syntxt_path', 'nowhere'], 'nowhere'), (['--workers=0'], '0')])
def test_bad_flags_are_status_2(words, capsys, flags, message):
    assert status_of(main, [*words, *flags]) == 2 and message in capsys.readouterr().err
