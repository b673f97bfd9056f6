import pytest
import torch

from lib.checkpoint import load_generator, save_checkpoint
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


def test_what_is_not_there_is_named(checkpoint, tmp_path, capsys):
    assert main([str(checkpoint), str(tmp_path / 'out.pth'), '--network', 'recognizer']) == 2
    assert 'no recognizer in it' in capsys.readouterr().err and not (tmp_path / 'out.pth').exists()
    assert main([str(tmp_path / 'none.pth'), str(tmp_path / 'out.pth')]) == 2
