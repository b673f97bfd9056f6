from helpers import status_of
from torch import nn

from lib.models.generator import Generator
from utils import training_cost


def test_operations_of_a_step_are_counted():
    """Those of the generator: of each convolution two for every weight and pixel, in the forward pass and for the
    gradients of weights and input, of which the first one's input needs none."""
    flops = training_cost.step_flops(blocks=1, count=1)
    generator = Generator(4, blocks=1)
    pixels = {generator.upsample[1][0]: 16 * 64, generator.tail: 32 * 128}
    forward = {conv: 2 * conv.weight.numel() * pixels.get(conv, 8 * 32) for conv in generator.modules()
               if isinstance(conv, nn.Conv2d)}
    assert flops['generator'] == 3 * sum(forward.values()) - forward[generator.head[0]]
    assert set(flops) == {'generator', 'discriminator', 'recognizer'} and min(flops.values()) > 1e8


def test_hours_follow_from_the_operations(monkeypatch, capsys):
    monkeypatch.setattr(training_cost, 'step_flops', lambda: {'generator': 4e9, 'recognizer': 6e9})
    training_cost.main(['--words', '72000000', '--epochs', '10'])
    _, step, total, slow, *_ = capsys.readouterr().out.splitlines()
    assert step.endswith('= 10.0 GFLOP') and total.endswith('= 7200 PFLOP')
    assert status_of(training_cost.main, ['--epochs', '0']) == 2 and '--epochs 0' in capsys.readouterr().err
    assert '100.0 h on one GPU, 13.9 h on eight (90% efficiency); 2000 images/s, 10 MB/s' in slow
