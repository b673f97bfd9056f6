"""convert.py --skip_existing: what is there is kept, what is missing is made, and the figures are those of all."""
import json
import re
from pathlib import Path

import pytest
import torch
from helpers import photo

from lib.checkpoint import save_checkpoint
from lib.inference.flags import parse_args
from lib.inference.report import settings_of
from lib.models.generator import Generator
from lib.options import WEIGHTS


def test_going_on_leaves_out_what_is_there(run, tmp_path, interrupt_at):
    (tmp_path / 'in').mkdir()
    for number in range(4):
        photo(seed=number).save(tmp_path / f'in/{number}.png')
    (tmp_path / 'gt.txt').write_text(''.join(f'in/{number}.png\tx\n' for number in range(4)))
    flags = ['in', '--methods', 'bicubic', 'textsr', '--labels', 'gt.txt', '--batch_size', '1', '--skip_existing']
    interrupt_at('2.png')
    assert run(*flags)[0] == 130
    first = (tmp_path / 'enlarged/textsr/0.png').stat()
    interrupt_at(None)
    status, _, reported = run(*flags)
    assert status == 0 and '2 of 4 images have their results already' in reported and '2 of 2 images' in reported
    assert (tmp_path / 'enlarged/textsr/0.png').stat().st_mtime_ns == first.st_mtime_ns
    summary = json.loads((tmp_path / 'enlarged/metrics.json').read_text())
    assert summary['methods']['textsr'] == {'images': 4, 'words': 4, 'accuracy': 0.0}
    lines = (tmp_path / 'enlarged/metrics.tsv').read_text().splitlines()
    assert len(lines) == 1 + 2 * 4 and len({line.count('\t') for line in lines}) == 1
    page = (tmp_path / 'enlarged/compare/index.html').read_text()
    assert all(f'"{number}.png"' in page for number in range(4))
    assert '"string":null' not in page, 'what was read as nothing was read'
    (tmp_path / 'enlarged/compare/3.png').unlink()
    assert '3 of 4 images have their results already' in run(*flags)[2]


@pytest.fixture
def compared(run, tmp_path, generators):
    """Two pictures converted by three methods; compared(*flags, methods=...) -> what is reported on going on."""
    for number, name in enumerate('ab'):
        photo(seed=number).save(tmp_path / f'{name}.png')
    mine = tmp_path / 'mine.pth'
    mine.write_bytes(Path(generators[4]).read_bytes())

    def go_on(*flags, methods=('bicubic', 'textsr', f'mine={mine}')):
        status, _, reported = run('a.png', 'b.png', '--skip_existing', '--ds_scale=4', '-o=out', *flags, '--methods',
                                  *methods)
        assert status == 0
        return reported
    assert '0 of 2 images have their results already' in go_on()
    return go_on


def figures(tmp_path):
    """{method: number of images} of metrics.json, which agrees with metrics.tsv."""
    counts = {name: method['images'] for name, method in
              json.loads((tmp_path / 'out/metrics.json').read_text())['methods'].items()}
    assert len((tmp_path / 'out/metrics.tsv').read_text().splitlines()) == 1 + sum(counts.values())
    return counts


@pytest.mark.parametrize('lost', ['metrics.tsv', 'metrics.json'])
def test_going_on_after_a_kill_gives_the_figures_of_all(compared, tmp_path, lost):
    everything = figures(tmp_path)
    assert everything == {'bicubic': 2, 'textsr': 2, 'mine': 2, 'original': 2}
    assert '2 of 2 images have their results already' in compared()
    (tmp_path / 'out' / lost).unlink()
    assert '0 of 2 images have their results already' in compared() and figures(tmp_path) == everything
    path = tmp_path / 'out/metrics.tsv'
    path.write_text(re.sub(r'b\.png\tb\.png\tmine\t.*\n', '', path.read_text()))
    assert '1 of 2 images have their results already' in compared() and figures(tmp_path) == everything


def test_going_on_by_some_of_the_methods(compared, tmp_path):
    (tmp_path / 'out/compare/b.png').unlink()
    assert '1 of 2 images have their results already' in compared(methods=['bicubic', 'textsr'])
    assert figures(tmp_path) == {'bicubic': 2, 'textsr': 2, 'original': 2}
    assert '"mine"' not in (tmp_path / 'out/compare/index.html').read_text()


