"""Enlarging images of any size: large ones in overlapping tiles, small ones of unlike sizes in one batch.

Both ways give what the image alone would give, up to rounding in the last bits: tiles overlap by the whole receptive
field, and what lies beside a smaller image in a batch is kept at the zero that the convolutions' own padding is.
"""
import contextlib
import math

import torch
from PIL import Image
from torch import nn

from lib.imaging import resize, to_pil, to_tensor
from lib.metrics import psnr, ssim
from lib.runtime.distributed import autocast

TILE = 192  # side of what one tile adds to the result, in low-resolution pixels; bounds the memory of a generator
CPU_PIXELS = 8192  # low-resolution pixels of a batch on a CPU: its maps stay in the cache, larger batches are slower
BICUBIC_RADIUS = 3  # low-resolution pixels to each side that a pixel of a bicubic enlargement depends on
STRIP_PIXELS = 1_000_000  # of what PSNR and SSIM look at in one go
MAX_WASTE = 1.2  # pixels computed in a batch of unlike sizes for each pixel that is wanted


def receptive_radius(generator):
    """How many low-resolution pixels on each side of its place a pixel of the generator's output depends on."""
    radius, resolution = 0.0, 1
    for module in generator.modules():
        if isinstance(module, nn.Conv2d):
            radius += (module.kernel_size[0] - 1) / 2 / resolution
        elif isinstance(module, nn.PixelShuffle):
            resolution *= module.upscale_factor
    return math.ceil(radius)


