"""Enlarging images of any size by bicubic interpolation or a generator, the same way for tests and conversion.

Large images are cut into overlapping tiles, small ones of different sizes share batches. The result is that of each
image alone, up to rounding: tiles overlap by the receptive field, and in a batch the pixels beside a smaller image
are kept at zero, as the padding of the convolutions is.
"""
import contextlib
import math
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn

from lib.imaging import resize, to_uint8
from lib.runtime.device import autocast

TILE = 320  # side of a tile without its overlap, low-resolution pixels: bounds the memory, at little work done twice
CPU_PIXELS = 8192  # low-resolution pixels of a batch on a CPU: its maps stay in the cache, larger batches are slower
CUDA_PIXELS = 36_864
BICUBIC_RADIUS = 3  # low-resolution pixels to each side that a pixel of a bicubic enlargement depends on
MAX_WASTE = 1.2  # pixels computed in a batch of different sizes, for each pixel wanted
HOOKING = threading.Lock()  # torch may give the hooks of two threads the same number, and keep one of them


class Span(NamedTuple):
    """A part of a side, start to stop, and first to last with the surroundings that it depends on: pixels of LR."""

    start: int
    stop: int
    first: int
    last: int


class Tile(NamedTuple):
    """A part of image `index`."""

    index: int
    rows: Span
    columns: Span

    @property
    def size(self):
        """Height and width with the surroundings."""
        return self.rows.last - self.rows.first, self.columns.last - self.columns.first

    def cut(self, images):
        """The tile with its surroundings of images (..., h, w)."""
        return images[..., self.rows.first:self.rows.last, self.columns.first:self.columns.last]


