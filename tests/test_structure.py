"""The shape of the project: imports point down, files stay short, no work at import."""
import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# From the top down; a module may import from its own layer and those below, docs/design.md.
LAYERS = [
    ('lib/build.py',), ('lib/engine.py', 'lib/inference'), ('lib/trainers.py',),
    ('lib/checkpoint.py', 'lib/datasets', 'lib/losses', 'lib/models', 'lib/runtime/logs.py'),
    ('lib/runtime', 'lib/wordsets', 'lib/metrics.py', 'lib/options.py'), ('lib/imaging.py', 'lib/vocabulary.py'),
    ('lib/formats.py',),
]
FILES = sorted(ROOT.glob('lib/**/*.py'))


def layer(path):
    """The number of the layer of a file or folder below the project, by the longest name that fits."""
    fitting = [(len(name), number) for number, names in enumerate(LAYERS) for name in names
               if path == name or path.startswith(name + '/')]
    return max(fitting)[1]


def imports(path):
    """Modules that a file imports, as paths below the project; packages of others are left out."""
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module, *(f'{node.module}.{alias.name}' for alias in node.names)]
        for name in names:
            target = name.replace('.', '/')
            for candidate in (f'{target}.py', f'{target}/__init__.py'):
                if (ROOT / candidate).exists() and (ROOT / candidate).stat().st_size:
                    yield candidate


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    for target in imports(path):
        assert target.startswith('lib/'), f'{path.name} imports {target}'
        assert layer(str(path.relative_to(ROOT))) <= layer(target), f'{path.name} imports {target}, which is above it'


def test_no_file_is_long():
    sources = [path for names in ('*.py', 'lib/**/*.py', 'utils/*.py', 'tests/*.py') for path in ROOT.glob(names)]
    assert not {str(path.relative_to(ROOT)): lines for path in sources
                if (lines := len(path.read_text(encoding='utf-8').splitlines())) > 400}
