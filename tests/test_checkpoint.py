import io
import os
import pickle
import signal
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from helpers import TINY_ASTER, files, largest_file

from lib import checkpoint
from lib.checkpoint import load_aster, load_checkpoint, load_generator, save_checkpoint
from lib.models.aster import Aster
from lib.models.generator import Generator
from lib.runtime.files import written_beside


def content(number=1.0):
    return {'epoch': 3, 'weights': torch.full((200, 100), number), 'sums': {'total': (1.5, 2)}, 'name': 'run'}


class Payload:
    """Unpickled by Python's pickle, it makes the folder `path`."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_what_was_saved_is_loaded(tmp_path):
    save_checkpoint(tmp_path / 'new' / 'last.pth', content())
    loaded = load_checkpoint(tmp_path / 'new' / 'last.pth')
    assert torch.equal(loaded.pop('weights'), content()['weights'])
    assert loaded == {'epoch': 3, 'sums': {'total': (1.5, 2)}, 'name': 'run'}
    assert files(tmp_path / 'new') == ['last.pth']


@pytest.mark.parametrize('failure', [OSError('broken'), RuntimeError('broken'), KeyboardInterrupt()])
def test_a_failure_while_writing_keeps_the_older_file(tmp_path, failure):
    path = tmp_path / 'last.pth'
    save_checkpoint(path, content(1))
    with pytest.raises(type(failure)), written_beside(path) as partial:
        partial.write_bytes(b'half')
        raise failure
    assert load_checkpoint(path)['weights'][0, 0] == 1
    assert files(tmp_path) == ['last.pth']


@pytest.mark.parametrize('path', ['.', '', 'folder'])
def test_a_folder_is_named(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'folder').mkdir()
    with pytest.raises(OSError, match=f'{path}: is a folder; name the file to write'):
        save_checkpoint(path, content())
    assert not files(tmp_path)


@pytest.mark.parametrize('limit', [0, 700, 4096, 80_000])
def test_full_disk(tmp_path, limit):
    """The system refuses bytes beyond `limit`, as a full disk would."""
    path = tmp_path / 'last.pth'
    save_checkpoint(path, content(1))
    told = 'last.pth: could not be written.*the file that was there is untouched'
    with largest_file(limit), pytest.raises(OSError, match=told):
        save_checkpoint(path, content(2))
    assert load_checkpoint(path)['weights'][0, 0] == 1
    assert files(tmp_path) == ['last.pth']


@pytest.mark.parametrize('moment', ['fsync', 'replace'])
def test_killed_while_saving(tmp_path, monkeypatch, moment):
    path = tmp_path / 'last.pth'
    save_checkpoint(path, content(1))
    monkeypatch.setattr(os, moment, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    child = os.fork()
    if child == 0:
        save_checkpoint(path, content(2))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert load_checkpoint(path)['weights'][0, 0] == 1


def test_the_new_name_is_given_only_to_bytes_on_the_disk(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(os, 'fsync', lambda descriptor: calls.append('fsync'))
    replace = os.replace
    monkeypatch.setattr(os, 'replace', lambda *names: (calls.append('replace'), replace(*names)))
    save_checkpoint(tmp_path / 'last.pth', content())
    assert calls == ['fsync', 'replace', 'fsync']  # the file, its name, the folder


def test_not_a_folder_to_write_to(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(OSError, match='file/last.pth'):
        save_checkpoint(tmp_path / 'file' / 'last.pth', content())


def test_missing_names_what_is_beside(tmp_path):
    save_checkpoint(tmp_path / 'best.pth', content())
    with pytest.raises(FileNotFoundError, match='last.pth: no such checkpoint; readable beside it: best.pth'):
        load_checkpoint(tmp_path / 'last.pth')
    with pytest.raises(FileNotFoundError, match=f'{tmp_path.name}: no such checkpoint; readable in it: best.pth'):
        load_checkpoint(tmp_path)


def test_truncated_anywhere(tmp_path):
    save_checkpoint(tmp_path / 'best.pth', content())
    save_checkpoint(tmp_path / 'other.pth', content())
    whole = (tmp_path / 'other.pth').read_bytes()
    (tmp_path / 'other.pth').write_bytes(whole[:-1])
    for size in [0, 1, 4, 100, *np.random.default_rng(0).integers(5, len(whole), 20)]:
        (tmp_path / 'last.pth').write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r'last.pth: .*; readable beside it: best.pth$') as caught:
            load_checkpoint(tmp_path / 'last.pth')
        assert '\n' not in str(caught.value)


@pytest.mark.parametrize('foreign', [
    b'\xff\xd8\xff\xe0 a picture', b'import os\n', b'PK\x03\x04' + b'\0' * 500, pickle.dumps([1, 2]), os.urandom(3000),
    b'<!DOCTYPE html><html>404</html>', b'version https://git-lfs.github.com/spec/v1\n', b'\x80\x02.',
], ids=['jpeg', 'python', 'zip', 'pickle', 'random', 'html', 'lfs', 'empty pickle'])
def test_foreign_files(tmp_path, foreign):
    (tmp_path / 'last.pth').write_bytes(foreign)
    with pytest.raises(ValueError, match='last.pth: ') as caught:
        load_checkpoint(tmp_path / 'last.pth')
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('holds', [torch.zeros(3), [1, 2], 7])
def test_not_a_dict(tmp_path, holds):
    torch.save(holds, tmp_path / 'last.pth')
    with pytest.raises(ValueError, match='last.pth: holds a .*not a dict'):
        load_checkpoint(tmp_path / 'last.pth')


@pytest.mark.parametrize('form', ['zip', 'legacy', 'plain'])
@pytest.mark.parametrize('load', [load_checkpoint, load_aster, load_generator])
def test_a_payload_is_refused_and_does_not_run(tmp_path, form, load):
    made, path = tmp_path / 'made', tmp_path / 'evil.pth'
    evil = {'state_dict': {'tail.weight': torch.zeros(2)}, 'epoch': Payload(made)}
    if form == 'plain':
        path.write_bytes(pickle.dumps(evil['epoch']))
    else:
        torch.save(evil, path, _use_new_zipfile_serialization=form == 'zip')
    with pytest.raises(ValueError, match='evil.pth: refused: .*holds code'):
        load(path)
    assert not made.exists()
    with open(path, 'rb') as file:  # the same bytes do run where they are trusted
        pickle.load(file) if form == 'plain' else torch.load(file, weights_only=False)
    assert made.exists()


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('module', [b'numpy.core.multiarray', b'numpy._core.multiarray'])
def test_numpy_scalars_of_released_recognizers(tmp_path, zipped, module):
    """Their pickles name numpy's module as it was called when they were saved."""
    scalars = {'best_res': np.float64(0.93), 'iters': np.int64(7), 'loss': np.float32(1.5)}
    buffer = io.BytesIO()
    torch.save({**scalars, 'state_dict': {'w': torch.ones(2)}}, buffer, _use_new_zipfile_serialization=zipped)
    raw, current = buffer.getvalue(), np.core.multiarray if not hasattr(np, '_core') else np._core.multiarray
    own = f'c{current.scalar.__module__}\nscalar\n'.encode()
    named = b'c' + module + b'\nscalar\n'
    assert own in raw
    if zipped and len(own) != len(named):  # a zip file cannot be patched in place: build it anew
        patched = io.BytesIO()
        with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(patched, 'w') as new:
            for name in old.namelist():
                data = old.read(name)
                new.writestr(name, data.replace(own, named) if name.endswith('data.pkl') else data)
        raw = patched.getvalue()
    else:
        raw = raw.replace(own, named)
    assert named in raw
    (tmp_path / 'released.pth').write_bytes(raw)
    loaded = load_checkpoint(tmp_path / 'released.pth')
    assert {name: loaded[name] for name in scalars} == scalars
    assert torch.equal(loaded['state_dict']['w'], torch.ones(2))