def test_going_on_with_other_settings_converts_all_again(compared, tmp_path):
    for flags, changed in ((['--width=64', '--height=16'], 'width, height'),
                           (['--no_read', '--zoom', '2,2,9,9'], 'width, height, boxes, recognizer')):
        reported = compared(*flags)
        assert f'metrics.json: of a run with other {changed}:' in reported and '0 of 2 images' in reported
        assert '2 of 2 images have their results already' in compared(*flags)
    before = (tmp_path / 'out/mine/a.png').read_bytes()
    torch.manual_seed(7)
    save_checkpoint(tmp_path / 'mine.pth', {'state_dict': Generator(4, 1, 4).state_dict()})
    assert 'of a run with other weights, boxes, recognizer:' in compared()
    assert (tmp_path / 'out/mine/a.png').read_bytes() != before


def test_going_on_with_a_label_more(run, tmp_path):
    for number, name in enumerate('ab'):
        photo(seed=number).save(tmp_path / f'{name}.png')
    for labels in ('a.png\tx\n', 'a.png\tx\nb.png\ty\n'):  # no drawings, one method: there are figures all the same
        (tmp_path / 'gt.txt').write_text(labels)
        status, _, reported = run('a.png', 'b.png', '-o=out', '--labels', 'gt.txt', '--skip_existing')
        assert status == 0
    assert '1 of 2 images have their results already' in reported and figures(tmp_path) == {'textsr': 2}


def test_going_on_with_words_of_photographs_and_labels(run, tmp_path):
    photo((40, 20)).save(tmp_path / 'a.png')
    (tmp_path / 'gt.txt').write_text('a.png\tx\n')
    for _ in range(2):
        status, _, reported = run('a.png', '--zoom=2,2,9,9', '--labels', 'gt.txt', '--skip_existing')
    assert status == 0 and '1 of 1 images have their results already' in reported


def test_every_setting_that_figures_depend_on_counts(tmp_path):
    (tmp_path / 'boxes.txt').write_text('1,2,30,40')
    (tmp_path / 'ground.pth').write_text('1')
    flags = ['a.png', '--boxes', str(tmp_path / 'boxes.txt'), '--background', f'ground={tmp_path / "ground.pth"}']
    before = settings_of(parse_args(flags))
    weights = str(WEIGHTS / 'srgan.pth')
    for more in (['--beam_width=1'], ['--aster_path', weights], ['--background=bicubic'],
                 ['--methods', f'textsr={weights}'], ['--zoom=1,2,3,4'], ['--ds_scale=2'], ['--no_read']):
        assert settings_of(parse_args([*flags, *more])) != before, more
    for name, content in (('boxes.txt', '1,2,30,41'), ('ground.pth', '2')):
        before = settings_of(parse_args(flags))
        (tmp_path / name).write_text(content)
        assert settings_of(parse_args(flags)) != before, name


def test_going_on_beside_files_of_other_programs(run, tmp_path):
    photo().save(tmp_path / 'a.png')
    flags = ['a.png', '--methods', 'bicubic', 'textsr', '--skip_existing']
    assert run(*flags)[0] == 0
    for name, content in (('metrics.tsv', b'epoch\tloss\n1\t0.5\n'), ('metrics.tsv', b'\xff\xfe'),
                          ('metrics.tsv', b'"' + b'x' * 200_000), ('metrics.json', b'{'), ('metrics.json', b'[]')):
        path = tmp_path / 'enlarged' / name
        before = path.read_bytes()
        path.write_bytes(content)
        status, printed, reported = run(*flags)
        assert status == 2 and printed == '' and len(reported.splitlines()) == 1
        assert name in reported and 'move it away' in reported and path.read_bytes() == content
        path.write_bytes(before)
    (tmp_path / 'enlarged/metrics.tsv').unlink()
    (tmp_path / 'enlarged/metrics.tsv').mkdir()
    status, printed, reported = run(*flags)
    assert status == 2 and printed == '' and 'metrics.tsv' in reported and len(reported.splitlines()) == 1
