import importlib.util
import json

import pytest
import torch
from helpers import TINY_ASTER, status_of

from lib.checkpoint import load_generator, save_checkpoint
from lib.imaging import recognizer_input
from lib.models.aster import Aster
from lib.models.generator import Generator
from lib.vocabulary import Vocabulary
from utils import export_onnx

needs_exporter = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ('onnx', 'onnxscript', 'onnxruntime')),
    reason='pip install -r requirements-export.txt')
SHAPES = ((1, 3, 8, 32), (3, 3, 16, 64), (2, 3, 13, 57))


@pytest.fixture
def generator_file(tmp_path):
    torch.manual_seed(0)
    generator = Generator(2, 1, 4)
    generator.tail.weight.data.mul_(10)  # else the layers would hardly show beside the bicubic interpolation
    save_checkpoint(tmp_path / 'generator.pth', {'generator': generator.state_dict()})
    return tmp_path / 'generator.pth'


def export(weights, output, *flags):
    """Export and open it: the ONNX session, its metadata."""
    import onnxruntime
    assert export_onnx.main([str(weights), str(output), *flags]) == 0
    session = onnxruntime.InferenceSession(str(output), providers=['CPUExecutionProvider'])
    metadata = session.get_modelmeta().custom_metadata_map
    return session, {name: json.loads(metadata[name]) for name in ('scale', 'characters', 'eos') if name in metadata}


@needs_exporter
def test_generator_computes_what_torch_does_at_every_size(generator_file, tmp_path, capsys):
    session, metadata = export(generator_file, tmp_path / 'out' / 'generator.onnx')
    assert metadata == {'scale': 2} and 'differs from torch by at most' in capsys.readouterr().out
    model = load_generator(generator_file).eval()
    for shape in SHAPES:
        images = torch.rand(shape)
        result, = session.run(['images_sr'], {'images_lr': images.numpy()})
        with torch.no_grad():
            assert torch.allclose(torch.from_numpy(result), model(images), rtol=0, atol=1e-4)
    largest = export_onnx.largest_difference(tmp_path / 'out/generator.onnx', lambda lr: model(lr) + len(lr))
    assert largest == pytest.approx(3, abs=1e-3), 'that of the largest batch'
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['generator.onnx']


@needs_exporter
def test_recognizer_reads_what_its_greedy_decoding_does(tmp_path, monkeypatch):
    monkeypatch.setattr('lib.models.aster.recognizer.TEXT_SIZE', (32, 20))  # 5 columns: the exporter unrolls the LSTM
    torch.manual_seed(3)
    model = Aster(**TINY_ASTER)
    model.decoder.decoder.fc.weight.data.mul_(20)  # so that what it reads depends on the image and on what it read
    model.decoder.decoder.attention_unit.wEmbed.weight.data.mul_(20)
    save_checkpoint(tmp_path / 'aster.pth', {'recognizer': model.state_dict(), 'arch': 'aster'})
    session, metadata = export(tmp_path / 'aster.pth', tmp_path / 'aster.onnx', '--max_len', '4')
    vocabulary, model = Vocabulary(), model.eval()
    assert metadata == {'characters': vocabulary.characters, 'eos': vocabulary.eos}
    for shape in SHAPES:
        images = torch.rand(shape) * 1.4 - 0.2  # as of a generator, which is not clamped
        logits = torch.from_numpy(session.run(['logits'], {'images': images.numpy()})[0])
        assert logits.shape == (shape[0], 4, 97)
        ids, scores = model.decode(recognizer_input(images), max_len=4)
        log_probabilities, likeliest = logits.log_softmax(2).max(2)
        found, expected = ([vocabulary.decode(row) for row in rows.tolist()] for rows in (likeliest, ids))
        assert found == expected
        assert likeliest.unique().numel() > 1 and torch.allclose(log_probabilities.sum(1), scores, atol=1e-4)


@needs_exporter
def test_what_cannot_be_exported_is_named_and_leaves_nothing(generator_file, tmp_path, capsys):
    save_checkpoint(tmp_path / 'other.pth', {'a': torch.ones(1)})
    for weights, *flags in (['other.pth'], ['none.pth'], [generator_file.name, '--network', 'recognizer']):
        assert export_onnx.main([str(tmp_path / weights), str(tmp_path / 'out.onnx'), *flags]) == 2
        told = capsys.readouterr().err
        assert str(tmp_path / weights) in told and len(told.splitlines()) == 1
    assert not (tmp_path / 'out.onnx').exists()


@pytest.mark.parametrize('kind', ['path', 'link'])
def test_the_weights_are_not_overwritten(generator_file, tmp_path, monkeypatch, capsys, kind):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: True)
    before, output = generator_file.read_bytes(), generator_file
    if kind == 'link':
        output = tmp_path / 'out.onnx'
        output.symlink_to(generator_file)
    assert export_onnx.main([str(generator_file), str(output)]) == 2
    assert capsys.readouterr().err == f'export_onnx.py: {output}: is the file of weights; name another file to write\n'
    assert generator_file.read_bytes() == before


def test_missing_packages_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    assert export_onnx.main(['a.pth', str(tmp_path / 'a.onnx')]) == 2
    assert capsys.readouterr().err == ('export_onnx.py: needs onnx, onnxscript, onnxruntime: '
                                       'pip install -r requirements-export.txt\n')
    assert status_of(export_onnx.main, ['a.pth', 'a.onnx', '--max_len', '0']) == 2
    assert '--max_len 0: must be above zero' in capsys.readouterr().err


@needs_exporter
def test_the_cause_of_a_failed_export_is_named(generator_file, tmp_path, monkeypatch, capsys):
    def fail(*args):
        raise RuntimeError('Failed to export the model. ' * 20) from AttributeError('no attribute x')

    monkeypatch.setattr(export_onnx, 'export', fail)
    assert export_onnx.main([str(generator_file), str(tmp_path / 'out.onnx')]) == 2
    assert 'no attribute x' in capsys.readouterr().err