def test_object_scalars_are_refused(tmp_path):
    """A numpy scalar of objects could hold a pickle in a pickle."""
    class Scalar:
        def __reduce__(self):
            return checkpoint._SCALAR, (np.dtype('O'), pickle.dumps(Payload(tmp_path / 'made')))
    torch.save({'best_res': Scalar()}, tmp_path / 'evil.pth')
    with pytest.raises(ValueError, match='evil.pth'):
        load_checkpoint(tmp_path / 'evil.pth')
    assert not (tmp_path / 'made').exists()


@pytest.mark.parametrize('kind', ['tar', 'TorchScript'])
def test_archives_that_weights_only_did_not_guard_are_refused(tmp_path, kind):
    path = tmp_path / 'evil.pth'
    if kind == 'tar':
        with tarfile.open(path, 'w') as archive:
            for name in ('sys_info', 'pickle', 'tensors', 'storages'):
                archive.addfile(tarfile.TarInfo(name))
    else:
        torch.save({}, path)
        with zipfile.ZipFile(path, 'a') as archive:
            archive.writestr('evil/constants.pkl', pickle.dumps({}))
    with pytest.raises(ValueError, match='evil.pth: refused: a TorchScript or tar archive'):
        load_checkpoint(path)


@pytest.mark.parametrize(('key', 'prefix'), [
    ('state_dict', ''), ('generator', 'module.'), ('params_ema', '_orig_mod.'), ('model', 'model.'),
    ('generator', 'module._orig_mod.generator.'), (None, ''), (None, 'module._orig_mod.generator.')])
