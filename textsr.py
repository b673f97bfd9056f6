"""TextSR from Python, in this folder or after `pip install .`:

    from PIL import Image
    from textsr import Enlarger, Reader
    large = Enlarger('textsr').enlarge(Image.open('word.png'))
    large.save('large.png')
    print(Reader('aster').read(large))

Both are `torch.nn.Module`s; a path takes the place of the name for weights of your own.
"""
import runpy
import sys
from pathlib import Path

__all__ = ['Enlarger', 'Reader']  # noqa: F822 - see __getattr__
FOLDER = Path(__file__).resolve().parent
# `pip install` puts the project beside this file, into a folder of its own: its modules have everyday names
PROJECT = FOLDER / 'textsr_project' if (FOLDER / 'textsr_project').is_dir() else FOLDER


def __getattr__(name):
    """Import the classes when they are asked for: the commands below answer --help before torch is imported.

    ImportError where the program has another package or module `lib`.
    """
    if name not in __all__:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    other = sys.modules.get('lib')
    places = [str(place) for place in getattr(other, '__path__', [getattr(other, '__file__', None)])]
    if other is not None and str(PROJECT / 'lib') not in places:
        raise ImportError(f'textsr: another module called lib is in use, from {", ".join(places)}; TextSR has one of '
                          'that name, so the two cannot be imported into one program')
    sys.path.insert(0, str(PROJECT))  # only while importing: others may have modules called main or utils
    try:
        from lib.inference import pretrained
    finally:
        sys.path.remove(str(PROJECT))
    return getattr(pretrained, name)


def run(script):
    """Run a script of the project with the arguments of this process."""
    sys.path.insert(0, str(PROJECT))
    runpy.run_path(str(PROJECT / script), run_name='__main__')


def convert():
    """The command textsr-convert: convert.py."""
    run('convert.py')


def train():
    """The command textsr-train: main.py."""
    run('main.py')
