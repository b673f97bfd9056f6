import pytest
import torch

from lib.models.aster import Aster
from lib.models.generator import Generator
from lib.runtime.checkpoint import load_aster, load_generator, save_checkpoint
from tests.conftest import TINY_ASTER
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


def test_what_is_not_there_is_named(checkpoint, tmp_path, capsys):
    assert main([str(checkpoint), str(tmp_path / 'out.pth'), '--network', 'recognizer']) == 2
    assert 'no recognizer in it' in capsys.readouterr().err and not (tmp_path / 'out.pth').exists()
    assert main([str(tmp_path / 'none.pth'), str(tmp_path / 'out.pth')]) == 2


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
