"""compare/index.html: every image with a slider between two methods, the strings read, sortable by what is gained.

The page needs no network and nothing but the folders of results it stands among.
"""
import json
import math
import os
import struct
from itertools import groupby
from pathlib import Path
from urllib.parse import quote

from lib.inference.conversion import TITLES
from lib.inference.drawing import mark_letters
from lib.inference.files import ORIGINAL, ORIGINALS
from lib.runtime.files import written_beside

TEMPLATE = Path(__file__).with_name('page.html')


def runs(marked):
    """(letter, right) pairs as [text, right] of letters alike."""
    return [[''.join(letter for letter, _ in group), right] for right, group in groupby(marked, lambda pair: pair[1])]


def entry(rows, source, normalize):
    """What the page shows of one image. source: {method: path of its picture, relative to the page}.
    normalize: what of a string counts."""
    image = {'name': rows[0].image, 'label': rows[0].label, 'versions': {}, 'words': []}
    for row in (row for row in rows if not row.box):
        marked = None if row.string is None else mark_letters(row.string, row.label, normalize)
        image['versions'][row.method] = {
            'src': quote(os.fsencode(source[row.method])), 'string': None if marked is None else runs(marked),
            'errors': None if row.label is None or marked is None else sum(not right for _, right in marked),
            'psnr': None if row.psnr is None or not math.isfinite(row.psnr) else f'{row.psnr:.2f}',
            'ssim': None if row.ssim is None else f'{row.ssim:.4f}', 'score': row.score}
    for box in dict.fromkeys(row.box for row in rows if row.box):
        strings = {row.method: None if row.string is None else runs(mark_letters(row.string, None))
                   for row in rows if row.box == box}
        image['words'].append({'box': box, 'strings': strings})
    return image


def save_page(rows, drawings, folders, normalize):
    """Write index.html into the folder of the drawings. rows: `Row`s. folders: {method: folder of its results}.
    normalize: what of a string counts."""
    drawings = Path(drawings)
    places = {**{method: os.path.relpath(folder, drawings) for method, folder in folders.items()}, ORIGINAL: ORIGINALS}
    images, results = [], {}
    for row in rows:
        results.setdefault(row.result, []).append(row)
    for result, mine in results.items():
        source = {method: os.path.join(place, result) for method, place in places.items()}
        image = entry(mine, source, normalize)
        with open(drawings / source[mine[0].method], 'rb') as png:  # Pillow would refuse one of over 179 megapixels
            image['width'], image['height'] = struct.unpack('>16x2I', png.read(24))
        images.append(image)
    used = {row.method for row in rows}
    methods = {method: TITLES.get(method, method) for method in places if method in used}
    data = json.dumps({'methods': methods, 'images': images}, separators=(',', ':')).replace('<', '\\u003c')
    with written_beside(drawings / 'index.html', flush=False) as beside:
        beside.write_text(TEMPLATE.read_text(encoding='utf-8').replace('DATA', data, 1), encoding='utf-8')
