"""Low resolution made from high resolution: one function for training, testing and conversion."""
import math

import torch
import torch.nn.functional as F

from lib.imaging import jpeg, quantize, resize

KERNELS = ('bicubic', 'bilinear', 'area')


def degrade(images_hr, ds_scale, degradation='bicubic', generator=None):
    """Make low-resolution images from high-resolution ones.

    images_hr (N, 3, H, W) in [0, 1], H and W divisible by ds_scale -> (N, 3, H / ds_scale, W / ds_scale), 8-bit values.
    degradation 'bicubic': antialiased bicubic reduction. 'real': see `photograph`, drawn from `generator`, one draw for
    the whole batch. ValueError where the sizes or the name do not fit.
    """
    height, width = images_hr.shape[-2:]
    if height % ds_scale or width % ds_scale:
        raise ValueError(f'an image of {width}x{height} cannot be reduced {ds_scale} times: not divisible')
    size = (height // ds_scale, width // ds_scale)
    if degradation == 'bicubic':
        return quantize(resize(images_hr, size))
    if degradation != 'real':
        raise ValueError(f'degradation {degradation!r}: choose bicubic or real')
    return photograph(images_hr, size, generator)


def photograph(images_hr, size, generator=None):
    """Blind degradation of images (N, 3, H, W) in [0, 1] to size = (h, w), as small words in photographs show it.

    A strength s is drawn, 0 for three words in ten, else uniform in [0, 1]: sharp pictures stay among the training
    pairs, so that a generator learns to leave them alone. The camera is simulated at twice the final size:

    1. Gaussian blur along a random direction, sigma 0.9 s to 1.6 s pixels of the final size, across it 0.4 to 1 of
       that; below 16 pixels of height less, in proportion. Between TextZoom's training pairs, 16 pixels high, we
       measured 0.75 (tenth percentile), 1.0 (median) and 1.5 to 2 (ninetieth); of these draws, most of which are
       milder, 0, 0.35 and 1.1.
    2. Contrast 1 - 0.15 s to 1 + 0.1 s about the mean, brightness shifted by up to 0.06 s (measured: 0.75 to 1.2, 0.1).
    3. JPEG of quality 40 to 95, with probability s / 3; reduction by the bicubic, bilinear or box kernel.
    4. Unsharp masking by up to 1, with probability s / 4.
    5. Noise of standard deviation up to 0.04 s, half of the times the same in the three channels.
    6. JPEG of quality 50 to 95, with probability s / 2.

    Returns 8-bit values (N, 3, h, w). One draw from `generator` serves the whole batch.
    """
    draws = iter(torch.rand(16, generator=generator).tolist())

    def uniform(low, high):
        return low + (high - low) * next(draws)

    strength = max(0.0, uniform(-3 / 7, 1))
    sigma = 2 * strength * uniform(0.9, 1.6) * min(1, size[0] / 16)
    images = directed_blur(resize(images_hr, (2 * size[0], 2 * size[1])), sigma, sigma * uniform(0.4, 1),
                           uniform(0, math.pi))
    mean = images.mean()
    gain, shift = 1 + strength * uniform(-0.15, 0.1), 0.06 * strength * uniform(-1, 1)
    images = ((images - mean) * gain + mean + shift).clamp(0, 1)
    before, quality = next(draws), uniform(40, 95)
    if before < strength / 3:
        images = jpeg(images, quality)
    kernel = KERNELS[int(3 * next(draws))]
    images = F.interpolate(images, size, mode=kernel, **({} if kernel == 'area' else {'antialias': True}))
    sharpen, amount = next(draws), next(draws)
    if sharpen < strength / 4:
        images = images + amount * (images - directed_blur(images, 1.0, 1.0, 0.0))
    deviation, grey = 0.04 * strength * next(draws), next(draws) < 0.5
    grain = torch.randn(len(images), 1 if grey else 3, *size, generator=generator).to(images.device)
    images = images + deviation * grain
    after, quality = next(draws), uniform(50, 95)
    return jpeg(images, quality) if after < strength / 2 else quantize(images)


def directed_blur(images, sigma_along, sigma_across, angle):
    """Blur (N, 3, H, W) with a Gaussian of two widths in pixels, the first along `angle` (radians); borders reflect."""
    reach = min(math.ceil(2.5 * max(sigma_along, sigma_across)), min(images.shape[-2:]) - 1)
    least = 0.15  # pixels; a narrower one would not blur
    if reach < 1 or max(sigma_along, sigma_across) < least:
        return images
    offsets = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
    along = math.cos(angle) * offsets + math.sin(angle) * offsets[:, None]
    across = math.cos(angle) * offsets[:, None] - math.sin(angle) * offsets
    kernel = torch.exp(-(along / max(sigma_along, least)) ** 2 / 2 - (across / max(sigma_across, least)) ** 2 / 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, -1, -1)
    return F.conv2d(F.pad(images, (reach,) * 4, mode='reflect'), kernel, groups=3)
