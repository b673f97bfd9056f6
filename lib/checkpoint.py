"""Files of weights: written whole or not at all, read without running anything they hold."""
import codecs
import contextlib
import io
import pickle
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch

try:
    import safetensors.torch
except ImportError:
    safetensors = None

from lib.models.aster import aster_from_state_dict
from lib.models.generator import generator_from_state_dict
from lib.options import SAVED_NETWORKS
from lib.runtime.console import first_five
from lib.runtime.files import written_beside
from lib.vocabulary import vocabulary_of

# Released recognizers store their best accuracy as a numpy scalar; these types hold numbers and run nothing. numpy 1
# and numpy 2 name the module differently, so a file may hold either name.
_SCALAR = np._core.multiarray.scalar if hasattr(np, '_core') else np.core.multiarray.scalar
NUMPY_SCALARS = {'numpy.core.multiarray.scalar': _SCALAR, 'numpy._core.multiarray.scalar': _SCALAR,
                 'numpy.dtype': np.dtype}
NUMPY_SCALARS.update({f'numpy.dtypes.{kind.__name__}': kind for kind in
                      {type(np.dtype(name)) for name in ('float16', 'float32', 'float64', 'int32', 'int64', 'bool')}})

NO_SAFETENSORS = 'needs the package safetensors: pip install safetensors'
REFUSED_ARCHIVE = 'refused: a TorchScript or tar archive, which can hold code that loading would run'
# Where other projects keep weights in a file, and a name that each network has: what stands before it is a prefix.
KEYS = ('params_ema', 'state_dict_ema', 'params', 'state_dict', 'model_state_dict', 'model')
ANCHORS = {'generator': 'tail.weight', 'recognizer': 'decoder.decoder.fc.weight'}
KINDS = {'generator': 'a generator', 'recognizer': 'an ASTER recognizer'}


def save_checkpoint(path, content):
    """Save a dict of tensors and plain values; the file that was at `path` stays until the new one is whole.

    OSError that names the path where it cannot be written, as on a full disk.
    """
    buffer = io.BytesIO()  # on a full disk torch's own writing would report file positions
    torch.save(content, buffer)
    with written_beside(path) as partial:
        partial.write_bytes(buffer.getbuffer())


def save_weights(path, state_dict, **about):
    """Save the weights of one network and a few plain values about it; errors as those of `save_checkpoint`.

    A .safetensors file holds the values as strings, in its metadata. ValueError where that package is not installed.
    """
    if Path(path).suffix != '.safetensors':
        save_checkpoint(path, {'state_dict': state_dict, **about})
        return
    if safetensors is None:
        raise ValueError(f'{path}: {NO_SAFETENSORS}')
    content = safetensors.torch.save({name: value.contiguous() for name, value in state_dict.items()},
                                     {name: str(value) for name, value in about.items()})
    with written_beside(path) as partial:
        partial.write_bytes(content)


