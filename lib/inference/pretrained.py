"""Networks ready to be used from Python: `textsr.py` and `hubconf.py` hand them out."""
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from lib.checkpoint import load_aster, load_generator
from lib.imaging import recognizer_input, to_rgb, to_tensor
from lib.inference import enlarging
from lib.inference.evaluation import read_words
from lib.options import ASTER_PATH, BEAM_WIDTH, WEIGHTS
from lib.vocabulary import vocabulary_of

PICTURES = 'a PIL image of at least one pixel, in any mode, or a list of them'
BATCH = 'a tensor (N, 3, H, W), float32 RGB in [0, 1],'


def shipped(name_or_path):
    """The path of a shipped network given by its name, such as 'textsr' or 'aster'; a path as it is.

    A name has neither a folder nor a suffix. ValueError, with the names that there are, where it is none of them.
    """
    name = str(name_or_path)
    if Path(name).name != name or Path(name).suffix:
        return name_or_path
    paths = {path.stem: path for path in sorted(WEIGHTS.glob('*.pth'))}
    paths['aster'] = Path(ASTER_PATH)
    if name not in paths:
        raise ValueError(f'{name}: no shipped network; there are {", ".join(paths)}; a file is given by its path, with '
                         'its suffix')
    return paths[name]


def check_images(images, dtype):
    """ValueError unless these are images (N, 3, H, W) of the network's dtype, in [0, 1] up to rounding."""
    needed = f'a tensor (N, 3, H, W), {dtype}, RGB in [0, 1], is needed'
    if not torch.is_tensor(images):
        raise ValueError(f'images as {type(images).__name__}: {needed}')
    is_cast = images.is_cuda and torch.is_autocast_enabled() and images.dtype in (torch.float16, torch.bfloat16)
    if images.dim() != 4 or images.shape[1] != 3 or not images.numel() or not (images.dtype == dtype or is_cast):
        raise ValueError(f'images {tuple(images.shape)} of {images.dtype}: {needed}')
    if not (images.amin() > -0.01 and images.amax() < 1.01):
        raise ValueError(f'images from {images.amin():g} to {images.amax():g}: {needed}')


def check_use(weight, batch_size):
    """ValueError where a network with this weight cannot take pictures, or no batches of this size."""
    if weight.dtype != torch.float32:
        raise ValueError(f'a network of {weight.dtype}: torch.float32 is needed, which .float() makes')
    if batch_size < 1:
        raise ValueError(f'batch_size {batch_size}: must be above zero')


def tensors_of(pictures, needed=PICTURES):
    """Yield PIL images as float32 (3, H, W) in [0, 1]; ValueError, which says which one of the list, for anything else
    and for files that cannot be decoded."""
    if isinstance(pictures, (str, bytes, np.ndarray, torch.Tensor)) or not isinstance(pictures, Iterable):
        raise ValueError(f'pictures as {type(pictures).__name__}: {needed} is needed')
    for number, picture in enumerate(pictures):
        if not isinstance(picture, Image.Image):
            raise ValueError(f'pictures[{number}] as {type(picture).__name__}: {needed} is needed')
        if not all(picture.size):
            raise ValueError(f'pictures[{number}] of {picture.width}x{picture.height} pixels: {needed} is needed')
        try:
            tensor = to_tensor(to_rgb(picture))
        except Exception as error:  # Pillow raises many kinds of exceptions for damaged files
            raise ValueError(f'pictures[{number}]: {error}') from error
        yield tensor


class Enlarger(nn.Module):
    """A generator for use: enlarges batches when called, pictures by `enlarge`, `scale` times each side.

    name_or_path: that of a shipped network, or of any file that `load_generator` reads. OSError or ValueError, which
    names it, where it cannot be used.
    """

    def __init__(self, name_or_path='textsr'):
        super().__init__()
        self.generator = load_generator(shipped(name_or_path)).requires_grad_(False)
        self.scale = self.generator.scale
        self.eval()

    def forward(self, images):
        """Images (N, 3, h, w), float RGB in [0, 1] -> (N, 3, scale h, scale w) in [0, 1]. Gradients pass through.

        ValueError for images of another shape, type or range.
        """
        check_images(images, self.generator.tail.weight.dtype)
        return self.generator(images).clamp(0, 1)

    def enlarge(self, pictures, batch_size=64):
        """A PIL image of any mode and size -> it enlarged, 8-bit RGB; a list of them -> a list.

        Transparency is laid on white, on black where all that is seen is light. Images of like sizes go through the
        network in batches, large ones in tiles. ValueError for anything else, for pictures without a pixel, and where
        the weights are not float32.
        """
        if isinstance(pictures, Image.Image):
            return self.enlarge([pictures], batch_size)[0]
        check_use(self.generator.tail.weight, batch_size)
        images = list(tensors_of(pictures))
        device = self.generator.tail.weight.device
        results = dict(enlarging.Method(self.generator, device=device).pictures(images, batch_size))
        return [results[index] for index in range(len(images))]


class Reader(nn.Module):
    """A recognizer for use: reads batches and pictures of one word each by `read`.

    name_or_path: that of a shipped network, or of any file that `load_aster` reads. OSError or ValueError, which names
    it, where it cannot be used.
    """

    def __init__(self, name_or_path='aster'):
        super().__init__()
        self.recognizer = load_aster(shipped(name_or_path)).freeze()
        self.vocabulary = vocabulary_of(self.recognizer.num_classes, self.recognizer.alphabet)
        self.eval()

    @torch.no_grad()
    def read(self, words, beam_width=BEAM_WIDTH, batch_size=64, with_scores=False):
        """The strings in images of one word each, a list; of a single PIL image the string.

        words: a PIL image or a list of them, of any mode and size, or a tensor (N, 3, H, W), float RGB in [0, 1].
        beam_width: beams of the search, 1: greedy. with_scores: pairs of a string and its log probability, the higher
        the more certain, in place of strings. ValueError for images of another type, shape or range, and where the
        weights are not float32.
        """
        if isinstance(words, Image.Image):
            return self.read([words], beam_width, batch_size, with_scores)[0]
        weight = next(self.recognizer.parameters())
        check_use(weight, batch_size)
        if torch.is_tensor(words):
            check_images(words, weight.dtype)
            parts = (recognizer_input(part) for part in words.split(batch_size))
        else:
            inputs = (recognizer_input(word[None]) for word in tensors_of(words, f'{PICTURES} or {BATCH}'))
            parts = map(torch.cat, iter(lambda: list(islice(inputs, batch_size)), []))
        readings = [reading for part in parts
                    for reading in read_words(self.recognizer, self.vocabulary, part.to(weight.device), beam_width)]
        return readings if with_scores else [string for string, _ in readings]

    forward = read