def test_generators_by_any_name(tmp_path, key, prefix):
    weights = Generator(2, 1, 4).state_dict()
    named = {prefix + name: value for name, value in weights.items()}
    save_checkpoint(tmp_path / 'generator.pth', {key: named, 'epoch': 2} if key else named)
    loaded = load_generator(tmp_path / 'generator.pth')
    assert loaded.scale == 2
    assert all(torch.equal(value, weights[name]) for name, value in loaded.state_dict().items())


@pytest.mark.parametrize(('load', 'wrong'), [  # a recognizer of the default sizes is built to compare with: seconds
    (load_aster, {1: torch.ones(2)}), (load_aster, {'state_dict': {'tail.weight': torch.ones(2, 2)}}),
    (load_aster, {'decoder.decoder.fc.weight': 3}),
    (load_generator, {'a': 1}), (load_generator, {}), (load_generator, {1: torch.ones(2)}),
    (load_generator, {'state_dict': {'tail.weight': torch.ones(2, 2)}}), (load_generator, {'tail.weight': 'text'}),
    (load_generator, {'state_dict': {'upsample.0': torch.ones(1)}}),
    (load_generator, {'state_dict': {'tail.weight': torch.ones(5)}})])
def test_other_weights_are_named(tmp_path, load, wrong):
    save_checkpoint(tmp_path / 'other.pth', wrong)
    with pytest.raises(ValueError, match='other.pth: not the state dict of') as caught:
        load(tmp_path / 'other.pth')
    assert '\n' not in str(caught.value)


def test_a_recognizer_of_unknown_classes_is_named(tmp_path):
    save_checkpoint(tmp_path / 'other.pth', Aster(**{**TINY_ASTER, 'num_classes': 50}).state_dict())
    with pytest.raises(ValueError, match='other.pth: no vocabulary has 50 classes'):
        load_aster(tmp_path / 'other.pth')


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_weights_that_are_not_finite_are_refused_and_named(tmp_path, value):
    generator = Generator(2, 1, 4)
    generator.tail.bias.data[1] = value
    save_checkpoint(tmp_path / 'new.pth', {'generator': generator.state_dict()})
    with pytest.raises(ValueError, match='new.pth: weights of the generator are NaN or infinite: tail.bias$'):
        load_generator(tmp_path / 'new.pth')


def test_of_two_kinds_of_weights_the_average_is_taken_without_what_lies_beside_it(tmp_path):
    raw, average = Generator(2, 1, 4), Generator(2, 1, 4)
    beside = {'steps.of.another.network': torch.zeros(1)}
    weights = {f'net.{name}': value for name, value in average.state_dict().items()}
    save_checkpoint(tmp_path / 'g.pth', {'params': raw.state_dict(), 'params_ema': {**weights, **beside}})
    assert torch.equal(load_generator(tmp_path / 'g.pth').tail.weight, average.tail.weight)