def load_checkpoint(path):
    """Read a checkpoint to the CPU with `weights_only=True`: nothing in it is run. Of .safetensors, the tensors.

    FileNotFoundError where there is none. ValueError where the file is cut off, not a checkpoint, or holds code. Both
    name the path and the readable checkpoints beside it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path}: no such checkpoint{_readable_beside(path)}')
    content, problem = _read(path)
    if problem:
        raise ValueError(f'{path}: {problem}{_readable_beside(path)}')
    return content


def _readable_beside(path):
    where, folder = ('in', path) if path.is_dir() else ('beside', path.parent)
    usable = [other.name for other in sorted(folder.glob('*.pth')) if other != path and not _read(other)[1]]
    return f'; readable {where} it: {", ".join(usable)}' if usable else ''


def _read(path):
    """The dict in a file and None, or None and what is wrong with the file."""
    try:
        if path.suffix == '.safetensors':
            return (None, NO_SAFETENSORS) if safetensors is None else (safetensors.torch.load(path.read_bytes()), None)
        if torch.__version__ < (2, 6) and _is_archive(path):
            return None, REFUSED_ARCHIVE
        with _numpy_scalars_allowed(), warnings.catch_warnings():
            warnings.simplefilter('ignore')  # foreign pickles may be of other protocols
            content = torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError:
        return None, 'refused: it is no checkpoint of tensors and plain values, or it holds code that loading would run'
    except Exception as error:  # torch raises many kinds of exceptions for damaged files
        if 'weights_only' in str(error):  # torch advises to load it without the guard
            return None, REFUSED_ARCHIVE
        return None, f'not a whole checkpoint ({str(error).splitlines()[0] if str(error) else type(error).__name__})'
    return (content, None) if isinstance(content, dict) else (None, f'holds a {type(content).__name__}, not a dict')


def _is_archive(path):
    """Whether the file is of a kind that `weights_only` does not guard before torch 2.6 (CVE-2025-32434)."""
    if not zipfile.is_zipfile(path):
        return tarfile.is_tarfile(path)
    return torch.serialization._is_torchscript_zip(torch._C.PyTorchFileReader(str(path)))


@contextlib.contextmanager
def _numpy_scalars_allowed():
    """While entered, `weights_only` loading takes the types of NUMPY_SCALARS too."""
    if torch.__version__ >= (2, 6):
        with torch.serialization.safe_globals([(kind, name) for name, kind in NUMPY_SCALARS.items()]):
            yield
        return
    unpickler = torch._weights_only_unpickler  # it takes no names from outside: put them among its own
    own = unpickler._get_allowed_globals
    scalars = {name: _scalar if name.endswith('scalar') else _dtype for name in NUMPY_SCALARS}
    allowed = {**own(), '_codecs.encode': codecs.encode, **scalars}
    unpickler._get_allowed_globals = lambda: allowed
    try:
        yield
    finally:
        unpickler._get_allowed_globals = own


def _dtype(*args):
    """A numpy type of numbers, in a parameter: an old unpickler gives a state to nothing else."""
    kind = np.dtype(*args)
    if kind.kind not in 'biuf':
        raise pickle.UnpicklingError(f'{kind} is no type of numbers')
    box = torch.nn.Parameter(torch.empty(0))
    box.kind, box.__setstate__ = kind, kind.__setstate__
    return box


def _scalar(box, data):
    return _SCALAR(box.kind, data)


def _state_dict(content, network):
    """The state dict of a network in what a file holds, under whatever key and prefix; ValueError where it is not
    there, or several times."""
    state_dict = next((content[key] for key in (network, *KEYS) if isinstance(content.get(key), dict)), content)
    if not all(isinstance(name, str) for name in state_dict):
        raise ValueError('not the state dict of a network: it has names that are no strings')
    anchor = ANCHORS[network]
    prefixes = [name[:-len(anchor)] for name in state_dict if name == anchor or name.endswith('.' + anchor)]
    if len(prefixes) > 1:
        raise ValueError(f'holds {len(prefixes)} such networks, with names that begin with '
                         f'{", ".join(map(repr, prefixes))}; save the one that is meant')
    if not prefixes:
        names = ', '.join(list(state_dict)[:3]) + (', ...' if len(state_dict) > 3 else '')
        raise ValueError(f'not the state dict of {KINDS[network]}: it has no {anchor}, but {names or "nothing"}')
    return {name[len(prefixes[0]):]: value for name, value in state_dict.items() if name.startswith(prefixes[0])}


def _known_recognizer(state_dict):
    recognizer = aster_from_state_dict(state_dict)
    vocabulary_of(recognizer.num_classes, recognizer.alphabet)
    return recognizer


BUILDERS = dict(zip(SAVED_NETWORKS, (generator_from_state_dict, _known_recognizer)))


def load_network(path, network=None):
    """The network in a file, on the CPU, which one it is, and all that the file holds.

    network: a key of BUILDERS; None: the generator where there is one. ValueError that names the path where it is not
    there, or has weights that are NaN or infinite.
    """
    content, problems = load_checkpoint(path), []
    for name in [network] if network else BUILDERS:
        try:
            model = BUILDERS[name](_state_dict(content, name))
        except ValueError as error:
            problems.append(str(error))
            continue
        broken = [key for key, tensor in model.state_dict().items() if not tensor.isfinite().all()]
        if broken:
            raise ValueError(f'{path}: weights of the {name} are NaN or infinite: {first_five(broken)}')
        return model, name, content
    raise ValueError(f'{path}: {"; ".join(problems)}')


def load_aster(path):
    """The recognizer in a released checkpoint ('state_dict'), a training checkpoint or a state dict, on the CPU.

    ValueError also where nothing says which characters its classes stand for.
    """
    return load_network(path, 'recognizer')[0]


def load_generator(path):
    """The generator in a file of weights, a training checkpoint or a state dict, on the CPU.

    Files of other projects load too: under 'params_ema' and the like, with prefixes such as '_orig_mod.'.
    """
    return load_network(path, 'generator')[0]
