"""Fonts for rendered words: finding them, and sorting out barcodes, symbols and boxes."""
import os
import re
import string
import subprocess
import zlib
from collections import namedtuple
from functools import lru_cache

import numpy as np
from PIL import Image, ImageFont

LETTERS = string.digits + string.ascii_letters
PRINTABLE = LETTERS + string.punctuation
SUFFIXES = ('.ttf', '.otf', '.ttc', '.otc')
STYLES_PER_FAMILY = 5
CHECK_SIZE = 48  # pixels per em at which glyphs are compared
MIN_READ = 0.5  # share of letters and digits that the template reader must recognise

# path None is Pillow's own font; chars are the printable characters that look as they should; case is 'upper' or
# 'lower' where both cases look like capitals, or like small letters: words are then written and labelled in that case.
# plainness is the share of letters and digits that the template reader recognises.
Font = namedtuple('Font', 'family path index chars case plainness', defaults=(1.0,))

# Words in a family's name that tell a style, so that 'Lato Light' and 'Lato' are one family
STYLE_WORDS = re.compile(
    r'\b(thin|hairline|(extra|ultra|semi|demi)?[ -]?(light|bold|condensed|expanded|cond|narrow)|book|regular|roman|'
    r'medium|heavy|black|italic|oblique|nf|std|pro|adf|cn|sc|[0-9]+pt)\b', re.IGNORECASE)


def family_key(family):
    """Name of the type family without its style words, lower case: what is sampled, and split into train and val."""
    key = ' '.join(STYLE_WORDS.sub(' ', family).lower().split())
    return key or family.lower()


def is_val_family(family):
    """True for about a tenth of all families: a hash of the name decides, so it is the same on every machine."""
    return zlib.crc32(family_key(family).encode()) % 10 == 0


