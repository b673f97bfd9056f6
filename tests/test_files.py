"""Which images a conversion takes, and the names of its results."""
import os
from pathlib import Path

import pytest
from helpers import files, photo

from lib.inference.box_files import Boxes
from lib.inference.files import find_images


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """tree(*names): pictures below the current folder."""
    monkeypatch.chdir(tmp_path)

    def make(*names):
        for number, name in enumerate(names):
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            photo((8, 4), number).save(name)
    return make


@pytest.mark.parametrize('sources, expected', [
    (['x/a', 'x/b'], ['a/1.png', 'a/2.png', 'b/1.png']), (['x/a'], ['1.png', '2.png']),
    (['x/a/', './x/a'], ['1.png', '2.png']),
    (['x/a/1.png', 'x/a/2.png'], ['1.png', '2.png']), (['x/a/1.png', 'x/b/1.png'], ['a/1.png', 'b/1.png']),
    (['x/b', 'c.png'], ['x/b/1.png', 'c.png']), (['c.png', 'x', '.'], ['c.png', 'x/a/1.png', 'x/a/2.png', 'x/b/1.png']),
    (['x', 'x/b', 'x/b/1.png'], ['a/1.png', 'a/2.png', 'b/1.png']),
    (['.out/.original', 'x/b'], ['out/original/1.png', 'x/b/1.png']),
])
def test_a_name_is_the_path_below_what_the_folders_have_in_common(tree, sources, expected):
    tree('x/a/1.png', 'x/a/2.png', 'x/b/1.png', 'c.png', '.out/.original/1.png')
    images, others, unread = find_images(sources, recursive=True)
    assert ([name.as_posix() for _, name in images], others, unread) == (expected, [], {})
    assert len({os.path.realpath(path) for path, _ in images}) == len(images)


def test_equal_names_in_two_folders(run, tree, tmp_path, read_as_sale):
    tree('a/img.png', 'b/img.png')
    assert run('a', '-o', 'one', '--skip_existing')[0] == 0 and files(tmp_path / 'one') == ['img.png']
    status, printed, _ = run('a', 'b', '--skip_existing')
    assert (status, printed) == (0, 'a/img.png\tSALE\nb/img.png\tSALE\n')
    assert files(tmp_path / 'enlarged') == ['a/img.png', 'b/img.png']
    tree('b/more.png')
    assert run('a', 'b', '--skip_existing')[1] == 'b/more.png\tSALE\n'
    assert run('a/img.png', 'b/img.png', '--methods', 'bicubic', 'textsr', '-o', 'two')[0] == 0
    page = (tmp_path / 'two/compare/index.html').read_text()
    assert '"a/img.png"' in page and '"../textsr/b/img.png"' in page and (tmp_path / 'two/textsr/b/img.png').is_file()


def test_results_do_not_go_beside_the_inputs(run, tree, tmp_path):
    tree('a/deep/x.png', 'a/1.png', 'b/2.png')
    Path('a/1.png').rename('a/1.jpg')
    before = files(tmp_path)
    for sources in (['a', 'b'], ['a/1.jpg', 'b/2.png'], ['a/deep/x.png', 'b'], ['a', 'b', '--recursive']):
        status, _, reported = run(*sources, '-o', '.')
        assert status == 2 and 'results would go among the inputs, into a' in reported and files(tmp_path) == before
    assert run('a', 'b', '-o', '.', '--methods', 'bicubic', 'textsr', '--no_read')[0] == 0


def test_results_do_not_go_into_a_new_folder_below_a_source(run, tree, tmp_path):
    """The next run would take them for inputs."""
    tree('x/a/new/1.png', 'x/x/a/2.png')
    status, _, reported = run('x/a', 'x/x/a', '--recursive', '-o', 'x/x')
    assert status == 2 and 'results would go among the inputs, into x/x/a;' in reported and len(files(tmp_path)) == 2


def test_boxes_of_a_folder_with_a_file_for_each_image(tree):
    tree('a/img.png', 'b/img.png', 'b/only.png', 'boxes/keep.png')
    images = find_images(['a', 'b'])[0]
    boxes = Boxes('boxes')
    for name in ('img', 'only'):
        Path(f'boxes/gt_{name}.txt').write_text('1,1,5,2')
    told = boxes.match(images)
    assert [len(boxes.of(path)) for path, _ in images] == [0, 0, 1]
    assert told == '--boxes boxes: 2 images with several names or sharing one, none used: a/img.png, b/img.png'
    Path('boxes/b').mkdir()
    Path('boxes/b/img.txt').write_text('1,1,5,2\n2,2,5,2')
    told = boxes.match(images)
    assert told == '' and [len(boxes.of(path)) for path, _ in images] == [1, 2, 1]
    tree('a/x/img.png')
    images = find_images(['a'], recursive=True)[0]
    assert '1 of 2 images without boxes: a/x/img.png' in boxes.match(images), 'that of the image above'


@pytest.fixture
def deny(monkeypatch):
    """deny(function, name): os.FUNCTION raises PermissionError for paths that end like this."""
    def refuse(function, name):
        real = getattr(os, function)

        def denied(path='.', **options):
            if str(path).endswith(name):
                raise PermissionError(13, 'Permission denied', str(path))
            return real(path, **options)
        monkeypatch.setattr(os, function, denied)
    return refuse


def test_a_folder_that_cannot_be_read_is_named(run, tree, deny, tmp_path):
    tree('in/a.png', 'in/closed/b.png')
    deny('scandir', 'closed')
    status, printed, reported = run('in/closed')
    assert status == 2 and 'in/closed: Permission denied' in reported
    for flags in ([], ['--ds_scale=4', '--methods', 'bicubic']):
        status, printed, reported = run('in', '--recursive', '-o', 'out', *flags)
        assert status == 1 and 'in/closed: left out: Permission denied' in reported and '1 of 1' in printed + reported
    assert '"in/closed": "Permission denied"' in (tmp_path / 'out/metrics.json').read_text()


def test_pictures_in_a_folder_that_can_only_be_listed_are_named(run, tree, deny):
    tree('in/a.png', 'in/listed/b.png')
    Path('in/listed/b.png').write_bytes(b'what cannot be opened')
    deny('stat', 'listed/b.png')
    status, _, reported = run('in', '--recursive', '--no_read')
    assert status == 1 and '1 of 2 images' in reported


def test_of_many_files_that_are_no_images_some_are_named(run, tree, tmp_path):
    tree('in/a.png')
    for number in range(9):
        Path(f'in/{number}.md').touch()
    reported = run('in', '--no_read')[2]
    assert '9 files not images by their names: 0.md, 1.md, 2.md, 3.md, 4.md, ...\n' in reported


def test_what_a_killed_run_left_unfinished_is_removed(run, tree, tmp_path):
    tree('in/x/a.png')
    left = ['out/.metrics.tsv.77.partial', *(f'out/{folder}/x/.a.png.77.partial' for folder in (
        'textsr', 'compare/.original'))]
    kept = ['out/textsr/x/.a.png.78.partial', 'out/textsr/x/.mine.partial']
    for name in (*left, *kept):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
        if '78' not in name:  # that one is being written
            os.utime(name, (0, 0))
    assert run('in', '--recursive', '-o', 'out', '--ds_scale=4', '--methods', 'bicubic', 'textsr', '--no_read')[0] == 0
    assert [name for name in files(tmp_path) if name.endswith('.partial')] == sorted(kept)
