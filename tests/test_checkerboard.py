import pytest
import torch
from helpers import status_of
from PIL import Image

from lib.checkpoint import load_generator, save_checkpoint
from lib.imaging import to_tensor
from lib.metrics import checkerboard
from lib.models.generator import Generator
from utils.checkerboard import main


@pytest.fixture
def generators(tmp_path):
    """Paths of two untrained generators, the second with the level phases of the first."""
    torch.manual_seed(0)
    generator = Generator(2, 1, 8)
    generator.tail.weight.data.mul_(5)
    generator.upsample[0][0].reset_parameters()
    paths = [str(tmp_path / f'{name}.pth') for name in ('uneven', 'level')]
    save_checkpoint(paths[0], {'state_dict': generator.state_dict()})
    generator.level_phases()
    save_checkpoint(paths[1], {'state_dict': generator.state_dict()})
    return paths


def figures(printed):
    return [[float(value) for value in line.split('|')[2:-1]] for line in printed.splitlines()[2:]]


def test_level_phases_leave_less_of_a_checkerboard(generators, tmp_path, capsys):
    Image.effect_noise((80, 40), 8).convert('RGB').save(tmp_path / 'sky.png')
    assert main([*generators, '--image', str(tmp_path / 'sky.png'), '--box', '10,0,60,40']) == 0
    uneven, level = figures(capsys.readouterr().out)
    assert all(strong > 4 * weak for strong, weak in zip(uneven, level)) and len(uneven) == 2
    assert main(generators) == 0
    assert figures(capsys.readouterr().out) == [uneven[:1], level[:1]]


def test_a_photograph_is_enlarged_in_tiles(generators, tmp_path, monkeypatch, capsys):
    picture, sizes, whole = Image.effect_noise((700, 350), 8).convert('RGB'), [], Generator.enlarge
    picture.save(tmp_path / 'sky.png')
    monkeypatch.setattr(Generator, 'enlarge', lambda self, features: sizes.append(features[0, 0].numel())
                        or whole(self, features))
    assert main([generators[0], '--image', str(tmp_path / 'sky.png')]) == 0
    assert max(sizes) < 700 * 350 / 8
    generator = load_generator(generators[0]).eval()
    with torch.no_grad():
        expected = checkerboard(generator(to_tensor(picture)[None]), 2).item()
    assert abs(figures(capsys.readouterr().out)[0][1] - expected) < 0.01


@pytest.mark.parametrize('flags, message', [
    (['--image', 'gone.png'], '--image gone.png: unreadable image'),
    (['--image', 'flat.png', '--box', '1,0,8,8'], '--box: reaches beyond flat.png, which has 8x8 pixels'),
    (['--image', 'flat.png', '--box', '0,1,8,8'], '--box: reaches beyond flat.png'),
    (['--image', 'flat.png', '--box', '0,0,9'], "argument --box: '0,0,9' is not X,Y,W,H in whole pixels"),
    (['--image', 'flat.png', '--box=-1,0,8,8'], "argument --box: '-1,0,8,8': X and Y must not be negative"),
    (['--image', 'flat.png', '--box', '0,0,8,0'], "argument --box: '0,0,8,0'"),
    (['--box', '0,0,9,9'], '--box: a part of which --image?'),
])
def test_wrong_flags(generators, tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    Image.new('RGB', (8, 8)).save('flat.png')
    assert status_of(main, [generators[0], *flags]) == 2
    assert message in capsys.readouterr().err