def list_fonts(font_dir=None):
    """Candidates as a sorted list of (family, path, index), from a folder or, without one, from `fc-list`."""
    found = set()
    if font_dir:
        for folder, _, names in os.walk(font_dir):
            for path in (os.path.join(folder, name) for name in names if name.lower().endswith(SUFFIXES)):
                if not os.path.isfile(path):  # a pipe would be waited for
                    continue
                try:
                    found.add((ImageFont.truetype(path, CHECK_SIZE).getname()[0] or '', path, 0))
                except (OSError, ValueError):
                    continue
        return sorted(found)
    try:
        listed = subprocess.run(['fc-list', '--format', '%{family[0]}\t%{file}\t%{index}\n', ':scalable=true'],
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    for line in listed.decode('utf-8', 'replace').splitlines():
        family, path, index = line.split('\t')
        if path.lower().endswith(SUFFIXES):
            found.add((family, path, int(index) & 0xffff))  # the upper bits count instances of a variable font
    return sorted(found)


@lru_cache(maxsize=192)
def load_font(path, index, size):
    """The font at `size` pixels per em. Basic layout: no ligatures, so that every letter of the label is drawn."""
    if path is None:
        return ImageFont.load_default(size)
    return ImageFont.truetype(path, size, index=index, layout_engine=ImageFont.Layout.BASIC)


def glyph(font, char):
    """Ink of one character as uint8 (h, w), cut to the ink; None when there is none or it is absurdly large."""
    mask = font.getmask(char, 'L')
    width, height = mask.size
    if not width or not height or width > 6 * CHECK_SIZE or height > 4 * CHECK_SIZE:
        return None
    ink = np.frombuffer(bytes(mask), np.uint8).reshape(height, width)
    rows, cols = np.nonzero(ink.max(1) > 40)[0], np.nonzero(ink.max(0) > 40)[0]
    return ink[rows[0]:rows[-1] + 1, cols[0]:cols[-1] + 1] if len(rows) else None


def hog_descriptors(inks):
    """Histograms of oriented gradients (Dalal & Triggs, CVPR 2005) of glyphs, unit vectors (n, 288): 8 directions in
    each of 6x6 cells of a picture of 24x24 pixels, whatever a glyph's width and weight.

    Narrow glyphs (I, l, 1) keep their proportions, all others are stretched to a square.
    """
    size, cells = 24, 6
    inner = size - 4
    squares = np.zeros((len(inks), size, size), np.float32)
    for square, ink in zip(squares, inks):
        height, width = ink.shape
        width = inner if width > 0.3 * height else max(2, round(inner * width / height))
        left = (size - width) // 2
        square[2:-2, left:left + width] = Image.fromarray(ink).resize((width, inner), Image.Resampling.BOX)
    down, right = np.gradient(squares, axis=(1, 2))
    direction = np.round(np.arctan2(down, right) * 4 / np.pi).astype(np.int8) % 8
    edges = np.hypot(down, right) * (direction == np.arange(8)[:, None, None, None])
    step = size // cells
    counts = np.sqrt(edges.reshape(8, -1, cells, step, cells, step).sum((3, 5)))
    counts = counts.transpose(1, 0, 2, 3).reshape(len(inks), -1)
    counts -= counts.mean(1, keepdims=True)
    return counts / (np.linalg.norm(counts, axis=1, keepdims=True) + 1e-6)


@lru_cache(maxsize=1)
def templates():
    """Shapes of PRINTABLE in Pillow's own font, upright and slanted: (2, 94, 288)."""
    font = load_font(None, 0, CHECK_SIZE)
    return np.stack([hog_descriptors([slant(glyph(font, c), by) for c in PRINTABLE]) for by in (0, 0.25)])


def slant(ink, by):
    """The glyph leaning to the right by `by` pixels a row."""
    height, width = ink.shape
    size = (width + int(by * height), height)
    return np.asarray(Image.fromarray(ink).transform(size, Image.Transform.AFFINE, (1, by, -by * height, 0, 1, 0),
                                                     Image.Resampling.BILINEAR))


def check_font(candidate):
    """(Font, None, fingerprint) for a candidate (family, path, index) that people can read, else (None, reason, None).

    Readable means: every letter and digit has ink that is not the font's missing-glyph box, no two letters of one case
    are the same picture, and a nearest-template reader (templates: Pillow's own font, case ignored) recognises at
    least MIN_READ of them. Barcodes, symbols and very ornate hands fail that.
    """
    family, path, index = candidate
    try:
        font = load_font.__wrapped__(path, index, CHECK_SIZE)
        missing = [glyph(font, c) for c in '\uffff\ue83a\U000f1234']
        inks = {c: glyph(font, c) for c in PRINTABLE}
    except (OSError, ValueError, MemoryError) as error:
        return None, f'unreadable file ({error})', None
    boxes = {m.tobytes() for m in missing if m is not None}
    inks = {c: ink for c, ink in inks.items() if ink is not None and ink.tobytes() not in boxes}
    if any(c not in inks for c in LETTERS):
        return None, 'glyphs missing', None
    for group in (string.ascii_uppercase, string.ascii_lowercase, string.digits):
        if len({(inks[c].shape, inks[c].tobytes()) for c in group}) < len(group):
            return None, 'letters that look the same', None
    shapes = dict(zip(inks, hog_descriptors(list(inks.values()))))
    letters = np.stack([shapes[c] for c in LETTERS])
    plainness = read_share(letters)
    if plainness < MIN_READ:
        return None, 'not readable', None
    drawn = [inks[c].tobytes() for c in LETTERS]
    chars = LETTERS + ''.join(c for c in string.punctuation if c in shapes and looks_right(c, shapes[c])
                              and inks[c].tobytes() not in drawn)
    fingerprint = zlib.crc32(b''.join(drawn))
    return Font(family_key(family), path, index, chars, only_case(letters), plainness), None, fingerprint


def read_share(letters):
    """Share of the 62 shapes nearest to the template of the same character; case, O and 0, I, l and 1 count as one."""
    names = [c.lower().translate(str.maketrans('0il', 'o11')) for c in LETTERS]
    shares = []
    for drawn in templates()[:, :len(LETTERS)]:
        nearest = (letters @ drawn.T).argmax(1)
        shares.append(np.mean([names[i] == names[j] for i, j in enumerate(nearest)]))
    return float(max(shares))


def looks_right(char, description):
    """True for punctuation that resembles its template, and no letter much more: some fonts have ornaments there."""
    likeness = (templates() @ description).max(0)
    own = likeness[PRINTABLE.index(char)]
    return bool(own > 0.3 and own > likeness[:len(LETTERS)].max() - 0.19)


def only_case(letters):
    """'upper' or 'lower' when the letters that differ most between the cases have one shape only, else ''."""
    small = [LETTERS.index(c) for c in 'abdeghnqrt']
    large = [LETTERS.index(c.upper()) for c in 'abdeghnqrt']
    if np.mean(np.sum(letters[small] * letters[large], 1)) < 0.7:
        return ''
    as_large, as_small = (np.sum(templates()[:, index] * letters[small], 2).max(0) for index in (large, small))
    return 'upper' if np.mean(as_large > as_small) >= 0.5 else 'lower'


def odds_of(families):
    """The probability of each of a list of families: proportional to the fourth power of its plainest font's.

    Half of the families that Debian packages are for display, few signs are [our choice].
    """
    weights = np.array([max(font.plainness for font in family) for family in families]) ** 4
    return weights / weights.sum()


def choose_fonts(candidates, split='all', run=map):
    """{family: [Font, ...]} of the readable candidates of a split ('train', 'val', 'all'), {reason: count} of the rest.

    Files that draw the same letters (one design under several names) are used once. `run` is `map` or a pool's.
    """
    by_family = {}
    for candidate in candidates:
        by_family.setdefault(family_key(candidate[0]), []).append(candidate)
    chosen = []
    for _, files in sorted(by_family.items()):
        step = max(1, len(files) / STYLES_PER_FAMILY)
        chosen += [files[int(i * step)] for i in range(min(len(files), STYLES_PER_FAMILY))]
    families, skipped, seen = {}, {}, set()
    for font, reason, fingerprint in run(check_font, chosen):
        if font and fingerprint in seen:
            font, reason = None, 'same letters as another font'
        if font is None:
            skipped[reason] = skipped.get(reason, 0) + 1
            continue
        seen.add(fingerprint)
        # Split after the removal of doubles, so that no design is in both halves under two names
        if split == 'all' or is_val_family(font.family) == (split == 'val'):
            families.setdefault(font.family, []).append(font)
    return families, skipped
