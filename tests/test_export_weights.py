import pytest
import torch
from helpers import TINY_ASTER

from lib.checkpoint import load_aster, load_generator, save_checkpoint
from lib.models.aster import Aster
from lib.models.generator import Generator
from utils.export_weights import main


@pytest.fixture
def checkpoint(tmp_path):
    content = {'arch': 'textsr', 'progress': {'iteration': 7}, 'updates': {},
               'generator': Generator(4, 1, 4).state_dict()}
    save_checkpoint(tmp_path / 'last.pth', content)
    return tmp_path / 'last.pth'


def test_weights_come_out_in_half_precision_and_load(checkpoint, tmp_path):
    assert main([str(checkpoint), str(tmp_path / 'out.pth')]) == 0
    content = torch.load(tmp_path / 'out.pth', weights_only=True)
    assert content['iteration'] == 7 and content['arch'] == 'textsr' and 'updates' not in content
    assert content['state_dict']['tail.weight'].dtype == torch.float16
    expected = torch.load(checkpoint, weights_only=True)['generator']['tail.weight']
    assert torch.allclose(load_generator(tmp_path / 'out.pth').tail.weight, expected, atol=1e-3)


def test_float32_is_kept_on_demand(checkpoint, tmp_path):
    main([str(checkpoint), str(tmp_path / 'out.pth'), '--float32'])
    assert torch.load(tmp_path / 'out.pth', weights_only=True)['state_dict']['tail.weight'].dtype == torch.float32


def test_weights_are_averaged(checkpoint, tmp_path, capsys):
    save_checkpoint(tmp_path / 'other.pth', {'arch': 'textsr', 'state_dict': Generator(4, 1, 4).half().state_dict()})
    out = str(tmp_path / 'out.pth')
    assert main([str(checkpoint), out, '--average', str(tmp_path / 'other.pth'), '0.25', '--float32']) == 0
    first, second, mean = (load_generator(path).head[0].weight for path in (checkpoint, tmp_path / 'other.pth', out))
    torch.testing.assert_close(mean, 0.75 * first + 0.25 * second)
    save_checkpoint(tmp_path / 'other.pth', {'arch': 'textsr', 'state_dict': Generator(4, 2, 4).state_dict()})
    assert main([str(checkpoint), out, '--average', str(tmp_path / 'other.pth'), '0.25']) == 2
    assert 'other.pth: other layers or sizes' in capsys.readouterr().err
    for share in ('half', '2'):
        with pytest.raises(SystemExit):
            main([str(checkpoint), out, '--average', str(tmp_path / 'other.pth'), share])


def test_the_average_with_bicubic_interpolation(checkpoint, tmp_path, capsys):
    out, picture = str(tmp_path / 'out.pth'), torch.rand(1, 3, 8, 8)
    assert main([str(checkpoint), out, '--average', 'bicubic', '0.25', '--float32']) == 0
    before, after = load_generator(checkpoint), load_generator(out)
    with torch.no_grad():
        torch.testing.assert_close(after(picture), 0.75 * before(picture) + 0.25 * before.base(picture))
    save_checkpoint(tmp_path / 'reader.pth', {'arch': 'aster', 'recognizer': {'weight': torch.ones(1)}})
    assert main([str(tmp_path / 'reader.pth'), out, '--average', 'bicubic', '0.25']) == 2
    assert 'no generator' in capsys.readouterr().err


def test_batch_norm_is_folded_before_averaging(checkpoint, tmp_path):
    torch.manual_seed(0)
    other = Generator(4, 1, 4, batch_norm=True)
    other(torch.rand(4, 3, 8, 8))  # statistics that are not the first ones
    save_checkpoint(tmp_path / 'other.pth', {'arch': 'srresnet', 'state_dict': other.state_dict()})
    out = str(tmp_path / 'out.pth')
    assert main([str(checkpoint), out, '--average', str(tmp_path / 'other.pth'), '1', '--float32']) == 0
    picture = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(load_generator(out)(picture), other.eval()(picture))


def test_what_is_not_there_is_named(checkpoint, tmp_path, capsys):
    assert main([str(checkpoint), str(tmp_path / 'out.pth'), '--network', 'recognizer']) == 2
    assert 'no recognizer of main.py in it' in capsys.readouterr().err and not (tmp_path / 'out.pth').exists()
    assert main([str(tmp_path / 'none.pth'), str(tmp_path / 'out.pth')]) == 2
    capsys.readouterr()
    save_checkpoint(tmp_path / 'bare.pth', Generator(4, 16, 4).state_dict())
    assert main([str(tmp_path / 'bare.pth'), str(tmp_path / 'out.pth')]) == 2
    assert 'no generator' in (line := capsys.readouterr().err) and ' more' in line and len(line) < 500


def test_half_precision_does_not_move_what_the_recognizer_sees(tmp_path):
    torch.manual_seed(0)
    aster = Aster(**TINY_ASTER)
    save_checkpoint(tmp_path / 'last.pth', {'arch': 'aster', 'progress': {'iteration': 7}, 'updates': {},
                                            'recognizer': aster.state_dict()})
    assert main([str(tmp_path / 'last.pth'), str(tmp_path / 'out.pth')]) == 0
    exported = load_aster(tmp_path / 'out.pth')
    assert not torch.equal(exported.encoder.layer0[0].weight, aster.encoder.layer0[0].weight)  # in half precision
    images, points = torch.rand(2, 3, 64, 256), torch.rand(2, 20, 2)
    assert torch.equal(exported.tps(images, points), aster.tps(images, points))


@pytest.mark.parametrize('network', ['generator', 'recognizer'])
def test_safetensors_hold_the_same(tmp_path, network):
    """Of a run, and of a file of weights; the alphabet included."""
    pytest.importorskip('safetensors')
    model, arch = ((Generator(2, 1, 4), 'textsr') if network == 'generator' else
                   (Aster(6, alphabet='abc', **TINY_ASTER), 'aster'))
    model.to(memory_format=torch.channels_last)
    save_checkpoint(tmp_path / 'last.pth', {'arch': arch, 'progress': {'iteration': 7}, network: model.state_dict()})
    assert main([str(tmp_path / 'last.pth'), str(tmp_path / 'a.pth'), '--float32']) == 0
    for source, output in (('last.pth', 'a.safetensors'), ('a.pth', 'b.safetensors')):
        assert main([str(tmp_path / source), str(tmp_path / output), '--float32']) == 0
        loaded = (load_generator if network == 'generator' else load_aster)(tmp_path / output).state_dict()
        assert loaded.keys() == model.state_dict().keys()
        assert all(torch.equal(value, loaded[name]) for name, value in model.state_dict().items())


def test_damaged_and_foreign_safetensors_are_named(tmp_path):
    pytest.importorskip('safetensors')
    (tmp_path / 'cut.safetensors').write_bytes(b'\x10\0\0\0\0\0\0\0{')
    with pytest.raises(ValueError, match='cut.safetensors: not a whole checkpoint'):
        load_generator(tmp_path / 'cut.safetensors')


def test_safetensors_without_the_package(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr('lib.checkpoint.safetensors', None)
    (tmp_path / 'some.safetensors').touch()
    with pytest.raises(ValueError, match='some.safetensors: needs the package safetensors: pip install'):
        load_generator(tmp_path / 'some.safetensors')
    assert main([str(checkpoint), str(tmp_path / 'out.safetensors')]) == 2
    assert 'pip install safetensors' in capsys.readouterr().err and not (tmp_path / 'out.safetensors').exists()
