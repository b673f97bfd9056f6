"""One image after another through all methods: made smaller, enlarged, saved, measured, read and drawn."""
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from lib.datasets.degradation import degrade
from lib.imaging import RECOGNIZER_SIZE, quantize, read_image, resize, to_pil, to_tensor
from lib.inference import drawing
from lib.metrics import measure
from lib.runtime.checkpoint import written_beside
from lib.vocabulary import normalize

ORIGINAL = 'original'
TITLES = {'bicubic': 'bicubic', 'srgan': 'SRGAN', 'textsr': 'TextSR', ORIGINAL: 'original'}
COMPARE = 'compare'  # folder of the drawings, beside one for each method
MAX_PIXELS = 400_000_000  # of a result: 1.6 GB in memory; 12 megapixels enlarged 4 times are 192 million
KEPT_PIXELS = 1_000_000  # a result of more is not kept until it is read and drawn, but a reduced one
SCENE = 256  # pixels: an image with two longer sides is a scene, in which the details are read too


@dataclass
class Job:
    """One image on its way. lr: (3, h, w) in [0, 1]; hr: 8-bit PIL or None; boxes: details as shares of the sides."""

    path: Path
    name: str  # of its results
    pixels: int  # of a result
    lr: torch.Tensor
    hr: Image.Image
    label: str
    boxes: list
    versions: dict = None  # {method: Result}


def shown(path):
    """A path as one line of a message: quoted where it holds what does not print."""
    return str(path) if str(path).isprintable() else repr(str(path))


def place_zooms(zooms, width, height):
    """Parts (x, y, w, h) of width x height pixels as shares (left, top, right, bottom); and those that lie outside."""
    inside = [zoom for zoom in zooms if zoom[0] < width and zoom[1] < height]
    return [(x / width, y / height, min(1, (x + w) / width), min(1, (y + h) / height)) for x, y, w, h in inside], \
        [zoom for zoom in zooms if zoom not in inside]


def prepare(path, name, ds_scale, scale, size=None, zooms=(), label=None, say=print):
    """Read the image at `path` and make its low resolution.

    ds_scale: how many times it is reduced, 1: not at all. scale: how many times the methods enlarge. size: (width,
    height) to resize it to first; without, it keeps its own, less at most ds_scale - 1 pixels at the right and bottom
    (a side shorter than ds_scale is stretched to it). ValueError where the image cannot be read or is too large.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise ValueError('not a regular file')
    image = read_image(path)
    if size:
        kept = image.size
    else:
        size = tuple(max(1, side // ds_scale) * ds_scale for side in image.size)
        kept = tuple(map(min, size, image.size))
    pixels = size[0] * size[1] * (scale // ds_scale) ** 2
    if pixels > MAX_PIXELS:
        raise ValueError(f'the result would have {pixels} pixels, more than {MAX_PIXELS}; give --width and --height')
    boxes, outside = place_zooms(zooms, *kept)
    for zoom in outside:
        say(f'{shown(path)}: --zoom {",".join(map(str, zoom))} lies outside of its {kept[0]}x{kept[1]} pixels')
    images = to_tensor(image.crop((0, 0, *kept)))[None]
    if kept != size:
        images = quantize(resize(images, size[::-1]))
    if ds_scale == 1:
        return Job(path, name, pixels, images[0], None, label, boxes)
    return Job(path, name, pixels, degrade(images, ds_scale)[0], to_pil(images[0]), label, boxes)


def cut(picture, box):
    """The part of a picture in `box`, shares of its sides; at least one pixel."""
    left, top, right, bottom = (round(share * side) for share, side in zip(box, picture.size * 2))
    left, top = min(left, picture.width - 1), min(top, picture.height - 1)
    return picture.crop((left, top, max(left + 1, right), max(top + 1, bottom)))


@dataclass
class Result:
    """What is kept of one version of an image: its line in the table, its column in the drawing, what is to be read."""

    row: dict
    drawn: drawing.Version
    words: list  # the whole picture, and in scenes the details

    def take(self, readings):
        """Enter what was read, (string, score) of each of the words."""
        (self.row['string'], self.row['score']), *details = readings
        if self.row['label'] is not None:
            self.row['right'] = normalize(self.row['string']) == normalize(self.row['label'])
        self.drawn = self.drawn._replace(text=self.row['string'], detail_texts=tuple(string for string, _ in details))


def make_version(job, method, picture):
    """Measure a version of the job's image and keep no more of it than will be needed."""
    row, note = {'image': job.path.name, 'result': job.name, 'method': method, 'label': job.label}, ''
    if job.hr is not None and method != ORIGINAL:
        row['psnr'], row['ssim'] = measure(picture, job.hr)
        note = f'{row["psnr"]:.2f} dB, SSIM {row["ssim"]:.3f}'
    details = tuple(cut(picture, box) for box in job.boxes)
    inside = details if min(picture.size) > SCENE else ()
    if picture.width * picture.height > KEPT_PIXELS:
        whole, view = picture.resize(RECOGNIZER_SIZE[::-1], Image.Resampling.BILINEAR), drawing.fit(picture)
    else:
        whole = view = picture
    return Result(row, drawing.Version(TITLES[method], view, None, note, details), [whole, *inside])


