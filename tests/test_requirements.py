"""The versions that are named: the lowest ones that CI tries are those that the project asks for."""
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def lines(path):
    return [line for line in (ROOT / path).read_text(encoding='utf-8').splitlines() if not line.startswith('#')]


def test_ci_tries_the_lowest_versions_that_are_allowed():
    assert lines('.ci/lowest.txt') == [line.replace('>=', '==') for line in lines('requirements.txt')]
    assert all(re.fullmatch(r'[\w-]+>=[\d.]+', line) for line in lines('requirements.txt'))


def test_one_lowest_python_everywhere():
    python = re.search(r'Python (\d+\.\d+)', (ROOT / '.ci' / 'lowest.txt').read_text())[1]
    project = (ROOT / 'pyproject.toml').read_text()
    assert f'requires-python = ">={python}"' in project
    assert f'target-version = "py{python.replace(".", "")}"' in project
    assert f'Python {python} or later' in (ROOT / 'README.md').read_text(encoding='utf-8')
