import time

import pytest
import torch

from lib.imaging import quantize, resize, to_tensor
from lib.inference import enlarging
from lib.inference.enlarging import Method, Span, Tile, Workers, receptive_radius, spans, tile_batches
from lib.models.generator import Generator
from lib.runtime.device import autocast


def random_generator(scale=4, blocks=2, maps=8, seed=0):
    """A generator in eval mode whose layers add a good deal to the image."""
    torch.manual_seed(seed)
    generator = Generator(scale, blocks, maps)
    with torch.no_grad():
        detail = generator.eval().detail(torch.rand(4, 3, 12, 20))
        generator.tail.weight.mul_(0.2 / detail.std())
        generator.tail.bias.zero_()
    return generator


def levels(one, other):
    """The largest difference of two images in grey levels."""
    return (quantize(one) - quantize(other)).abs().max().item() * 255


@pytest.mark.parametrize('scale', [2, 4])
def test_receptive_radius_is_the_reach_of_a_pixel_and_not_more(scale):
    generator = random_generator(scale, blocks=1, maps=4)
    radius = receptive_radius(generator)
    images = torch.rand(1, 3, 2 * radius + 9, 2 * radius + 9, requires_grad=True)
    middle = radius + 4
    generator(images)[..., middle * scale:(middle + 1) * scale, middle * scale:(middle + 1) * scale].sum().backward()
    seen = images.grad.abs().sum((0, 1)).amax(0).nonzero()
    assert (seen.min().item(), seen.max().item()) == (middle - radius, middle + radius)


def test_the_default_generator_reaches_40_pixels():
    assert receptive_radius(Generator(4, 16, 4)) == 40


@pytest.mark.parametrize('length', [1, 7, 50, 51, 97, 200])
def test_spans_cover_a_side_once_with_what_surrounds_them(length):
    parts = spans(length, tile=10, radius=20)
    assert [place for start, stop, _, _ in parts for place in range(start, stop)] == list(range(length))
    for start, stop, first, last in parts:
        assert (first, last) == (max(0, start - 20), min(length, stop + 20))
        assert stop - start <= 10 or len(parts) == 1


def difference(enlarger, images, amp='off', **how):
    """The largest difference, in grey levels, of what `pictures` makes of the images from each enlarged alone."""
    results, largest = dict(enlarger.pictures(images, **how)), 0
    assert sorted(results) == list(range(len(images)))
    for index, image in enumerate(images):
        with torch.no_grad(), autocast(amp, torch.device('cpu')):
            alone = (enlarger.generator or enlarger)(image[None])[0]
        result = to_tensor(results[index])
        assert result.shape == alone.shape
        largest = max(largest, levels(result, alone))
    return largest


@pytest.mark.parametrize('scale', [2, 4])
@pytest.mark.parametrize('size', [(70, 61), (1, 90), (83, 2)])
def test_tiles_equal_the_whole_image(scale, size):
    enlarger, image = Method(random_generator(scale)), torch.rand(3, *size)
    assert difference(enlarger, [image], tile=16) <= 1.01
    assert difference(Method(scale=scale), [image], tile=5) <= 1.01


def test_no_tile_is_larger_than_asked_for():
    generator, sizes = random_generator(), []
    radius = receptive_radius(generator)
    generator.head.register_forward_hook(lambda _module, args, _output: sizes.append(args[0].shape[2:]))
    (_, picture), = Method(generator).pictures([torch.rand(3, 150, 130)], tile=32)
    assert picture.size == (520, 600) and len(sizes) > 1
    assert max(max(size) for size in sizes) <= 32 + 2 * radius


@pytest.mark.parametrize('scale', [2, 4])
@pytest.mark.parametrize('threads', [1, 2])
def test_a_batch_of_different_sizes_equals_one_by_one(scale, threads):
    enlarger = Method(random_generator(scale))
    sizes = [(8, 32), (5, 9), (8, 31), (1, 1), (20, 3), (8, 32)] * 3
    images = [torch.rand(3, *size) for size in sizes]
    assert difference(enlarger, images, workers=Workers(threads)) <= 1.01
    assert not any(module._forward_pre_hooks for module in enlarger.generator.modules()), 'the masks stay behind'


def test_between_two_pictures_the_generator_is_free_for_other_work():
    enlarger, images = Method(random_generator()), [torch.rand(3, *size) for size in ((8, 32), (8, 30), (60, 60))]
    other = torch.rand(1, 3, 9, 33)
    expected = enlarger(other)
    for _ in enlarger.pictures(images):
        assert torch.equal(enlarger(other), expected)


def test_batches_take_every_image_once_and_keep_within_their_limits():
    torch.manual_seed(0)
    sizes = [tuple(size) for size in torch.randint(1, 40, (300, 2)).tolist()] + [(150, 150), (192, 192)]
    tiles = [Tile(index, *(Span(0, side, 0, side) for side in size)) for index, size in enumerate(sizes)]
    parts = list(tile_batches(tiles, batch_size=16, max_pixels=10_000))
    assert sorted(tile.index for part in parts for tile in part) == list(range(len(sizes)))
    assert max(map(len, parts)) <= 16
    assert len(parts) < len(sizes) / 3
    for part in parts:
        area = max(tile.size[0] for tile in part) * max(tile.size[1] for tile in part) * len(part)
        assert area <= 10_000 or len(part) == 1
        assert area <= 1.4 * sum(tile.size[0] * tile.size[1] for tile in part)
    assert sorted(len(part) for part in tile_batches(tiles, 1, 10_000)) == [1] * len(sizes)


def test_images_small_and_large_come_out_as_alone_in_half_precision():
    generator, precisions = random_generator(), set()
    generator.head[0].register_forward_hook(lambda _module, _args, features: precisions.add(features.dtype))
    images = [torch.rand(3, 8, 20), torch.rand(3, 60, 26), torch.rand(3, 7, 19)]
    assert difference(Method(generator, amp='bf16'), images, 'bf16', tile=24) <= 1.01
    assert precisions == {torch.bfloat16}, 'small and large ones alike'


def test_a_batch_goes_in_parts_on_a_cpu(monkeypatch):
    generator, images, parts = Generator(4, 1, 4), torch.rand(7, 3, 4, 5), []
    generator.head.register_forward_hook(lambda _module, _args, features: parts.append(len(features)))
    monkeypatch.setattr(enlarging, 'CPU_PIXELS', 60)
    enlarged = Method(generator)(images)
    assert parts == [3, 3, 1] and torch.allclose(enlarged, generator(images), atol=1e-5)
    assert torch.equal(Method(scale=4)(images), resize(images, (16, 20)))


def test_failed_work_ends_the_work_beside_it():
    workers, done = Workers(2), []

    def work(item):
        if item == 3:
            raise ValueError('no')
        time.sleep(0.001)
        done.append(item)

    with pytest.raises(ValueError, match='no'):
        list(workers.map(work, range(1000)))
    workers.pool.shutdown()  # waits for what was started, or is still to be
    assert len(done) < 500