def spans(length, tile, radius):
    """Cut a side of `length` pixels: (start, stop) of each part and (first, last) of it with `radius` around."""
    count = 1 if length <= tile + 2 * radius else math.ceil(length / tile)
    cuts = [length * number // count for number in range(count + 1)]
    return [(start, stop, max(0, start - radius), min(length, stop + radius)) for start, stop in zip(cuts, cuts[1:])]


@torch.no_grad()
def enlarge_in_tiles(enlarge, image, radius, tile=TILE):
    """Enlarge one image (3, h, w) part by part; yields (top, left, part) in pixels of the result.

    enlarge: (1, 3, h, w) -> (1, 3, s h, s w), whose pixels depend on `radius` low-resolution pixels around them.
    """
    for top, bottom, first_row, last_row in spans(image.shape[1], tile, radius):
        for left, right, first_column, last_column in spans(image.shape[2], tile, radius):
            source = image[None, :, first_row:last_row, first_column:last_column]
            part = enlarge(source)[0]
            scale = part.shape[-1] // source.shape[-1]
            part = part[:, (top - first_row) * scale:(bottom - first_row) * scale,
                        (left - first_column) * scale:(right - first_column) * scale]
            yield top * scale, left * scale, part


@contextlib.contextmanager
def _inputs_masked(generator, masks):
    """While entered, each convolution's input is multiplied by the mask of its height; `masks`: {height: mask}."""
    def blank(features):
        height = features.shape[2]
        masks[height] = masks[height].to(features.dtype)  # two types in one product take several times as long
        features.mul_(masks[height])  # in place: nothing uses what lies outside the images

    hooks = [module.register_forward_pre_hook(lambda _module, args: blank(args[0]))
             for module in generator.modules() if isinstance(module, nn.Conv2d)]
    # the last convolution need not be called as a module
    hooks.append(generator.upsample.register_forward_hook(lambda _module, _args, features: blank(features)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def enlarge_together(generator, images):
    """Enlarge images (3, h, w) of any sizes in one batch; returns them enlarged, in their order.

    generator: in eval mode, on the device of the images.
    """
    height, width = max(image.shape[1] for image in images), max(image.shape[2] for image in images)
    batch = images[0].new_zeros(len(images), 3, height, width)
    inside = images[0].new_zeros(len(images), 1, height, width)
    for number, image in enumerate(images):
        batch[number, :, :image.shape[1], :image.shape[2]] = image
        inside[number, :, :image.shape[1], :image.shape[2]] = 1
    batch = batch.contiguous(memory_format=torch.channels_last)
    scale = generator.scale
    masks = {height * step: inside.repeat_interleave(step, 2).repeat_interleave(step, 3) for step in (1, 2, 4)}
    with contextlib.nullcontext() if inside.all() else _inputs_masked(generator, masks):
        details = generator.detail(batch)
    return [generator.base(image[None])[0] + detail[:, :image.shape[1] * scale, :image.shape[2] * scale]
            for image, detail in zip(images, details)]


def batches(sizes, batch_size, max_pixels=TILE * TILE):
    """Lists of indices of images that go well together: of like sizes, at most `batch_size`, of `max_pixels` in all.

    sizes: (height, width) of each image.
    """
    batch, height, width, wanted = [], 0, 0, 0
    by_height = sorted(range(len(sizes)), key=lambda i: (round(2 * math.log2(sizes[i][0])), sizes[i][1]))
    for index in by_height:
        taller, wider = max(height, sizes[index][0]), max(width, sizes[index][1])
        area = taller * wider * (len(batch) + 1)
        wanted += sizes[index][0] * sizes[index][1]
        if batch and (len(batch) == batch_size or area > max_pixels or area > MAX_WASTE * wanted):
            yield batch
            batch, wanted = [], sizes[index][0] * sizes[index][1]
            taller, wider = sizes[index]
        batch.append(index)
        height, width = taller, wider
    if batch:
        yield batch


def paste_tiles(enlarge, image, radius, scale, tick=None):
    """One image (3, h, w) enlarged in tiles, as 8-bit PIL; only a tile at a time is in memory at full precision."""
    picture = Image.new('RGB', (image.shape[2] * scale, image.shape[1] * scale))
    for top, left, tile in enlarge_in_tiles(enlarge, image, radius):
        picture.paste(to_pil(tile), (left, top))
        if tick:
            tick()
    return picture


def enlarge_by_bicubic(images, scale, tick=None):
    """Yield (index, enlarged 8-bit PIL image) of images (3, h, w) in [0, 1]. tick: see `enlarge_by_generator`."""
    def enlarge(tile):
        return resize(tile, (tile.shape[2] * scale, tile.shape[3] * scale))

    for index, image in enumerate(images):
        yield index, paste_tiles(enlarge, image, BICUBIC_RADIUS, scale, tick)


def enlarge_by_generator(generator, images, batch_size, device, amp='off', tick=None):
    """Yield (index, enlarged 8-bit PIL image) of images (3, h, w) in [0, 1], in an order of its own.

    Images up to a tile go in batches of like sizes, larger ones alone. generator: in eval mode, on `device`. amp: see
    `lib.runtime.distributed.autocast`. tick: called after each batch and each tile; what it raises ends the work.
    """
    small = [index for index, image in enumerate(images) if max(image.shape[1:]) <= TILE]
    max_pixels = CPU_PIXELS if device.type == 'cpu' else TILE * TILE
    for batch in batches([tuple(images[index].shape[1:]) for index in small], batch_size, max_pixels):
        indices = [small[number] for number in batch]
        with autocast(amp, device):
            results = enlarge_together(generator, [images[index].to(device) for index in indices])
        for index, result in zip(indices, results):
            yield index, to_pil(result)
        if tick:
            tick()

    def enlarge(tile):
        with autocast(amp, device):
            return generator(tile)

    radius = receptive_radius(generator)
    for index in sorted(set(range(len(images))) - set(small)):
        yield index, paste_tiles(enlarge, images[index].to(device), radius, generator.scale, tick)


def measure(sr, hr):
    """PSNR and SSIM (see `lib.metrics`) of two 8-bit PIL images of one size, in strips: any size fits into memory."""
    reach = 10  # an SSIM window is 11 pixels high: strips share 10 rows, so that each window is seen once
    rows = max(1, STRIP_PIXELS // sr.width)
    error = similarity = 0.0
    windows = max(1, sr.height - reach)
    for top in range(0, windows, rows):
        count = min(rows, windows - top)
        last = sr.height if top + count == windows else top + count  # rows from here on belong to the next strip
        strips = [to_tensor(image.crop((0, top, sr.width, min(sr.height, top + count + reach))))[None]
                  for image in (sr, hr)]
        similarity += ssim(*strips).item() * count
        error += 10 ** (-psnr(*(strip[:, :, :last - top] for strip in strips)).item() / 10) * (last - top)
    return -10 * math.log10(error / sr.height) if error else math.inf, similarity / windows