def save(picture, path):
    """Write a PNG beside its place and move it there; OSError names the path."""
    try:
        with written_beside(path, flush=False) as beside:  # to wait for the disk takes longer than to draw
            picture.save(beside, 'PNG', compress_type=zlib.Z_RLE)  # as small as the default, in less time
    except OSError as error:
        raise OSError(f'{shown(path)}: could not be written: {error.strerror or error}') from error


class Workers:
    """Runs functions over items, in order: by threads side by side, each with its share of torch's threads.

    That is faster than one network with all of torch's threads, which wait for each other at every layer, the more
    so on a busy machine. With count 1 there are no threads but torch's.
    """

    def __init__(self, count):
        share = max(1, torch.get_num_threads() // count)
        self.pool = ThreadPoolExecutor(count, 'convert', torch.set_num_threads, (share,)) if count > 1 else None

    def map(self, function, items):
        """The results of function(item), as a list."""
        if self.pool is None:
            return [function(item) for item in items]
        try:
            return list(self.pool.map(function, items))
        except BaseException:
            self.pool.shutdown(cancel_futures=True)
            raise


def convert(jobs, enlargers, read, out_path, workers, batch_size):
    """Enlarge the images by every method, save the results, measure and read them, draw the comparisons.

    enlargers: {method: function of a list of (3, h, w) that yields (index, 8-bit PIL image)}. read: function of a list
    of at most batch_size PIL images that returns (string, score) of each. Returns a dict for each image and method:
    image, result, method, label, string, score, psnr and ssim where the original is known, right where the label is.
    """
    def enlarge(task):
        method, mine = task
        for index, picture in enlargers[method]([job.lr for job in mine]):
            save(picture, Path(out_path) / method / mine[index].name)
            mine[index].versions[method] = make_version(mine[index], method, picture)

    def draw(job):
        versions = [version.drawn for version in job.versions.values()]
        save(drawing.compare(versions, job.label, job.boxes), Path(out_path) / COMPARE / job.name)

    for job in jobs:
        job.versions = dict.fromkeys(enlargers)  # in this order, whichever is done first
    tasks = [(method, jobs) for method in enlargers if method != 'bicubic']  # the networks batch all of them
    workers.map(enlarge, tasks + [('bicubic', [job]) for job in jobs])  # the quick ones last: they fill the gaps
    for job in jobs:
        if job.hr is not None:
            job.versions[ORIGINAL] = make_version(job, ORIGINAL, job.hr)
    versions = [version for job in jobs for version in job.versions.values()]
    words = [word for version in versions for word in version.words]
    parts = [words[start:start + batch_size] for start in range(0, len(words), batch_size)]
    strings = (reading for part in workers.map(read, parts) for reading in part)
    for version in versions:
        version.take([next(strings) for _ in version.words])
    workers.map(draw, jobs)
    return [version.row for version in versions]
