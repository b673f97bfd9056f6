"""Per-image PSNR and SSIM on 8-bit values."""
import math

import torch
import torch.nn.functional as F

from lib.imaging import quantize, to_tensor

STRIP_PIXELS = 1_000_000  # that `measure` processes in one piece


def psnr(sr, hr):
    """Peak signal-to-noise ratio in dB of each image over its three channels: (N, 3, H, W) in [0, 1] twice -> (N,).

    Equal images give infinity. The mean over a set is the mean of these, not the PSNR of a mean error.
    """
    error = (quantize(sr.float()) - quantize(hr.float())).square().flatten(1).mean(1)
    return -10 * torch.log10(error)


def ssim(sr, hr):
    """Structural similarity of each image's luma, (N, 3, H, W) in [0, 1] twice -> (N,) in [-1, 1].

    Wang et al. 2004: Gaussian window 11x11 of sigma 1.5, K1 = 0.01, K2 = 0.03, windows inside the image only. An image
    lower or narrower than 11 pixels gets a window cut to its size.
    """
    def luma(images):
        red, green, blue = quantize(images.double()).split(1, dim=1)
        return 0.299 * red + 0.587 * green + 0.114 * blue

    x, y = luma(sr), luma(hr)

    def window(size):
        weights = torch.signal.windows.gaussian(size, std=1.5, dtype=torch.float64, device=sr.device)
        return weights / weights.sum()

    down = window(min(11, sr.shape[2])).view(1, 1, -1, 1)
    along = window(min(11, sr.shape[3])).view(1, 1, 1, -1)

    def mean(images):
        return F.conv2d(F.conv2d(images, down), along)

    mean_x, mean_y = mean(x), mean(y)
    var_x, var_y, cov = mean(x * x) - mean_x ** 2, mean(y * y) - mean_y ** 2, mean(x * y) - mean_x * mean_y
    c1, c2 = 0.01 ** 2, 0.03 ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x ** 2 + mean_y ** 2 + c1) * (var_x + var_y + c2))
    return similarity.flatten(1).mean(1).float()


def measure(sr, hr):
    """PSNR in dB and SSIM of two 8-bit PIL images of one size, in strips: images of any size fit into memory."""
    reach = 10  # an SSIM window is 11 pixels high: strips share 10 rows, so that each window is seen once
    rows = max(1, STRIP_PIXELS // sr.width)
    error = similarity = 0.0
    windows = max(1, sr.height - reach)
    for top in range(0, windows, rows):
        count = min(rows, windows - top)
        last = sr.height if top + count == windows else top + count  # the rows from here on belong to the next strip
        strips = [to_tensor(image.crop((0, top, sr.width, min(sr.height, top + count + reach))))[None]
                  for image in (sr, hr)]
        similarity += ssim(*strips).item() * count
        error += 10 ** (-psnr(*(strip[:, :, :last - top] for strip in strips)).item() / 10) * (last - top)
    return -10 * math.log10(error / sr.height) if error else math.inf, similarity / windows


def checkerboard(sr, scale):
    """Strength of the checkerboard artifact (Odena, Dumoulin & Olah, "Deconvolution and Checkerboard Artifacts",
    Distill, 2016), here of a pixel shuffle on plain ground: (N, 3, H, W) in [0, 1] -> (N,) in grey levels.

    The standard deviation of the means of the scale x scale positions in a block of that many pixels; 0.0 where none of
    them is brighter than the others, as after bicubic interpolation. H and W are multiples of `scale`.
    """
    levels = 255 * quantize(sr.float())
    blocks = levels.reshape(*sr.shape[:2], sr.shape[2] // scale, scale, sr.shape[3] // scale, scale)
    means = blocks.mean(dim=(2, 4))
    return (means - means.mean(dim=(2, 3), keepdim=True)).flatten(1).std(dim=1)
