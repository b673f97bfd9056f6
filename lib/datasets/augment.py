"""Random changes to training images: other colours and shapes for pairs, mild damage for the recognizer."""
import torch
import torch.nn.functional as F

from lib.imaging import gaussian_blur, jpeg, resize


def change_contrast(images, draw):
    """Images in [0, 1] with 0.5 to 1.2 of their contrast about the mean, shifted by up to 0.2. draw() is in [0, 1)."""
    mean = images.mean()
    return ((images - mean) * (0.5 + 0.7 * draw()) + mean + 0.4 * draw() - 0.2).clamp(0, 1)


def augment(images, strength=1.0, generator=None):
    """Damage one image (1, 3, H, W) in [0, 1]; each kind strikes with probability strength / 2 [our choice].

    In this order: contrast 0.5 to 1.2 about the mean and a shift of up to 0.2, inversion (one in ten), a shear or
    stretch of up to a tenth of the size, reduction to 0.3 to 0.9 of the size (never below 12 pixels high) and back,
    blur of up to 1.2 pixels per 32 of the height, noise of up to 0.06, JPEG of quality 30 to 90.
    """
    def draw():
        return float(torch.rand((), generator=generator))

    def strikes():
        return draw() < strength / 2

    height, width = images.shape[-2:]
    if strikes():
        images = change_contrast(images, draw)
    if draw() < strength / 10:
        images = 1 - images
    if strikes():
        offsets = 0.1 * (2 * torch.rand(2, 3, generator=generator) - 1)
        offsets[1, 0] *= height / width  # a slope, in units of half the size
        theta = torch.eye(2, 3) + offsets
        grid = F.affine_grid(theta[None], list(images.shape), align_corners=False)
        images = F.grid_sample(images, grid, padding_mode='border', align_corners=False)
    if strikes() and height > 12:
        factor = max(0.3 + 0.6 * draw(), 12 / height)
        small = resize(images, (round(height * factor), max(4, round(width * factor))))
        images = resize(small, (height, width))
    if strikes():
        images = gaussian_blur(images, 1.2 * draw() * height / 32 + 1e-3)
    if strikes():
        images = images + 0.06 * draw() * torch.randn(images.shape, generator=generator)
    if strikes():
        images = jpeg(images, 30 + 60 * draw())
    return images.clamp(0, 1)


def vary(image, size, strength=1.0, generator=None):
    """One image (1, 3, H, W) in [0, 1], resized to size = (height, width), in another shape and in other colours.

    It stays as sharp as it is. Each kind strikes with probability strength / 2, inversion with half of it [our choice]:
    a shear, stretch and shift of up to a tenth of the size (sideways 0.04 of the width), contrast 0.5 to 1.2 about the
    mean and a shift of up to 0.2, inversion, colour channels in another order.
    """
    def draw():
        return float(torch.rand((), generator=generator))

    def strikes():
        return draw() < strength / 2

    if strikes():
        height, width = 2 * size[0], 2 * size[1]  # sampled finer than needed, so that it does not get blurred
        limits = torch.tensor([[0.08, 0.1, 0.04], [0.08 * height / width, 0.1, 0.1]])  # in units of half the size
        theta = torch.eye(2, 3) + (2 * torch.rand(2, 3, generator=generator) - 1) * limits
        grid = F.affine_grid(theta[None], [1, 3, height, width], align_corners=False)
        image = F.grid_sample(resize(image, (height, width)), grid, 'bicubic', 'border', align_corners=False)
    image = resize(image, size)
    if strikes():
        image = change_contrast(image, draw)
    if draw() < strength / 4:
        image = 1 - image
    if strikes():
        image = image[:, torch.randperm(3, generator=generator)]
    return image.clamp(0, 1)
