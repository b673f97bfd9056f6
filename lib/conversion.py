"""One image after another through all methods: made smaller, enlarged, saved, measured, read and drawn."""
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image

from lib import drawing
from lib.checkpoint import written_beside
from lib.imaging import RECOGNIZER_SIZE, degrade, quantize, read_image, resize, to_pil, to_tensor
from lib.tiling import measure
from lib.vocabulary import normalize

TITLES = {'bicubic': 'bicubic', 'srgan': 'SRGAN', 'textsr': 'TextSR', 'original': 'original'}
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
    rows: list = field(default_factory=list)  # a dict for each version, as `convert` returns them
    versions: list = field(default_factory=list)
    words: list = field(default_factory=list)  # pictures to read: of each version the whole, in scenes its details too


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
    left, top = int(box[0] * picture.width), int(box[1] * picture.height)
    right, bottom = round(box[2] * picture.width), round(box[3] * picture.height)
    return picture.crop((left, top, max(left + 1, right), max(top + 1, bottom)))


def add_version(job, method, picture):
    """Measure a result and keep what is needed of it later: a view, the details, what is to be read."""
    row, note = {'image': job.path.name, 'result': job.name, 'method': method, 'label': job.label}, ''
    if job.hr is not None and method != 'original':
        row['psnr'], row['ssim'] = measure(picture, job.hr)
        note = f'{row["psnr"]:.2f} dB, SSIM {row["ssim"]:.3f}'
    details = tuple(cut(picture, box) for box in job.boxes)
    whole, view = picture, picture
    if picture.width * picture.height > KEPT_PIXELS:
        whole, view = picture.resize(RECOGNIZER_SIZE[::-1], Image.Resampling.BILINEAR), drawing.fit(picture)
    job.rows.append(row)
    job.versions.append(drawing.Version(TITLES[method], view, None, note, details))
    job.words.append([whole, *(details if min(picture.size) > SCENE else ())])


def save(picture, path):
    """Write a PNG beside its place and move it there; OSError names the path."""
    try:
        with written_beside(path) as beside:
            picture.save(beside, 'PNG', compress_level=3)  # less than half the time of 6 for a few percent more bytes
    except OSError as error:
        raise OSError(f'{shown(path)}: could not be written: {error.strerror or error}') from error


def convert(jobs, enlargers, read, out_path):
    """Enlarge the images by every method, save the results, measure and read them, draw the comparisons.

    enlargers: {method: function of a list of (3, h, w) that yields (index, 8-bit PIL image)}. read: function of a list
    of PIL images that yields (string, score). Returns a dict for each image and method: image, result, method, label,
    string, score, psnr and ssim where the original is known, right where the label is.
    """
    for method, enlarge in enlargers.items():
        for index, picture in enlarge([job.lr for job in jobs]):
            save(picture, Path(out_path) / method / jobs[index].name)
            add_version(jobs[index], method, picture)
    for job in jobs:
        if job.hr is not None:
            add_version(job, 'original', job.hr)
    strings = read([word for job in jobs for words in job.words for word in words])
    for job in jobs:
        for number, row in enumerate(job.rows):
            (row['string'], row['score']), *details = [next(strings) for _ in job.words[number]]
            if job.label is not None:
                row['right'] = normalize(row['string']) == normalize(job.label)
            job.versions[number] = job.versions[number]._replace(
                text=row['string'], detail_texts=tuple(string for string, _ in details))
        save(drawing.compare(job.versions, job.label, job.boxes), Path(out_path) / COMPARE / job.name)
    return [row for job in jobs for row in job.rows]
