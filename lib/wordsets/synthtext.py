"""SynthText's gt.mat and images: reading the annotation, the geometry of its boxes and cropping one image's words."""
import errno
import io
import os
import re
from pathlib import PurePosixPath, PureWindowsPath

import numpy as np
from PIL import Image

from lib.formats import READABLE

NAME_ERRORS = (errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)  # the fault of one name, not of the disk
MACHINE_ERRORS = (errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC)  # the next picture may meet them


def read_gt(path):
    """Image names (list), boxes and texts (object arrays, one entry an image) of gt.mat; ValueError if it is none."""
    from scipy.io import loadmat  # only here: the workers do without

    try:
        mat = loadmat(path, variable_names=['imnames', 'wordBB', 'txt'])  # charBB would be the largest by far
    except NotImplementedError as error:
        raise ValueError(f'{path} is in MATLAB 7.3 format: save it as version 7') from error
    except Exception as error:  # scipy raises many kinds of exceptions for damaged files
        raise ValueError(f'{path} cannot be read as a .mat file ({error}): copy or download it again') from error
    missing = [key for key in ('imnames', 'wordBB', 'txt') if key not in mat]
    if missing:
        raise ValueError(f"{path} has no variable {', '.join(missing)}: give SynthText's gt.mat to --gt_path")
    names, boxes, texts = (mat[key].ravel() for key in ('imnames', 'wordBB', 'txt'))
    if not len(names) == len(boxes) == len(texts):
        raise ValueError(f'{path}: {len(names)} imnames, {len(boxes)} wordBB and {len(texts)} txt cannot be paired')
    return [''.join(map(str, np.ravel(name)[:1])) for name in names], boxes, texts


def words_of(entry):
    """Words of one entry of gt.mat's `txt`: blocks padded with blanks, of words separated by blanks or newlines."""
    if isinstance(entry, np.ndarray):
        return [word for block in entry.ravel() for word in words_of(block)]
    return re.findall(r'[^ \t\n\r\f\v]+', str(entry))  # ASCII blanks only: a no-break space belongs to its word


def boxes_of(entry):
    """One entry of gt.mat's `wordBB`, (2, 4, n) or (2, 4) for one word, as float (n, 2, 4); ValueError for others."""
    boxes = np.asarray(entry)
    if boxes.size == 0:
        return np.zeros((0, 2, 4))
    if boxes.shape[:2] != (2, 4) or boxes.ndim > 3 or boxes.dtype.kind not in 'fiu':
        raise ValueError(f'boxes of shape {boxes.shape} and type {boxes.dtype}, not numbers of shape (2, 4, n)')
    return np.moveaxis(boxes.reshape(2, 4, -1).astype(float), 2, 0)


def rectangle(box, width, height):
    """Smallest axis-aligned rectangle of whole pixels around `box` inside a width x height image.

    box: float (2, 4), the corners' x and y in pixels. Returns left, top, right, bottom (right and bottom excluded);
    ValueError, whose text is the reason, where there is none.
    """
    if not np.isfinite(box).all():
        raise ValueError('box is not finite')
    low, high = box.min(axis=1), box.max(axis=1)
    if (high <= low).any():
        raise ValueError('box is empty')
    left, top = np.clip(np.floor(low), 0, (width, height)).astype(int).tolist()
    right, bottom = np.clip(np.ceil(high), 0, (width, height)).astype(int).tolist()
    if right <= left or bottom <= top:
        raise ValueError('box is outside the image')
    return left, top, right, bottom


def inner_path(name):
    """`name` as a plain relative path, or None where it is empty, absolute, climbs with '..' or is no file name."""
    windows = PureWindowsPath(name)  # knows both slashes and drives
    if not windows.parts or windows.anchor or '..' in windows.parts or '\0' in name:
        return None
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return None
    return str(PurePosixPath(name))


def crop_name(folder, inner, k):
    """folder/8/a.jpg's k-th word (from 0) is folder/8/a_k.jpg: the label, which may hold '/', has no part in it."""
    path = PurePosixPath(folder, inner)
    return str(path.with_name(f'{path.stem}_{k}.jpg'))


