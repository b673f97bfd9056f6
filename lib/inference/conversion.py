"""Images of a conversion through all methods: reduced or not, enlarged, saved, measured, read and drawn."""
import os
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image

from lib.datasets.degradation import degrade
from lib.imaging import (
    RECOGNIZER_SIZE,
    count_frames,
    ground_of,
    lay_on,
    read_image,
    resize,
    to_pil,
    to_tensor,
)
from lib.inference import boxes, drawing
from lib.inference.enlarging import Method, Workers
from lib.inference.files import BICUBIC, ORIGINAL, ORIGINALS
from lib.metrics import measure
from lib.runtime.console import printable
from lib.runtime.files import written_beside
from lib.vocabulary import Vocabulary

TITLES = {'srgan': 'SRGAN', 'textsr': 'TextSR'}  # of methods; others have their own name
MAX_PIXELS = 400_000_000  # of a result: 1.6 GB in memory; 12 megapixels enlarged 4 times are 192 million
KEPT_PIXELS = 1_000_000  # a larger result is saved at once; a reduced copy is kept to be read and drawn
DRAWN = 8  # words of a photograph, at most, in its drawing


@dataclass
class Row:
    """A line of the report: an image by one method, or a word in it. psnr, ssim, label, string are None if unknown."""

    image: str
    result: str
    method: str
    label: str = None
    string: str = None
    score: float = None
    psnr: float = None
    ssim: float = None
    correct: bool = None  # where the label is known and the image was read
    box: str = None  # corners of the word, in pixels of the image
    set: str = 'images'
    lr_size: str = ''


@dataclass(eq=False)
class Job:
    """One image on its way. Its words: normalized corners, and corners as they were given."""

    path: Path
    name: Path
    result: Path  # name of its results
    pixels: int  # of a result
    lr: torch.Tensor  # (3, h, w) in [0, 1]
    alpha: torch.Tensor = None  # (3, h, w), three times the same
    behind: str = 'white'  # what is transparent is measured, read and drawn on
    hr: Image.Image = None  # 8-bit, where it is known
    label: str = None
    profile: bytes = None  # ICC, of RGB
    is_scene: bool = False  # its words are read, not the whole
    words: dict = field(default_factory=dict)  # {text of the corners: normalized corners}
    versions: dict = field(default_factory=dict)  # {method: Version}
    by_bicubic: list = None  # what is read of it besides, once for all methods


@dataclass
class Version:
    """One version of an image: its lines in the report, its column in the drawing, and the pictures to read."""

    rows: list
    drawn: drawing.Column
    to_read: list  # [(row, picture)]; of several pictures of one row the most certain reading counts
    unsaved: Image.Image = None

    def finish(self, readings, vocabulary):
        """Enter what was read, (string, score) of each of `to_read`, into the lines and the drawing."""
        for (row, _), (string, score) in zip(self.to_read, readings):
            if row.score is None or score > row.score:
                row.string, row.score = string, score
            row.correct = None if row.label is None else vocabulary.same(row.string, row.label)
        words = [row.string for row in self.rows[1:]][:len(self.drawn.details)]
        self.drawn = self.drawn._replace(text=self.rows[0].string,
                                         detail_texts=tuple(words) if None not in words else ())


def as_it_is_read(picture):
    """A large picture at the size at which the recognizer takes it."""
    return picture.resize(RECOGNIZER_SIZE[::-1], Image.Resampling.BILINEAR)


def save(picture, path, profile=None):
    """Write a PNG, with an ICC profile if it has one; errors as those of `written_beside`."""
    with written_beside(path, flush=False) as beside:  # waiting for the disk takes longer than drawing
        # as small as with the default, in less time
        picture.save(beside, 'PNG', compress_type=zlib.Z_RLE, icc_profile=profile)


