import pytest
import torch
from helpers import TINY_ASTER, status_of

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


def test_weights_are_averaged(checkpoint, tmp_path, capsys):
    save_checkpoint(tmp_path / 'other.pth', {'arch': 'textsr', 'state_dict': Generator(4, 1, 4).half().state_dict()})
    out = str(tmp_path / 'out.pth')
    assert main([str(checkpoint), out, '--average', str(tmp_path / 'other.pth'), '0.25', '--float32']) == 0
    first, second, mean = (load_generator(path).head[0].weight for path in (checkpoint, tmp_path / 'other.pth', out))
    torch.testing.assert_close(mean, 0.75 * first + 0.25 * second)
    save_checkpoint(tmp_path / 'other.pth', {'arch': 'textsr', 'state_dict': Generator(4, 2, 4).state_dict()})
    assert main([str(checkpoint), out, '--average', str(tmp_path / 'other.pth'), '0.25']) == 2
    assert 'other.pth: other layers or sizes' in capsys.readouterr().err
    for name in ('abc', 'cba'):
        save_checkpoint(tmp_path / f'{name}.pth', {'state_dict': Aster(6, alphabet=name, **TINY_ASTER).state_dict()})
    assert main([str(tmp_path / 'abc.pth'), out, '--average', str(tmp_path / 'cba.pth'), '0.25']) == 2
    assert 'cba.pth: another alphabet' in capsys.readouterr().err
    for share in ('half', '2'):
        assert status_of(main, [str(checkpoint), out, '--average', str(tmp_path / 'other.pth'), share]) == 2


def test_the_average_with_bicubic_interpolation(checkpoint, tiny_aster, tmp_path, capsys):
    out, picture = str(tmp_path / 'out.pth'), torch.rand(1, 3, 8, 8)
    assert main([str(checkpoint), out, '--average', 'bicubic', '0.25', '--float32']) == 0
    before, after = load_generator(checkpoint), load_generator(out)
    with torch.no_grad():
        torch.testing.assert_close(after(picture), 0.75 * before(picture) + 0.25 * before.base(picture))
    assert main([tiny_aster, out, '--average', 'bicubic', '0.25']) == 2
    assert '--average bicubic: this is for a generator, not a recognizer' in capsys.readouterr().err


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


@pytest.mark.parametrize('content, message', [
    ({'epoch': 3, 'arch': 'resnet18', 'state_dict': {'module.conv1.weight': torch.ones(64, 3, 7, 7)}},
     'it has no tail.weight, but module.conv1.weight'),
    ({'arch': 'textsr', 'generator': {'a': 1}}, 'it has no tail.weight, but a'),
])
def test_strangers_are_named(checkpoint, tmp_path, capsys, content, message):
    stranger, out = tmp_path / 'stranger.pth', tmp_path / 'out.pth'
    save_checkpoint(stranger, content)
    for flags in ([str(stranger), str(out)], [str(checkpoint), str(out), '--average', str(stranger), '0.5']):
        assert main(flags) == 2
        told = capsys.readouterr().err
        assert told.startswith(f'export_weights.py: {stranger}: ') and message in told and told.count('\n') == 1
    assert not out.exists()


def test_what_is_not_there_is_named(checkpoint, tmp_path, capsys):
    out = tmp_path / 'out.pth'
    assert main([str(checkpoint), str(out), '--network', 'recognizer']) == 2
    assert f'{checkpoint}: not the state dict of an ASTER recognizer: it has no decoder.' in capsys.readouterr().err
    assert main([str(tmp_path / 'none.pth'), str(out)]) == 2
    assert 'none.pth: no such checkpoint; readable beside it: last.pth' in capsys.readouterr().err and not out.exists()


@pytest.mark.parametrize('key', ['params_ema', None])
def test_weights_of_other_projects(checkpoint, tmp_path, key):
    weights = Generator(4, 1, 4).state_dict()
    named = {f'module.{name}': value for name, value in weights.items()}
    source, out = tmp_path / 'theirs.pth', tmp_path / 'out.pth'
    save_checkpoint(source, {key: named} if key else named)
    for flags in ([str(source), str(out)], [str(checkpoint), str(out), '--average', str(source), '1']):
        assert main([*flags, '--float32']) == 0
        state_dict = torch.load(out, weights_only=True)['state_dict']
        assert state_dict.keys() == weights.keys()
        assert all(torch.equal(value, weights[name]) for name, value in state_dict.items())


@pytest.mark.parametrize('told', [{'progress': {}}, {'progress': 0.5, 'iteration': 7}, {}])
def test_checkpoints_that_tell_less(tmp_path, told):
    save_checkpoint(tmp_path / 'last.pth', {'arch': 'textsr', 'generator': Generator(4, 1, 4).state_dict(), **told})
    assert main([str(tmp_path / 'last.pth'), str(tmp_path / 'out.pth')]) == 0
    content = torch.load(tmp_path / 'out.pth', weights_only=True)
    assert (content['arch'], content.get('iteration')) == ('textsr', told.get('iteration'))


def test_what_half_precision_cannot_hold_is_refused(checkpoint, tmp_path, capsys):
    content, out = torch.load(checkpoint, weights_only=True), tmp_path / 'out.pth'
    content['generator']['head.0.bias'][1] = 1e5
    save_checkpoint(checkpoint, content)
    assert main([str(checkpoint), str(out)]) == 2 and not out.exists()
    assert capsys.readouterr().err == ('export_weights.py: head.0.bias has values too large for float16; '
                                       'give --float32\n')
    assert main([str(checkpoint), str(out), '--float32']) == 0


def test_the_checkpoint_is_not_overwritten(checkpoint, tmp_path, capsys):
    before = checkpoint.read_bytes()
    (tmp_path / 'link.pth').symlink_to(checkpoint)
    for out in (checkpoint, tmp_path / 'link.pth'):
        assert main([str(checkpoint), str(out)]) == 2
        assert capsys.readouterr().err == f'export_weights.py: {out}: is the checkpoint; name another file to write\n'
    assert checkpoint.read_bytes() == before
    other = tmp_path / 'other.pth'
    save_checkpoint(other, {'state_dict': Generator(4, 1, 4).state_dict()})
    assert main([str(checkpoint), str(other), '--average', str(other), '0.5']) == 0  # as the recipes do


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
    for source, output in (('last.pth', 'a.safetensors'), ('a.pth', 'b.safetensors'), ('a.safetensors', 'c.pth')):
        for flags in ([], ['--average', str(tmp_path / 'a.safetensors'), '0.5'] if output[0] != 'a' else []):
            assert main([str(tmp_path / source), str(tmp_path / output), '--float32', *flags]) == 0
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
