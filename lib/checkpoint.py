"""Files of weights: written whole or not at all, read without running anything they hold."""
import contextlib
import os
import pickle
from pathlib import Path

import numpy as np
import torch

from lib.models.aster import aster_from_state_dict
from lib.models.generator import generator_from_state_dict

# Released recognizers store their best accuracy as a numpy scalar; these types hold numbers and run nothing.
NUMPY_SCALARS = [np.dtype, np._core.multiarray.scalar if hasattr(np, '_core') else np.core.multiarray.scalar,
                 *{type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int32, np.int64)}]


@contextlib.contextmanager
def written_beside(path):
    """Give a path beside `path` to write to; at a clean end it is flushed and renamed to `path`, else removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f'.{path.name}.{os.getpid()}.partial')
    try:
        yield partial
        with open(partial, 'rb+') as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def save_checkpoint(path, content):
    """Save a dict of tensors and plain values; the file that was at `path` stays until the new one is whole.

    OSError that names the path where it cannot be written, as on a full disk.
    """
    try:
        with written_beside(path) as partial, open(partial, 'wb') as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:  # torch reports a failed write as a RuntimeError
        raise OSError(f'{path}: could not be written ({error}); the file that was there is untouched') from error


def load_checkpoint(path):
    """Read a checkpoint to the CPU with `weights_only=True`: nothing in it is run.

    FileNotFoundError where there is none. ValueError, naming the path and a readable checkpoint beside it if there is
    one, where the file is cut off, not a checkpoint, or holds code.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path}: no such checkpoint')
    content, problem = _read(path)
    if problem:
        usable = [other.name for other in sorted(path.parent.glob('*.pth')) if other != path and not _read(other)[1]]
        raise ValueError(f'{path}: {problem}' + (f'; readable beside it: {", ".join(usable)}' if usable else ''))
    return content


def _read(path):
    """The dict in a file and None, or None and what is wrong with the file."""
    try:
        with torch.serialization.safe_globals(NUMPY_SCALARS):
            content = torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError:
        return None, 'refused: it is no checkpoint of tensors and plain values, or it holds code that loading would run'
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        return None, f'not a whole checkpoint ({str(error).splitlines()[0] if str(error) else type(error).__name__})'
    return (content, None) if isinstance(content, dict) else (None, f'holds a {type(content).__name__}, not a dict')


def _load_model(path, keys, build):
    content = load_checkpoint(path)
    state_dict = next((content[key] for key in keys if isinstance(content.get(key), dict)), content)
    try:
        return build(state_dict)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error


def load_aster(path):
    """The recognizer in a released checkpoint ('state_dict'), a training checkpoint or a state dict, on the CPU."""
    return _load_model(path, ('recognizer', 'state_dict'), aster_from_state_dict)


def load_generator(path):
    """The generator in a file of weights ('state_dict'), a training checkpoint or a state dict, on the CPU."""
    return _load_model(path, ('generator', 'state_dict'), generator_from_state_dict)