@dataclass
class Converter:
    """A conversion: `prepare` reads an image, `convert` processes a list of prepared ones to the end.

    enlargers: {method: Method}, of one scale. read: function of at most batch_size PIL images -> (string, score) of
    each; None: nothing is read. vocabulary: that of what is read. folders: {method: where its results go}. ground: a
    Method for photographs in which words are known: only these are enlarged by the methods, and put back into its
    enlargement. drawings: the folder of the comparisons, None: none are drawn. words_of: function of an image's path
    and its RGB picture -> corners of its words, pixels. read_both: read words after bicubic interpolation too.
    """

    enlargers: dict
    read: callable
    vocabulary: Vocabulary
    folders: dict
    drawings: Path = None
    ground: object = None
    ds_scale: int = 1
    size: tuple = None  # (width, height) that images are resized to first
    keep_alpha: bool = False
    batch_size: int = 64
    labels: dict = field(default_factory=dict)
    words_of: callable = lambda path, image: []
    say: callable = print  # what is told of an image
    done: callable = lambda: None  # called after each image
    read_both: bool = False

    def __post_init__(self):
        self.scale = next(iter(self.enlargers.values())).scale
        self.workers = Workers(1 if self.batch_size == 1 else 2)

    def prepare(self, path, name, result):
        """The Job of the image at `path`. ValueError where it cannot be read or would be too large.

        Without `size` an image keeps its own, less at most ds_scale - 1 pixels at the right and bottom (a side shorter
        than ds_scale is stretched to it).
        """
        if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for
            raise ValueError('not a regular file')
        image = read_image(path, self.keep_alpha)
        profile = image.info.get('icc_profile') or b''
        size = self.size or tuple(max(1, side // self.ds_scale) * self.ds_scale for side in image.size)
        kept = image.size if self.size else tuple(map(min, size, image.size))
        pixels = size[0] * size[1] * (self.scale // self.ds_scale) ** 2
        if pixels > MAX_PIXELS:
            smaller = ', or --methods textsr_x2' if self.scale == 4 and self.ds_scale == 1 else ''
            raise ValueError(f'the result would have {pixels} pixels, more than {MAX_PIXELS}; give --width and '
                             f'--height{smaller}')
        alpha, behind, whole = None, 'white', image
        if image.mode == 'RGBA':
            behind = ground_of(image)
            alpha, whole, image = image.getchannel('A').convert('RGB'), lay_on(behind, image), image.convert('RGB')
        tensor, alpha = (None if part is None else resize(to_tensor(part.crop((0, 0, *kept)))[None], size[::-1])[0]
                         for part in (image, alpha))
        job = Job(path, name, result, pixels, tensor, alpha, behind, label=self.labels.get(path),
                  profile=profile if profile[16:20] == b'RGB ' else None)
        frames = count_frames(path)
        if frames > 1:
            self.say(f'{printable(path)}: the first of its {frames} frames or pages')
        if self.ds_scale > 1:
            job.lr, job.hr = degrade(tensor[None], self.ds_scale)[0], to_pil(tensor)
        words = self.words_of(path, whole)
        for given in words:
            corners, text = boxes.normalize_corners(given, *kept), boxes.text_of(given)
            if corners is None:
                self.say(f'{printable(path)}: the box {text} lies outside of its {kept[0]}x{kept[1]} pixels')
            else:
                job.words[text] = corners
        is_photograph = min(size) > boxes.SCENE
        if is_photograph and words and not job.words:
            raise ValueError('none of its boxes lies inside, and all of it would be enlarged')
        job.is_scene = bool(job.words) or is_photograph
        return job

    def convert(self, jobs):
        """Enlarge the images by every method, save the results, measure and read them, draw; returns their rows."""
        for job in jobs:
            job.versions = dict.fromkeys(self.enlargers)
        in_parts = [job for job in jobs if self.ground and job.words]
        grounds = {}
        if in_parts:
            pictures = self.ground.pictures([job.lr for job in in_parts], self.batch_size, self.workers)
            grounds = {in_parts[index]: picture for index, picture in pictures}
        for method, enlarger in self.enlargers.items():
            for job, picture in self._enlarge(jobs, enlarger, grounds):
                seen = picture if picture.mode == 'RGB' else lay_on(job.behind, picture)
                job.versions[method] = self._version(job, method, seen)
                if job.pixels > KEPT_PIXELS:
                    save(picture, self.folders[method] / job.result, job.profile)
                else:
                    job.versions[method].unsaved = picture
        for job in jobs:
            if job.hr is not None:
                job.versions[ORIGINAL] = self._version(job, ORIGINAL, job.hr)
        versions = [version for job in jobs for version in job.versions.values()]
        self._read(versions)
        for _ in self.workers.map(self._save, jobs):  # after the reading: what is there has been read
            self.done()
        return [row for version in versions for row in version.rows]

    def is_done(self, result):
        """Whether all results of an image, of this name, are there."""
        return all((folder / result).is_file() for folder in (*self.folders.values(), self.drawings) if folder)

    def _enlarge(self, jobs, enlarger, grounds):
        """Yield (job, picture), RGB or RGBA, of each job when it is done."""
        pieces = []  # (job, where it goes: None for the whole, 'alpha', or a word's corners, tensor)
        for job in jobs:
            if job not in grounds:
                pieces.append((job, None, job.lr))
            elif enlarger is not self.ground:
                height, width = job.lr.shape[1:]
                for corners in job.words.values():
                    left, top, right, bottom = boxes.window(corners, width, height)[0]
                    pieces.append((job, corners, job.lr[:, top:bottom, left:right]))
            if job.alpha is not None:
                pieces.append((job, 'alpha', job.alpha))
        parts = {job: [] for job in jobs}
        missing = Counter(job for job, _, _ in pieces)
        yield from ((job, self._join(job, [], grounds[job])) for job in jobs if not missing[job])
        tensors = [tensor for _, _, tensor in pieces]
        for index, part in enlarger.pictures(tensors, self.batch_size, self.workers):
            job, role, _ = pieces[index]
            parts[job].append((role, part))
            missing[job] -= 1
            if not missing[job]:
                yield job, self._join(job, parts.pop(job), grounds.get(job))

    def _join(self, job, parts, ground):
        """One picture of the enlarged parts."""
        alpha = next((part for role, part in parts if role == 'alpha'), None)
        picture = next((part for role, part in parts if role is None), None)
        if picture is None:
            picture = ground.copy()
            height, width = job.lr.shape[1:]
            for corners, part in ((role, part) for role, part in parts if role != 'alpha'):
                (left, top, _, _), margin = boxes.window(corners, width, height)
                boxes.blend(picture, part, corners, (left * self.scale, top * self.scale), margin * self.scale)
        if alpha is not None:
            picture.putalpha(alpha.convert('L'))
        return picture

    def _version(self, job, method, picture):
        """Measure a version of the job's image and keep no more of it than will be needed."""
        whole, note = Row(str(job.name), str(job.result), method, job.label), ''
        if job.hr is not None and method != ORIGINAL:
            whole.psnr, whole.ssim = measure(picture, job.hr)
            note = f'{whole.psnr:.2f} dB, SSIM {whole.ssim:.3f}'
        words = [(Row(whole.image, whole.result, method, box=text), boxes.cut(picture, corners))
                 for text, corners in job.words.items()]
        details = tuple(word for _, word in words[:DRAWN])
        view = picture
        if job.pixels > KEPT_PIXELS:
            view = drawing.fit(picture) if self.drawings else None
            picture = as_it_is_read(picture) if not job.is_scene else None
        to_read = words if job.is_scene else [(whole, picture)]
        if self.read_both and method not in (BICUBIC, ORIGINAL):
            job.by_bicubic = job.by_bicubic or list(self._by_bicubic(job))
            to_read = [*to_read, *zip([row for row, _ in to_read], job.by_bicubic)]
        drawn = drawing.Column(TITLES.get(method, method), view, None, note, details)
        return Version([whole, *(row for row, _ in words)], drawn, to_read if self.read else [])

    def _by_bicubic(self, job):
        """Yield what is read of a job's image, all of it or its words, enlarged by bicubic interpolation."""
        seen, enlarger = to_pil(job.lr), Method(scale=self.scale)
        if job.alpha is not None:
            seen.putalpha(to_pil(job.alpha).convert('L'))
            seen = lay_on(job.behind, seen)
        parts = [boxes.cut(seen, corners) for corners in job.words.values()] if job.is_scene else [seen]
        for part in parts:
            (_, picture), = enlarger.pictures([to_tensor(part)])
            yield as_it_is_read(picture) if job.pixels > KEPT_PIXELS and not job.is_scene else picture

    def _read(self, versions):
        pictures = list({id(picture): picture for version in versions for _, picture in version.to_read}.values())
        parts = [pictures[start:start + self.batch_size] for start in range(0, len(pictures), self.batch_size)]
        readings = (reading for part in self.workers.map(self.read, parts) for reading in part)
        readings = dict(zip(map(id, pictures), readings))
        for version in versions:
            version.finish([readings[id(picture)] for _, picture in version.to_read], self.vocabulary)

    def _save(self, job):
        for method, version in job.versions.items():
            if version.unsaved:
                save(version.unsaved, self.folders[method] / job.result, job.profile)
        if self.drawings:
            if job.hr is not None:
                save(job.hr, self.drawings / ORIGINALS / job.result, job.profile)  # compare/index.html shows it
            words = [boxes.bounds(corners) for corners in list(job.words.values())[:DRAWN]]
            versions = [version.drawn for version in job.versions.values()]
            save(drawing.compare(versions, job.label, words, self.vocabulary.normalize), self.drawings / job.result)
