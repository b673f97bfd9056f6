import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import correlate1d

from lib.imaging import to_pil, to_tensor
from lib.metrics import checkerboard, measure, psnr, ssim


def test_psnr_of_a_known_error():
    hr = torch.full((1, 3, 4, 4), 100 / 255)
    sr = torch.full((1, 3, 4, 4), 110 / 255)
    assert psnr(sr, hr).item() == pytest.approx(20 * math.log10(255 / 10), abs=1e-4)
    assert psnr(hr, hr).item() == math.inf


def test_psnr_is_each_images_own_and_on_eight_bits():
    hr = torch.rand(3, 3, 8, 8)
    sr = hr + torch.tensor([0.01, 0.1, 0.3]).view(3, 1, 1, 1)
    assert torch.equal(psnr(sr, hr), torch.cat([psnr(sr[i:i + 1], hr[i:i + 1]) for i in range(3)]))
    assert torch.isinf(psnr(torch.full((1, 3, 2, 2), 1.4), torch.ones(1, 3, 2, 2))).all()  # both are saved as white


def reference_ssim(x, y):
    """SSIM of two grey images in [0, 1] by scipy: an 11-tap Gaussian of sigma 1.5, borders left out."""
    taps = np.exp(-(np.arange(11) - 5) ** 2 / 4.5)
    taps /= taps.sum()

    def blur(image):
        return correlate1d(correlate1d(image, taps, axis=0), taps, axis=1)[5:-5, 5:-5]

    mx, my = blur(x), blur(y)
    vx, vy, cov = blur(x * x) - mx ** 2, blur(y * y) - my ** 2, blur(x * y) - mx * my
    return (((2 * mx * my + 1e-4) * (2 * cov + 9e-4)) / ((mx ** 2 + my ** 2 + 1e-4) * (vx + vy + 9e-4))).mean()


def test_ssim_against_scipy():
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (3, 20, 30)) / 255
    y = np.clip(np.round((x * 0.8 + 0.1 * random.random((3, 20, 30))) * 255), 0, 255) / 255
    ours = ssim(*(torch.tensor(image)[None].float() for image in (x, y)))
    luma = (np.tensordot([0.299, 0.587, 0.114], image, 1) for image in (x, y))
    assert ours.item() == pytest.approx(reference_ssim(*luma), abs=1e-5)


def test_ssim_of_equal_and_of_small_images():
    images = torch.rand(2, 3, 5, 40)
    assert torch.allclose(ssim(images, images), torch.ones(2))
    assert (ssim(images, images.flip(3)) < 0.9).all()


@pytest.mark.parametrize('size', [(40, 30), (40, 11), (40, 10), (3, 1), (7, 200)])
@pytest.mark.parametrize('strip', [1, 300, 10 ** 6])
def test_measuring_in_strips_changes_nothing(monkeypatch, size, strip):
    monkeypatch.setattr('lib.metrics.STRIP_PIXELS', strip)
    torch.manual_seed(0)
    sr, hr = (to_pil(torch.rand(3, size[1], size[0])) for _ in range(2))
    whole = to_tensor(sr)[None], to_tensor(hr)[None]
    assert measure(sr, hr) == pytest.approx((psnr(*whole).item(), ssim(*whole).item()), abs=1e-4)


def test_equal_pictures_measure_as_equal():
    picture = Image.new('RGB', (20, 20), 'red')
    assert measure(picture, picture) == (math.inf, pytest.approx(1))


def test_a_checkerboard_is_measured_in_grey_levels():
    plain = (torch.tensor([100, 120, 90]).view(3, 1, 1) / 255).expand(2, 3, 8, 16)
    raised = plain.clone()
    raised[1, :, ::4, 1::4] += 16 / 255  # one position in sixteen of every block
    expected = np.concatenate([[15] * 3, [-1] * 45]).std(ddof=1)
    assert checkerboard(raised, 4).tolist() == pytest.approx([0, expected], abs=1e-4)


def test_what_is_not_plain_is_no_checkerboard():
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 32, 64)
    assert checkerboard(ramp, 4).item() > 1 > checkerboard(torch.rand(1, 3, 400, 400) * 0.1, 4).item()
