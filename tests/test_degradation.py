import math

import pytest
import torch

from lib.datasets.degradation import degrade, directed_blur
from lib.imaging import quantize, resize


@pytest.fixture
def word():
    """A black and white pattern (1, 3, 64, 192) with edges in both directions."""
    rows, columns = torch.arange(64)[:, None] // 8 % 2, torch.arange(192) // 6 % 2
    return (rows ^ columns).float().expand(1, 3, 64, 192)


def contrast(images):
    return images.std().item()


def test_eight_bit_images_of_the_right_size(word):
    for degradation in ('bicubic', 'real'):
        lr = degrade(word, 4, degradation)
        assert lr.shape == (1, 3, 16, 48)
        assert torch.allclose(lr, quantize(lr))
    assert (degrade(word, 4) - resize(word, (16, 48))).abs().max() <= 0.5 / 255 + 1e-6


def test_real_degradation_follows_its_generator(word):
    first, again, other = (degrade(word, 2, 'real', torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_real_degradation_goes_from_none_to_strong(word):
    """Three words in ten stay sharp; the others lose contrast of their edges, some of them most of it."""
    sharp = contrast(degrade(word, 4))
    kept = [contrast(degrade(word, 4, 'real', torch.Generator().manual_seed(seed))) / sharp for seed in range(200)]
    assert 0.2 < sum(ratio > 0.9 for ratio in kept) / len(kept) < 0.5
    assert sum(ratio < 0.5 for ratio in kept) > 30


def test_words_below_sixteen_pixels_are_blurred_less():
    """By the same number of pixels a low word would be lost: of stripes as wide, those of a low word keep more."""
    def kept(height):
        stripes = (torch.arange(96) // 4 % 2).float().expand(1, 3, height, 96)
        return sum(contrast(degrade(stripes, 2, 'real', torch.Generator().manual_seed(seed))) for seed in range(60))

    assert kept(16) > 1.2 * kept(32)


def photographs(images, seeds=60):
    return [degrade(images, 2, 'real', torch.Generator().manual_seed(seed))[0] for seed in range(seeds)]


def test_real_degradation_keeps_the_brightness_and_adds_noise():
    flat = photographs(torch.full((1, 3, 32, 96), 0.8))
    assert max(abs(lr.mean().item() - 0.8) for lr in flat) < 0.07
    noisy = [lr for lr in flat if lr.std() > 0.005]
    assert len(noisy) > 15 and max(lr.std().item() for lr in flat) < 0.05
    grey = sum((lr - lr.mean(0)).abs().mean().item() < 0.004 for lr in noisy)
    assert 0.25 < grey / len(noisy) < 0.75, 'half of the times the same in all colours'


def test_real_degradation_blurs_in_a_direction():
    """The same draws blur stripes across and stripes along by different amounts."""
    stripes = (torch.arange(64) // 4 % 2).float().expand(1, 3, 64, 64)
    ratios = [contrast(one) / contrast(other) for one, other in zip(photographs(stripes), photographs(stripes.mT))]
    assert max(ratios) > 1.3 and min(ratios) < 1 / 1.3


def test_real_degradation_compresses_colours():
    """JPEG halves the resolution of colours, but not that of the brightness."""
    rows = (torch.arange(64) // 2 % 2).float()
    stripes = torch.stack([0.2 + 0.6 * rows, 0.5 + 0 * rows, 0.2 + 0 * rows])[None, :, :, None].expand(1, 3, 64, 64)
    ratios = [(contrast((lr[0] - lr[1]).mean(1)) / contrast(lr.mean((0, 2)))) for lr in photographs(stripes)]
    assert min(ratios) < 0.5 * max(ratios)


@pytest.mark.parametrize(('arguments', 'said'), [((5,), '192x64'), ((4, 'cubic'), 'cubic')])
def test_what_cannot_be_done_is_refused(word, arguments, said):
    with pytest.raises(ValueError, match=said):
        degrade(word, *arguments)


def test_directed_blur_has_its_widths_along_and_across():
    point = torch.zeros(1, 3, 41, 41)
    point[..., 20, 20] = 1
    offsets = torch.arange(41.0) - 20
    for angle, wide_axis in ((0.0, 1), (math.pi / 2, 0)):
        spread = directed_blur(point, 3.0, 1.0, angle)[0, 0]
        assert spread.sum().item() == pytest.approx(1, abs=1e-4)
        deviations = [(spread.sum(1 - axis) * offsets ** 2).sum().sqrt().item() for axis in (0, 1)]
        assert deviations[wide_axis] == pytest.approx(3, rel=0.1) and deviations[1 - wide_axis] == pytest.approx(1, 0.1)
    spread = directed_blur(point, 3.0, 1.0, math.pi / 4)[0, 0]
    covariance = (spread * offsets * offsets[:, None]).sum().item()
    assert covariance == pytest.approx((3 ** 2 - 1) / 2, rel=0.1), 'an angle is from right to down'
    flat = torch.full((1, 3, 9, 20), 0.3)
    assert torch.allclose(directed_blur(flat, 2.0, 1.0, 0.7), flat, atol=1e-6)
    assert torch.equal(directed_blur(point, 0.0, 0.0, 0.0), point)
    assert directed_blur(point[..., :1, :], 3.0, 2.0, 0.0).shape == (1, 3, 1, 41)
