"""test.sh: which folders it finds, and what it says of those it does not."""
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ORDER = ['ic15', 'ic13', 'ic03', 'CUTE80', 'svt', 'svtp', 'IIIT5K']


@pytest.fixture
def run(tmp_path):
    """Run test.sh with an interpreter that prints its arguments, one a line."""
    echo = tmp_path / 'echo.sh'
    echo.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    echo.chmod(0o755)

    def call(*arguments, cwd=tmp_path, python=str(echo)):
        return subprocess.run(['sh', str(ROOT / 'test.sh'), *map(str, arguments)], cwd=cwd, text=True,
                              capture_output=True, env={'PATH': '/usr/bin:/bin', 'PYTHON': python})
    return call


def make_sets(root, *names):
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / 'data.mdb').touch()


def sets_given(result):
    return dict(line.split('=', 1) for line in result.stdout.splitlines() if '=' in line)


def test_finds_every_usual_name(run, tmp_path):
    root = tmp_path / 'a root'
    make_sets(root, 'ic15_2077', 'ic13_1015', 'ic03_860', 'cute80_288', 'svt_647', 'svt_p_645', 'IIIT5K_3000')
    result = run(root)
    assert result.returncode == 0 and result.stderr == ''
    assert list(sets_given(result)) == ORDER
    assert sets_given(result)['svtp'] == f'{root}/svt_p_645'


def test_missing_sets_are_named_and_left_blank(run, tmp_path):
    make_sets(tmp_path / 'dataset', 'svt_647', 'ic15_1811', 'ic15_2077')
    result = run()  # without DATA_ROOT: ./dataset
    assert result.returncode == 0
    given = sets_given(result)
    assert given['svt'] == './dataset/svt_647' and given['ic15'] == './dataset/ic15_1811'
    assert [name for name in ORDER if given[name] == ''] == ['ic13', 'ic03', 'CUTE80', 'svtp', 'IIIT5K']
    assert 'ic03_867 or ic03_860' in result.stderr and len(result.stderr.splitlines()) == 5


def test_flags_are_passed_on(run, tmp_path):
    make_sets(tmp_path / 'dataset', 'svt_647')
    assert '--beam_width\n5\n' in run('--beam_width', 5).stdout
    assert '--beam_width\n5\n' in run('dataset', '--beam_width', 5).stdout


def test_help_needs_no_set(run):
    for flag in ('-h', '--help'):
        result = run(flag)
        assert result.returncode == 0 and 'sh test.sh [DATA_ROOT] [flags of main.py]' in result.stdout.splitlines()[2]
        assert result.stdout.splitlines()[-1].startswith('and a line on stderr')


def test_no_set_at_all_is_an_error(run, tmp_path):
    result = run(tmp_path / 'nowhere')
    assert result.returncode == 1 and 'no test set in' in result.stderr


