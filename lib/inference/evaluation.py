"""Testing: every word enlarged by every method and read; all tables come from the list of readings."""
from itertools import zip_longest
from operator import itemgetter
from typing import Callable, NamedTuple, Optional

import torch
from tqdm import tqdm

from lib.datasets.loading import batches
from lib.imaging import quantize, recognizer_input, to_pil
from lib.inference.drawing import Column, compare, stack
from lib.inference.files import BICUBIC
from lib.metrics import psnr, ssim
from lib.options import BEAM_WIDTH
from lib.runtime.distributed import gather, rank

ORIGINAL = 'original'  # in the place of a low-resolution size: the picture as it is


class Reading(NamedTuple):
    """One word read once. lr_size: 'WxH', 'original' or 'below WxH'; psnr and ssim None where there is no reference."""

    set: str
    lr_size: str
    index: int
    label: str
    method: str
    string: str
    score: float
    psnr: float = None
    ssim: float = None
    correct: Optional[bool] = None  # see `Vocabulary.same`


class WordReader(NamedTuple):
    """What reads words. prepare: images (N, 3, h, w) in [0, 1] to what it reads, in a data worker for originals.
    read: a list of such prepared batches to a (string, log probability) for each image."""

    prepare: Callable
    read: Callable
    name: str = 'aster'


def aster_reader(recognizer, vocabulary, beam_width=BEAM_WIDTH):
    """The `WordReader` of a recognizer."""
    def read(inputs):
        return read_words(recognizer, vocabulary, torch.cat(inputs), beam_width)

    return WordReader(recognizer_input, read)


def size_name(size):
    """(height, width) as 'WIDTHxHEIGHT'."""
    return f'{size[1]}x{size[0]}'


def read_words(recognizer, vocabulary, images, beam_width=BEAM_WIDTH):
    """Recognizer input (N, 3, 64, 256) -> N pairs of the string read and its summed log probability."""
    ids, scores = recognizer.decode(images, beam_width)
    return [(vocabulary.decode(row), score) for row, score in zip(ids.tolist(), scores.tolist())]


def more_certain(first, second):
    """Of two lists of (string, log probability) for the same words, at each place the one that is more probable."""
    return [max(readings, key=itemgetter(1)) for readings in zip(first, second)]


@torch.no_grad()
def compare_words(samples, reader, vocabulary, enlargers, device, size):
    """A PIL sheet of the first words of `EvalSamples`, eight at most, at one LR size: each method and HR, with what is
    read."""
    sheets = []
    for sample in (samples[item] for item in range(min(8, len(samples)))):
        if 'error' in sample:
            continue
        hr, lr = (image[None].to(device) for image in sample['pairs'][size])
        pictures = {**{method: quantize(enlarge(lr)) for method, enlarge in enlargers.items()}, 'hr': hr}
        strings = [string for string, _ in reader.read([reader.prepare(picture) for picture in pictures.values()])]
        sheets.append(compare([Column(method, to_pil(picture[0]), string)
                               for (method, picture), string in zip(pictures.items(), strings)], sample['label'],
                              normalize=vocabulary.normalize))
    return stack(sheets) if sheets else None


@torch.no_grad()
def evaluate(loader, set_name, reader, vocabulary, enlargers, device, below=None, with_hr=False, read_both=False):
    """Read every word of the loader (`EvalSamples` that are prepared for this `WordReader`) as it is and enlarged by
    each method.

    enlargers: {name: function of images (N, 3, h, w) in [0, 1] that enlarges them}. with_hr: also read the
    high-resolution pair, as method 'hr'. below = (height, width): the second protocol too, in which only pictures
    smaller than that are enlarged, from their own pixels. read_both: beside each method but bicubic also
    'bicubic+<method>', of the two readings the `more_certain`. Returns (readings, errors) of all processes, in the
    order of the set; an error names a record that could not be read.
    """
    readings, errors = [], []

    def read(pictures):
        return reader.read([reader.prepare(picture) for picture in pictures])

    def note(batch, lr_size, method, strings, psnrs=(), ssims=()):
        for index, label, (string, score), p, s in zip_longest(batch['index'], batch['label'], strings, psnrs, ssims):
            right = vocabulary.same(string, label)
            readings.append(Reading(set_name, lr_size, index, label, method, string, score, p, s, right))

    def note_both(batch, lr_size, strings):
        for method in strings if read_both else ():
            if method != BICUBIC:
                note(batch, lr_size, f'{BICUBIC}+{method}', more_certain(strings[BICUBIC], strings[method]))

    for batch in tqdm(batches(loader), desc=f'test {set_name}', total=len(loader), leave=False, disable=rank() != 0,
                      dynamic_ncols=True):
        errors += batch['errors']
        if 'index' not in batch:
            continue
        as_they_are = reader.read([original.to(device, non_blocking=True) for original in batch['original']])
        note(batch, ORIGINAL, 'none', as_they_are)
        for size, (hr, lr) in batch['pairs'].items():
            hr, lr = hr.to(device, non_blocking=True), lr.to(device, non_blocking=True)
            strings = {}
            for method, enlarge in enlargers.items():
                sr = quantize(enlarge(lr))
                strings[method] = read([sr])
                note(batch, size_name(size), method, strings[method], psnr(sr, hr).tolist(), ssim(sr, hr).tolist())
            note_both(batch, size_name(size), strings)
            if with_hr:
                note(batch, size_name(size), 'hr', read([hr]))
        if below:
            small = {i: image.to(device) for i, image in enumerate(batch['small']) if image is not None}
            strings = {}
            for method, enlarge in enlargers.items():
                enlarged = read([quantize(enlarge(image)) for image in small.values()]) if small else ()
                by_place = dict(zip(small, enlarged))
                strings[method] = [by_place.get(place, reading) for place, reading in enumerate(as_they_are)]
                note(batch, f'below {size_name(below)}', method, strings[method])
            note_both(batch, f'below {size_name(below)}', strings)
    order = {}  # methods and sizes in the order in which they were asked for
    for reading in readings:
        order.setdefault((reading.lr_size, reading.method), len(order))
    readings = sorted(gather(readings), key=lambda r: (order.get((r.lr_size, r.method), 0), r.index))
    return readings, sorted(gather(errors))
