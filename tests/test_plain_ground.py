import pytest
import torch
from PIL import Image

from lib.checkpoint import save_checkpoint
from lib.models.generator import Generator
from utils.plain_ground import main


@pytest.fixture
def generators(tmp_path):
    """Paths of two untrained generators with one set of weights, without and with the blur behind the pixel shuffle."""
    paths = []
    for anti_grid in (False, True):
        torch.manual_seed(0)
        generator = Generator(2, 1, 8, anti_grid=anti_grid)
        generator.tail.weight.data.mul_(5)
        paths.append(str(tmp_path / f'{anti_grid}.pth'))
        save_checkpoint(paths[-1], {'state_dict': generator.state_dict()})
    return paths


def figures(printed):
    return [[float(value) for value in line.split('|')[2:-1]] for line in printed.splitlines()[2:]]


def test_the_blur_leaves_less_of_a_grid(generators, tmp_path, capsys):
    Image.effect_noise((80, 40), 8).convert('RGB').save(tmp_path / 'sky.png')
    assert main([*generators, '--image', str(tmp_path / 'sky.png'), '--box', '10,0,60,40']) == 0
    without, blurred = figures(capsys.readouterr().out)
    assert all(strong > 4 * weak for strong, weak in zip(without, blurred)) and len(without) == 2
    assert main(generators) == 0
    assert figures(capsys.readouterr().out) == [without[:1], blurred[:1]]


@pytest.mark.parametrize('flags, message', [
    (['--image', 'gone.png'], '--image gone.png: unreadable image'),
    (['--image', 'flat.png', '--box', '0,0,9,9'], '--box: reaches beyond flat.png, which has 8x8 pixels'),
    (['--image', 'flat.png', '--box', '0,0,9'], "argument --box: invalid box value: '0,0,9'"),
    (['--box', '0,0,9,9'], '--box: a part of which --image?'),
])
def test_wrong_flags(generators, tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    Image.new('RGB', (8, 8)).save('flat.png')
    try:
        status = main([generators[0], *flags])
    except SystemExit as stop:
        status = stop.code
    assert status == 2 and message in capsys.readouterr().err
