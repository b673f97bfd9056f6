import math

import pytest
import torch
from PIL import Image

from lib.imaging import quantize, resize, to_pil, to_tensor
from lib.inference.tiling import (
    BICUBIC_RADIUS,
    batches,
    enlarge_by_bicubic,
    enlarge_by_generator,
    enlarge_in_tiles,
    enlarge_together,
    measure,
    paste_tiles,
    receptive_radius,
    spans,
)
from lib.metrics import psnr, ssim
from lib.models.generator import Generator
from lib.runtime.distributed import autocast


def random_generator(scale=4, blocks=2, maps=8, seed=0):
    """A generator in eval mode whose batch norm has seen data and whose layers add a good deal to the image."""
    torch.manual_seed(seed)
    generator = Generator(scale, blocks, maps)
    for _ in range(3):
        generator(torch.rand(4, 3, 12, 20))
    with torch.no_grad():
        detail = generator.eval().detail(torch.rand(4, 3, 12, 20))
        generator.tail.weight.mul_(0.2 / detail.std())
        generator.tail.bias.zero_()
    return generator


def levels(one, other):
    """The largest difference of two images in grey levels."""
    return (quantize(one) - quantize(other)).abs().max().item() * 255


def join(tiles, height, width):
    joined = torch.full((3, height, width), math.nan)
    for top, left, tile in tiles:
        place = joined[:, top:top + tile.shape[1], left:left + tile.shape[2]]
        assert place.isnan().all(), 'tiles overlap'
        place.copy_(tile)
    assert not joined.isnan().any(), 'tiles leave a gap'
    return joined


@pytest.mark.parametrize('scale', [2, 4])
def test_receptive_radius_is_the_reach_of_a_pixel_and_not_more(scale):
    generator = random_generator(scale, blocks=1, maps=4)
    radius = receptive_radius(generator)
    images = torch.rand(1, 3, 2 * radius + 9, 2 * radius + 9, requires_grad=True)
    middle = radius + 4
    generator(images)[..., middle * scale:(middle + 1) * scale, middle * scale:(middle + 1) * scale].sum().backward()
    seen = images.grad.abs().sum((0, 1)).amax(0).nonzero()
    assert (seen.min().item(), seen.max().item()) == (middle - radius, middle + radius)


def test_the_default_generator_reaches_forty_pixels():
    assert receptive_radius(Generator(4, 16, 4)) == 40


@pytest.mark.parametrize('length', [1, 7, 50, 51, 97, 200])
def test_spans_cover_a_side_once_with_what_surrounds_them(length):
    parts = spans(length, tile=10, radius=20)
    assert [place for start, stop, _, _ in parts for place in range(start, stop)] == list(range(length))
    for start, stop, first, last in parts:
        assert (first, last) == (max(0, start - 20), min(length, stop + 20))
        assert stop - start <= 10 or len(parts) == 1


@pytest.mark.parametrize('scale', [2, 4])
@pytest.mark.parametrize('size', [(70, 61), (1, 90), (83, 2)])
def test_tiles_equal_the_whole_image(scale, size):
    generator = random_generator(scale)
    image = torch.rand(3, *size)
    tiles = list(enlarge_in_tiles(generator, image, receptive_radius(generator), tile=16))
    assert len(tiles) > 1
    with torch.no_grad():
        whole = generator(image[None])[0]
    joined = join(tiles, *whole.shape[1:])
    assert (joined - whole).abs().max() < 1e-4
    assert levels(joined, whole) <= 1.01


def test_tiles_without_the_overlap_show_seams():
    generator = random_generator()
    image = torch.rand(3, 70, 61)
    with torch.no_grad():
        whole = generator(image[None])[0]
    assert levels(join(enlarge_in_tiles(generator, image, 2, tile=16), *whole.shape[1:]), whole) > 2


def test_bicubic_tiles_equal_the_whole_image():
    image = torch.rand(3, 50, 41)

    def enlarge(images):
        return resize(images, (4 * images.shape[2], 4 * images.shape[3]))

    joined = join(enlarge_in_tiles(enlarge, image, BICUBIC_RADIUS, tile=10), 200, 164)
    assert (joined - enlarge(image[None])[0]).abs().max() < 1e-5


