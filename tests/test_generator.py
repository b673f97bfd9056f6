import pytest
import torch

from lib.imaging import resize
from lib.models.generator import Generator, generator_from_state_dict


@pytest.mark.parametrize(('blocks', 'parameters'), [(16, 1_549_462), (5, 734_219)])
def test_published_parameter_counts(blocks, parameters):
    assert sum(parameter.numel() for parameter in Generator(4, blocks).parameters()) == parameters


@pytest.mark.parametrize('scale', [2, 4])
@pytest.mark.parametrize('size', [(1, 1), (5, 7), (8, 32)])
def test_any_size_is_enlarged(scale, size):
    generator = Generator(scale, 1, 4).eval()
    assert generator(torch.rand(2, 3, *size)).shape == (2, 3, scale * size[0], scale * size[1])


def test_adds_detail_to_bicubic_interpolation():
    generator = Generator(4, 1, 4).eval()
    images = torch.rand(1, 3, 6, 9)
    bicubic = resize(images, (24, 36))
    assert 0 < (generator(images) - bicubic).abs().mean() < 0.1
    torch.nn.init.zeros_(generator.tail.weight)
    torch.nn.init.zeros_(generator.tail.bias)
    assert torch.allclose(generator(images).clamp(0, 1), bicubic, atol=1e-6)


def test_output_is_not_clamped():
    generator = Generator(2, 1, 4)
    generator.tail.bias.data.fill_(3.0)
    assert generator(torch.rand(1, 3, 4, 4)).min() > 1


def test_other_scales_are_refused():
    with pytest.raises(ValueError, match='scale 3'):
        Generator(3)


@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_rebuilt_from_its_weights(prefix):
    generator = Generator(2, 3, 8).eval()
    weights = {prefix + name: value for name, value in generator.state_dict().items()}
    rebuilt = generator_from_state_dict(weights).eval()
    assert (rebuilt.scale, rebuilt.blocks, rebuilt.maps) == (2, 3, 8)
    images = torch.rand(1, 3, 4, 6)
    assert torch.equal(rebuilt(images), generator(images))


def test_half_precision_weights_become_float32():
    weights = {name: value.half() if value.is_floating_point() else value
               for name, value in Generator(4, 1, 4).state_dict().items()}
    assert generator_from_state_dict(weights).tail.weight.dtype == torch.float32


def test_foreign_weights_are_refused_in_one_line():
    with pytest.raises(ValueError, match='not the state dict of a generator') as error:
        generator_from_state_dict({'encoder.weight': torch.zeros(3)})
    assert '\n' not in str(error.value)
    weights = Generator(4, 1, 4).state_dict()
    del weights['head.0.bias']
    with pytest.raises(ValueError, match='not the state dict of a generator'):
        generator_from_state_dict(weights)
