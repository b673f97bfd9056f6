"""`pip install .`: what it puts where, and that it works without the checkout."""
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
setuptools = pytest.importorskip('setuptools', minversion='77')
EXAMPLE = re.search(r'\n\n((?:    .*\n)+)', (ROOT / 'textsr.py').read_text())[1]


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    return tmp_path_factory.mktemp('source')


@pytest.fixture(scope='module')
def installed(source, tmp_path_factory):
    """The folder with what `pip install .` copies into site-packages, built of a copy of the project."""
    target = tmp_path_factory.mktemp('site packages')
    for folder in ('lib', 'utils'):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns('__pycache__'))
    for name in [*files(ROOT, '*.py'), 'pyproject.toml', 'MANIFEST.in', 'README.md', 'LICENSE']:
        shutil.copy(ROOT / name, source)
    (source / 'tests').mkdir()
    (source / 'tests/test_nothing.py').touch()
    (source / 'weights').symlink_to(ROOT / 'weights')
    build = subprocess.run([sys.executable, '-c', 'import setuptools; setuptools.setup()', '-q', 'egg_info', 'build',
                            '--build-lib', str(target)], cwd=source, check=True, capture_output=True, text=True)
    assert 'deprecated' not in build.stderr, 'a later setuptools would refuse it'
    return target


def files(folder, pattern='**/*'):
    return {str(path.relative_to(folder)) for path in folder.glob(pattern)
            if path.is_file() and path.parent.name != '__pycache__'}


def test_all_goes_into_one_module_and_one_folder(installed):
    assert {path.name for path in installed.iterdir()} == {'textsr.py', 'textsr_project'}
    project = installed / 'textsr_project'
    for folder in ('lib', 'utils'):
        assert files(project / folder) == files(ROOT / folder), 'packages and package-data of pyproject.toml'
    assert files(project, '*.py') == files(ROOT, '*.py')
    assert files(project, 'weights/*.pth') == files(ROOT, 'weights/*.pth')


def test_a_source_distribution_holds_no_tests(installed, source):
    """They need much that it has not: data, documents, what other tests share."""
    listed = list(map(os.path.normpath, (source / 'textsr.egg-info/SOURCES.txt').read_text().split()))
    assert {'convert.py', 'weights/textsr.pth'} <= set(listed)
    assert not [name for name in listed if name.startswith('tests')]


def test_example_and_commands_run_elsewhere(installed, tmp_path):
    """The imports for spandrel, the five lines of textsr.py and both commands, in a folder with a blank in its name."""
    folder = tmp_path / 'my words'
    folder.mkdir()
    shutil.copy(ROOT / 'demo_pics' / 'words' / '14_pharmacy.jpg', folder / 'word.png')
    documented = (ROOT / 'docs' / 'python.md').read_text()
    imports = re.findall('^(.*  # makes `lib` importable)\n(.*lib.*)$', documented, re.MULTILINE)[0]
    program = '\n'.join([*imports, *(line[4:] for line in EXAMPLE.splitlines())]) + '''
import sys
import textsr
assert not {'utils', 'main', 'convert'} & set(sys.modules), 'names of the project are in the way of others'
assert not any('textsr_project' in path for path in sys.path)
picture = ['--image_path=word.png', '--width=32', '--height=8', '--ds_scale=1', '--out_path=out']
for command, flags in ((textsr.train, ['--test']), (textsr.convert, picture)):
    try:
        sys.argv = ['textsr', *flags]
        command()
    except SystemExit as stop:
        print(command.__name__, stop.code)
'''
    environment = {**os.environ, 'PYTHONPATH': str(installed)}
    run = subprocess.run([sys.executable, '-c', program], cwd=folder, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert len(EXAMPLE.splitlines()) == 5
    lines = run.stdout.splitlines()
    assert lines[0].lower() == 'pharmacy' and 'train 2' in lines and lines[-1] == 'convert 0'
    assert 'name the sets with --test_data_dir' in run.stderr
    assert (folder / 'out' / 'textsr' / 'word.png').exists()


def test_metadata_names_the_requirements():
    tomllib = pytest.importorskip('tomllib')
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    needed = [line for line in (ROOT / 'requirements.txt').read_text().split() if not line.startswith('pytest')]
    assert project['dependencies'] == needed
    assert project['optional-dependencies']['export'] == (ROOT / 'requirements-export.txt').read_text().split()
    import textsr
    assert all(callable(getattr(textsr, target.partition(':')[2])) for target in project['scripts'].values())