def test_no_tile_is_larger_than_asked_for():
    sizes = []

    def enlarge(images):
        sizes.append(images.shape[2:])
        return images.repeat_interleave(2, 2).repeat_interleave(2, 3)

    image = torch.rand(3, 300, 400)
    picture = paste_tiles(enlarge, image, 5, 2)
    assert picture.size == (800, 600)
    assert max(max(size) for size in sizes) <= 192 + 2 * 5
    assert torch.equal(to_tensor(picture)[:, ::2, ::2], quantize(image))


@pytest.mark.parametrize('scale', [2, 4])
def test_a_batch_of_unlike_sizes_equals_one_by_one(scale):
    generator = random_generator(scale)
    images = [torch.rand(3, height, width) for height, width in [(8, 32), (5, 9), (8, 31), (1, 1), (20, 3), (8, 32)]]
    together = enlarge_together(generator, images)
    with torch.no_grad():
        for image, result in zip(images, together):
            alone = generator(image[None])[0]
            assert result.shape == alone.shape
            assert (result - alone).abs().max() < 1e-4
    assert not any(module._forward_pre_hooks for module in generator.modules()), 'the masks stay on the generator'


def test_a_batch_of_equal_sizes_is_not_masked(monkeypatch):
    monkeypatch.setattr('lib.inference.tiling._inputs_masked', None)
    generator = random_generator()
    results = enlarge_together(generator, [torch.rand(3, 4, 6)] * 3)
    assert [tuple(result.shape) for result in results] == [(3, 16, 24)] * 3


def test_batches_take_every_image_once_and_keep_within_their_limits():
    torch.manual_seed(0)
    sizes = [tuple(size) for size in torch.randint(1, 40, (300, 2)).tolist()] + [(150, 150), (192, 192)]
    parts = list(batches(sizes, batch_size=16))
    assert sorted(index for part in parts for index in part) == list(range(len(sizes)))
    assert max(map(len, parts)) <= 16
    assert len(parts) < len(sizes) / 3
    for part in parts:
        area = max(sizes[i][0] for i in part) * max(sizes[i][1] for i in part) * len(part)
        assert area <= 192 * 192
        assert area <= 1.4 * sum(sizes[i][0] * sizes[i][1] for i in part)


def test_one_by_one_is_a_batch_size_of_one():
    assert sorted(batches([(4, 4)] * 3, batch_size=1)) == [[0], [1], [2]]


@pytest.mark.parametrize('amp', ['off', 'bf16'])
def test_images_small_and_large_come_out_as_alone(monkeypatch, amp):
    monkeypatch.setattr('lib.inference.tiling.TILE', 24)
    generator = random_generator()
    images = [torch.rand(3, 8, 20), torch.rand(3, 60, 26), torch.rand(3, 7, 19)]
    precisions = set()
    generator.head[0].register_forward_hook(lambda _module, _args, features: precisions.add(features.dtype))
    results = dict(enlarge_by_generator(generator, images, 64, torch.device('cpu'), amp))
    assert precisions == {torch.bfloat16 if amp == 'bf16' else torch.float32}, 'small and large ones alike'
    with torch.no_grad(), autocast(amp, torch.device('cpu')):
        for index, image in enumerate(images):
            assert levels(to_tensor(results[index]), generator(image[None])[0]) <= 1.01
    assert sorted(results) == [0, 1, 2]
    for index, picture in enlarge_by_bicubic(images, 4):
        expected = resize(images[index][None], (4 * images[index].shape[1], 4 * images[index].shape[2]))[0]
        assert levels(to_tensor(picture), expected) <= 1.01


@pytest.mark.parametrize('size', [(40, 30), (40, 11), (40, 10), (3, 1), (7, 200)])
@pytest.mark.parametrize('strip', [1, 300, 10 ** 6])
def test_measuring_in_strips_changes_nothing(monkeypatch, size, strip):
    monkeypatch.setattr('lib.inference.tiling.STRIP_PIXELS', strip)
    torch.manual_seed(0)
    sr, hr = (to_pil(torch.rand(3, size[1], size[0])) for _ in range(2))
    whole = to_tensor(sr)[None], to_tensor(hr)[None]
    assert measure(sr, hr) == pytest.approx((psnr(*whole).item(), ssim(*whole).item()), abs=1e-4)


def test_equal_images_measure_as_equal():
    picture = Image.new('RGB', (20, 20), 'red')
    assert measure(picture, picture) == (math.inf, pytest.approx(1))
