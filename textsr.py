"""TextSR from Python, in this folder or after `pip install .`:

    from PIL import Image
    from textsr import Enlarger, Reader
    large = Enlarger('textsr').enlarge(Image.open('word.png'))
    large.save('large.png')
    print(Reader('aster').read(large))

Both are `torch.nn.Module`s; a path takes the place of the name for weights of your own.
"""
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
# `pip install` puts the project beside this file, into a folder of its own: its modules have everyday names
PROJECT = FOLDER / 'textsr_project' if (FOLDER / 'textsr_project').is_dir() else FOLDER

other = getattr(sys.modules.get('lib'), '__path__', None)
if other is not None and str(PROJECT / 'lib') not in map(str, other):
    raise ImportError(f'textsr: another package called lib is in use, from {", ".join(map(str, other))}; TextSR has '
                      'one of that name, so the two cannot be imported into one program')
sys.path.insert(0, str(PROJECT))  # while its modules are imported: others of such names are to stay what they are
try:
    from lib.inference.pretrained import Enlarger, Reader
finally:
    sys.path.remove(str(PROJECT))

__all__ = ['Enlarger', 'Reader']


def run(script):
    """What a command does: run the `main` of a script of the project; returns its exit status."""
    sys.path.insert(0, str(PROJECT))
    if script == 'convert':
        import convert as module
    else:
        import main as module
    from lib.runtime.console import run_command
    return run_command(module.main)


def convert():
    """The command textsr-convert: convert.py."""
    return run('convert')


def train():
    """The command textsr-train: main.py."""
    return run('main')
