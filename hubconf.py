"""The networks for `torch.hub.load('PATH', NAME, source='local')`, PATH being this folder. Each is in eval mode.

`weights` names another shipped network of the kind, or the path of a file.
"""
from textsr import Enlarger, Reader

dependencies = ['torch', 'numpy', 'PIL', 'tqdm']


def textsr(weights='textsr'):
    """TextSR, x4: `enlarge(picture)` a PIL image, or call it with a batch (N, 3, h, w) in [0, 1]."""
    return Enlarger(weights)


def textsr_x2(weights='textsr_x2'):
    """TextSR, x2; see `textsr`."""
    return Enlarger(weights)


def srgan(weights='srgan'):
    """SRGAN, x4; see `textsr`."""
    return Enlarger(weights)


def aster(weights='aster'):
    """The recognizer: `read(picture)` the string in a PIL image of one word, or the strings in a list or a batch."""
    return Reader(weights)