def replace_file(path, data, flush=False):
    """Writes bytes to a file beside `path` and renames it, so that `path` is never half written.

    flush: wait until they are on the disk, to survive a power cut. Unlike `lib.runtime.files.written_beside` the name
    beside it is always the same, so that the run after a killed one replaces what that left.
    """
    with open(f'{path}.tmp', 'wb') as f:
        f.write(data)
        if flush:
            f.flush()
            os.fsync(f.fileno())
    os.replace(f'{path}.tmp', path)


def save_crop(crop, path):
    """Writes a PIL image as JPEG of quality 95 without chroma subsampling, making its folder."""
    # through memory: on a full disk Pillow's own writing would not tell the cause
    buffer = io.BytesIO()
    crop.save(buffer, 'JPEG', quality=95, subsampling=0)  # thin strokes of colour do not survive subsampling
    os.makedirs(os.path.dirname(path), exist_ok=True)
    replace_file(path, buffer.getvalue())


def crop_image(name, repeated, boxes, words, images, out, folder, sizes):
    """Crops the words of one image and yields what happened, as rows of plain data.

    name, boxes: entries of `imnames` and `wordBB`; words: list of str. repeated: the crops' names are taken already.
    images: folder of the images. Crops bigger than one of `sizes` [(width, height)] go to out/folder.
    Rows: {'crop': path under out, 'label', 'size': [width, height]}, {'small': number of words},
    {'skip': reason, 'im_name', 'words': number of words, 'detail'}. OSError where the machine fails to read a picture
    or the disk refuses a crop.
    """
    def skip(reason, detail, count=None):
        return {'skip': reason, 'im_name': name, 'words': len(words) if count is None else count, 'detail': detail}

    inner = inner_path(name)
    if inner is None:
        yield skip('image name leaves the folder or is no file name', repr(name))
        return
    if repeated:
        yield skip('image name used before', f'its crops would replace those of an earlier entry: {inner}')
        return
    try:
        boxes = boxes_of(boxes)
    except ValueError as error:
        yield skip('boxes of a wrong shape', str(error))
        return
    if len(boxes) != len(words):
        yield skip('words and boxes disagree in number', f'{len(words)} words, {len(boxes)} boxes')
        return
    if not words:
        return
    path = os.path.join(images, inner)
    try:
        # only the head is read here, the pixels once a word is big enough; boxes are in stored pixels: no EXIF rotation
        with Image.open(path, formats=READABLE) as image:
            crops, rows = choose_words(image.size, boxes, words, sizes, skip)
            pixels = image.convert('RGB') if crops else None
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        yield skip('image is missing', path)
        return
    except Exception as error:  # Pillow raises many kinds of exceptions for damaged files
        if getattr(error, 'errno', None) in MACHINE_ERRORS:
            raise OSError(error.errno, error.strerror, path) from error
        yield skip('image cannot be read', f'{path}: {error}')
        return
    for k, box in crops:
        target = crop_name(folder, inner, k)
        try:
            save_crop(pixels.crop(box), os.path.join(out, target))
        except OSError as error:
            if error.errno is not None and error.errno not in NAME_ERRORS:
                raise  # a full or read-only disk would fail every word
            yield skip('crop cannot be written', f'word {k} {words[k]!r}, {target}: {error}', 1)
        else:
            yield {'crop': target, 'label': words[k], 'size': [box[2] - box[0], box[3] - box[1]]}
    yield from rows


def choose_words(image_size, boxes, words, sizes, skip):
    """[(k, rectangle)] of the words to crop and the rows of the others."""
    crops, rows, small = [], [], 0
    for k, (box, word) in enumerate(zip(boxes, words)):
        try:
            left, top, right, bottom = rectangle(box, *image_size)
        except ValueError as error:
            rows.append(skip(str(error), f'word {k} {word!r}, box {box.tolist()}', 1))
            continue
        if any(right - left > width and bottom - top > height for width, height in sizes):
            crops.append((k, (left, top, right, bottom)))
        else:
            small += 1
    return crops, rows + ([{'small': small}] if small else [])
