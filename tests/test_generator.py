import pytest
import torch

from lib.imaging import resize
from lib.models.generator import Generator, adapt, conv_of_shuffled, generator_from_state_dict


@pytest.mark.parametrize(('blocks', 'parameters'), [(16, 1_549_462), (5, 734_219)])
def test_published_parameter_counts(blocks, parameters):
    original = Generator(4, blocks, batch_norm=True)
    assert sum(parameter.numel() for parameter in original.parameters()) == parameters


def inside(images, border):
    return images[..., border:-border, border:-border]


@pytest.mark.parametrize('kernel', [3, 5, 9])
def test_a_convolution_of_maps_that_are_not_shuffled_yet_is_the_convolution(kernel):
    """Results and gradients, at the border too."""
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(4, 3, kernel, padding=kernel // 2)
    maps = torch.rand(2, 16, 3, 5, requires_grad=True)
    results = []
    for compute in (lambda x: conv(torch.nn.functional.pixel_shuffle(x, 2)), lambda x: conv_of_shuffled(conv, x)):
        result = compute(maps)
        results.append([result, *torch.autograd.grad(result.square().sum(), [maps, conv.weight, conv.bias])])
    for ours, expected in zip(*results[::-1]):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def with_a_checkerboard(scale, maps=8):
    """A generator whose weights draw a checkerboard, as training without `level_phases` makes them."""
    torch.manual_seed(0)
    generator = Generator(scale, 1, maps).eval()
    for conv, *_ in generator.upsample:
        conv.reset_parameters()
    generator.tail.weight.data.mul_(10)
    return generator


@pytest.mark.parametrize('scale', [2, 4])
def test_level_phases_draw_no_checkerboard_on_plain_ground(scale):
    flat = torch.tensor([0.5, 0.3, 0.6]).view(1, 3, 1, 1).expand(1, 3, 40, 40)

    def spread(generator):
        return inside(generator(flat), 16 * scale).flatten(2).std(2).max().item()
    generator = with_a_checkerboard(scale)
    before = spread(generator)
    generator.level_phases()
    assert spread(generator) < 1e-5 < 1e-2 < before
    assert spread(Generator(scale, 1, 8).eval()) < 1e-5, 'a new one is level'


def test_levelling_changes_the_weights_as_little_as_it_can_and_once():
    generator = with_a_checkerboard(2)
    conv = generator.upsample[0][0]
    before = conv.weight.detach().clone()
    generator.level_phases()
    change = conv.weight.detach() - before
    assert torch.allclose(change, change[:, :, :1, :1].expand_as(change), atol=1e-6), 'spread evenly over the 3x3'
    assert torch.allclose(change.unflatten(0, (-1, 4)).sum(1), torch.zeros(()), atol=1e-6), 'the mean of the four stays'
    level = conv.weight.detach().clone()
    generator.level_phases()
    assert torch.allclose(conv.weight, level, atol=1e-7)


def test_adapting_folds_batch_norm():
    torch.manual_seed(0)
    original = Generator(4, 2, 8, batch_norm=True)
    for _ in range(3):
        original(torch.rand(4, 3, 8, 8))  # statistics of its own
    original.eval()
    images = torch.rand(1, 3, 8, 12)
    adapted = adapt(original, 4).eval()
    assert not any('running' in name for name in adapted.state_dict())
    assert torch.allclose(adapted(images), original(images), atol=1e-5)


@pytest.mark.parametrize(('from_scale', 'to_scale'), [(4, 2), (2, 4), (2, 2)])
def test_adapting_to_another_scale_keeps_the_layers(from_scale, to_scale):
    generator = Generator(from_scale, 2, 8)
    adapted = adapt(generator, to_scale)
    assert adapted.scale == to_scale and adapted(torch.rand(1, 3, 4, 6)).shape[-1] == 6 * to_scale
    for stage in adapted.upsample:
        assert torch.equal(stage[0].weight[:, :, 1], generator.upsample[0][0].weight[:, :, 1])
    assert torch.equal(adapted.tail.weight, generator.tail.weight)
    assert torch.equal(adapted.body[1].body[3].weight, generator.body[1].body[3].weight)


@pytest.mark.parametrize('scale', [2, 4])
@pytest.mark.parametrize('size', [(1, 1), (5, 7), (8, 32)])
def test_any_size_is_enlarged(scale, size):
    generator = Generator(scale, 1, 4).eval()
    assert generator(torch.rand(2, 3, *size)).shape == (2, 3, scale * size[0], scale * size[1])


def test_adds_detail_to_bicubic_interpolation():
    torch.manual_seed(0)
    generator = Generator(4, 1, 4).eval()
    images = torch.rand(1, 3, 6, 9)
    bicubic = resize(images, (24, 36))
    assert 0 < (generator(images) - bicubic).abs().mean() < 0.1
    assert generator.detail(images).std((2, 3)).max() < 0.005, 'a new one draws hardly any'
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


@pytest.mark.parametrize('original', [False, True])
def test_rebuilt_from_its_weights(original):
    generator = Generator(2, 3, 8, batch_norm=original).eval()
    rebuilt = generator_from_state_dict(generator.state_dict()).eval()
    assert (rebuilt.scale, rebuilt.blocks, rebuilt.maps) == (2, 3, 8)
    images = torch.rand(1, 3, 4, 6)
    assert torch.equal(rebuilt(images), generator(images))


@pytest.mark.parametrize('weights', [
    {'encoder.weight': torch.zeros(3)}, {'tail.weight': torch.zeros(3, 4, 9, 9), 1: 2},
    {**Generator(2, 1, 4).state_dict(), 'tail.bias': 'text'},
    {name: value for name, value in Generator(4, 1, 4).state_dict().items() if name != 'head.0.bias'}])
def test_other_weights_are_refused_in_one_line(weights):
    with pytest.raises(ValueError, match='not the state dict of a generator: .') as error:
        generator_from_state_dict(weights)
    assert '\n' not in str(error.value)