def spans(length, tile, radius):
    """Cut a side of `length` pixels into `Span`s of about `tile` pixels, with `radius` around."""
    count = 1 if length <= tile + 2 * radius else math.ceil(length / tile)
    cuts = [length * number // count for number in range(count + 1)]
    return [Span(start, stop, max(0, start - radius), min(length, stop + radius))
            for start, stop in zip(cuts, cuts[1:])]


def tile_batches(tiles, batch_size, max_pixels):
    """Lists of tiles of similar sizes: at most `batch_size`, of `max_pixels` in all (a larger tile is alone)."""
    batch, height, width, wanted = [], 0, 0, 0
    for tile in sorted(tiles, key=lambda tile: (round(2 * math.log2(tile.size[0])), tile.size[1])):
        taller, wider = max(height, tile.size[0]), max(width, tile.size[1])
        area = taller * wider * (len(batch) + 1)
        wanted += tile.size[0] * tile.size[1]
        if batch and (len(batch) == batch_size or area > max_pixels or area > MAX_WASTE * wanted):
            yield batch
            batch, wanted = [], tile.size[0] * tile.size[1]
            taller, wider = tile.size
        batch.append(tile)
        height, width = taller, wider
    if batch:
        yield batch


def receptive_radius(*networks):
    """How many low-resolution pixels to each side a pixel depends on, of what these layers, in this order, give."""
    radius, resolution = 0.0, 1
    for module in (module for network in networks for module in network.modules()):
        if isinstance(module, nn.Conv2d):
            radius += (module.kernel_size[0] - 1) / 2 / resolution
        elif isinstance(module, nn.PixelShuffle):
            resolution *= module.upscale_factor
    return math.ceil(radius)


class Workers:
    """Threads that share the work, each with its part of torch's threads; with count 1 there are none.

    Two networks with one thread each are faster than one with two, whose threads wait for each other at every layer.
    """

    def __init__(self, count):
        share = max(1, torch.get_num_threads() // count)
        self.pool = ThreadPoolExecutor(count, 'enlarge', torch.set_num_threads, (share,)) if count > 1 else None

    def map(self, function, items):
        """Yield function(item) of each, in order; after an error or an interruption no further work is started."""
        yield from map(function, items) if self.pool is None else self.pool.map(function, items)


class Method:
    """Enlarges `scale` times by a generator, or without one by bicubic interpolation.

    generator: moved to the device and, at each use, into eval mode. amp: see `lib.runtime.device.autocast`.
    """

    def __init__(self, generator=None, scale=None, device='cpu', amp='off'):
        self.device, self.amp = torch.device(device), amp
        self.generator = generator.to(device, memory_format=torch.channels_last) if generator is not None else None
        self.scale = generator.scale if generator is not None else scale
        self.max_pixels = CPU_PIXELS if self.device.type == 'cpu' else CUDA_PIXELS
        self._local = threading.local()  # each thread has a batch of its own

    @torch.no_grad()
    def __call__(self, images):
        """A batch (N, 3, h, w) in [0, 1] -> (N, 3, scale h, scale w); a generator's output is not clamped."""
        height, width = images.shape[2:]
        if self.generator is None:
            return resize(images, (self.scale * height, self.scale * width))
        self.generator.eval()  # between two validations it is trained
        count = max(1, self.max_pixels // (height * width)) if self.device.type == 'cpu' else len(images)
        with autocast(self.amp, self.device):
            return torch.cat([self.generator(part.contiguous(memory_format=torch.channels_last))
                              for part in images.split(count)])

    def pictures(self, images, batch_size=64, workers=None, tile=TILE):
        """Yield (index, enlarged 8-bit PIL image) of images (3, h, w) in [0, 1], each when it is done, in any order.

        Only tiles and batches in work are in memory at full precision.
        """
        radius = BICUBIC_RADIUS if self.generator is None else receptive_radius(self.generator)
        tiles = [Tile(index, rows, columns) for index, image in enumerate(images)
                 for rows in spans(image.shape[1], tile, radius) for columns in spans(image.shape[2], tile, radius)]
        waiting, canvases = Counter(tile.index for tile in tiles), {}
        groups = list(tile_batches(tiles, batch_size, self.max_pixels))

        def work(group):
            results = self._together([tile.cut(images[tile.index]) for tile in group])
            return [Image.fromarray(self._inside(tile, pixels)) for tile, pixels in zip(group, results)]

        with self._masking():
            for group, parts in zip(groups, (workers or Workers(1)).map(work, groups)):
                for tile, part in zip(group, parts):
                    height, width = images[tile.index].shape[1:]
                    if tile.index not in canvases:
                        canvases[tile.index] = Image.new('RGB', (width * self.scale, height * self.scale))
                    canvases[tile.index].paste(part, (tile.columns.start * self.scale, tile.rows.start * self.scale))
                    waiting[tile.index] -= 1
                    if not waiting[tile.index]:
                        yield tile.index, canvases.pop(tile.index)

    def _inside(self, tile, pixels):
        """The enlarged tile, uint8 (H, W, 3), without its surroundings."""
        rows, columns = (slice((span.start - span.first) * self.scale, (span.stop - span.first) * self.scale)
                         for span in (tile.rows, tile.columns))
        return np.ascontiguousarray(pixels[rows, columns])

    @torch.no_grad()
    def _together(self, images):
        """Images (3, h, w) of any sizes, enlarged in one batch: uint8 (H, W, 3) arrays in their order. Only inside
        `_masking`."""
        if self.generator is None:
            return [to_uint8(self(image[None])[0]) for image in images]
        self.generator.eval()
        height, width = max(image.shape[1] for image in images), max(image.shape[2] for image in images)
        batch = torch.zeros(len(images), 3, height, width)
        inside = torch.zeros(len(images), 1, height, width)
        for number, image in enumerate(images):
            batch[number, :, :image.shape[1], :image.shape[2]] = image
            inside[number, :, :image.shape[1], :image.shape[2]] = 1
        are_equal = bool(inside.all())
        batch, inside = batch.to(self.device, memory_format=torch.channels_last), inside.to(self.device)
        self._local.masks = None if are_equal else {
            height * step: inside.repeat_interleave(step, 2).repeat_interleave(step, 3) for step in (1, 2, 4)}
        try:
            with autocast(self.amp, self.device):
                if len(images) == 1 and height * width > self.max_pixels:
                    return [self._in_parts(batch)]
                details = self.generator.detail(batch)
        finally:
            self._local.masks = None  # what else this thread computes has no batch
        return [to_uint8(self.generator.base(batch[number:number + 1, :, :image.shape[1], :image.shape[2]])[0]
                         + detail[:, :image.shape[1] * self.scale, :image.shape[2] * self.scale])
                for number, (image, detail) in enumerate(zip(images, details))]

    def _in_parts(self, image):
        """A large image (1, 3, h, w) enlarged: uint8 (H, W, 3). The upsampling, which takes most of the memory, goes
        part by part; their overlap is small, as most of the receptive field is that of the layers before."""
        features = self.generator.features(image)
        radius, side = receptive_radius(self.generator.upsample, self.generator.tail), math.isqrt(self.max_pixels)
        result = np.empty((self.scale * image.shape[2], self.scale * image.shape[3], 3), np.uint8)
        for rows in spans(image.shape[2], side, radius):
            for columns in spans(image.shape[3], side, radius):
                tile = Tile(0, rows, columns)
                enlarged = self.generator.base(tile.cut(image)) + self.generator.enlarge(tile.cut(features))
                result[rows.start * self.scale:rows.stop * self.scale,
                       columns.start * self.scale:columns.stop * self.scale] = self._inside(tile, to_uint8(enlarged[0]))
        return result

    @contextlib.contextmanager
    def _masking(self):
        """While entered, the input of each convolution is set to zero outside the images of the batch.

        The generator may be in use elsewhere too: in a thread that has no batch of this Method, nothing is done.
        """
        def blank(features):
            masks = getattr(self._local, 'masks', None)
            if masks:
                height = features.shape[2]
                masks[height] = masks[height].to(features.dtype)  # a product of two types takes several times as long
                features.mul_(masks[height])  # in place: nothing uses what lies outside

        hooks = []
        if self.generator is not None:
            with HOOKING:
                hooks = [module.register_forward_pre_hook(lambda _module, args: blank(args[0]))
                         for module in self.generator.modules() if isinstance(module, nn.Conv2d)]
                # the last convolution may be computed without its module being called: blank what it is given
                hooks.append(self.generator.upsample[-1][-1].register_forward_hook(
                    lambda _module, _args, features: blank(features)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
