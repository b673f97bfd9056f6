"""Render pictures of single words, as on signs and packaging, into an LMDB: training data without a download.

    python3 utils/render_words.py --out ./dataset/words --count 20000 --seed 1

Record i is made from `--seed` and i alone, so the set is the same whatever the number of workers. Keys are
`image-%09d`, `label-%09d` (1-based) and `num-samples`; images are JPEG (quality 88 to 96, no chroma subsampling),
labels exactly the characters that were drawn.
"""
import os
import sys
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from functools import partial
from itertools import chain

import numpy as np
from tqdm import tqdm

if not __package__:  # run as a file, Python looks for modules beside it; they are in the project's root
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from lib.options import CheckedParser
from lib.runtime.console import run_command
from lib.runtime.system import available_cores
from lib.runtime.workers import in_order
from lib.wordsets.lmdb_writer import LmdbWriter
from lib.wordsets.rendering import styles
from lib.wordsets.rendering.fonts import LETTERS, PRINTABLE, Font, choose_fonts, list_fonts, odds_of
from lib.wordsets.rendering.labels import DEFAULT_WORDS, MAX_LENGTH, make_label, read_words

MAX_PHOTOS = 400
CHUNK = 32  # records a worker makes at a time


def load_photos(folders, workers):
    """At most MAX_PHOTOS of the JPEG and PNG files below some folders, made small, and the number of unusable ones."""
    paths = sorted(os.path.join(base, name) for folder in folders for base, _, names in os.walk(folder)
                   for name in names if name.lower().endswith(('.jpg', '.jpeg', '.png')))
    step = max(1, len(paths) / MAX_PHOTOS)
    paths = [paths[int(i * step)] for i in range(min(len(paths), MAX_PHOTOS))]
    photos = list(spread(styles.load_photo, paths, workers))
    return [photo for photo in photos if photo], photos.count(None)


def spread(function, items, workers):
    """function(item) of each item in order, by processes when there is enough to do."""
    return in_order(function, items, workers if workers > 1 and len(items) >= 50 else 0)


def render_record(index, setup):
    """(label, JPEG bytes) of one record; `setup`: seed, height, words, photos, families of fonts and their odds."""
    rng = np.random.default_rng([setup['seed'], index])
    label = make_label(setup['words'], rng)
    families = setup['families']
    for _ in range(20):
        family = families[rng.choice(len(families), p=setup['odds'])]
        font = family[rng.integers(len(family))]
        if set(label) <= set(font.chars):
            break
    else:
        label = ''.join(c for c in label if c in font.chars) or LETTERS[rng.integers(len(LETTERS))]
    if font.case:
        label = label.upper() if font.case == 'upper' else label.lower()
    image = styles.render(label, font, rng, setup['height'], setup['photos'])
    return label, styles.encode(image, rng)


def set_up_worker(setup):
    """Store in this process what all records have in common."""
    global shared
    shared = setup


def render_chunk(bounds):
    """Records start to stop - 1, (start, stop) = bounds, as a list of (label, JPEG bytes)."""
    return [render_record(index, shared) for index in range(*bounds)]


def render_all(setup, count, workers):
    """Yields (label, JPEG bytes) of records 0..count-1 in order."""
    bounds = ((start, min(start + CHUNK, count)) for start in range(0, count, CHUNK))
    workers = workers if workers > 1 else 0
    with closing(in_order(render_chunk, bounds, workers, initializer=partial(set_up_worker, setup))) as chunks:
        yield from chain.from_iterable(chunks)


def find_fonts(font_dir, split, workers):
    """Families, each a list of `Font`s, and {reason: count} of the fonts left out; without any, Pillow's own font."""
    families, skipped = choose_fonts(list_fonts(font_dir), split, partial(spread, workers=workers))
    if not families:
        print("no readable font found, Pillow's own is used", file=sys.stderr)
        return [[Font('pillow', None, 0, PRINTABLE, '')]], skipped
    return [families[name] for name in sorted(families)], skipped


def parse_args(argv=None):
    parser = CheckedParser(description='Render pictures of single words, as on signs and packaging, into '
                                       'an LMDB: training data without a download.')
    parser.add_argument('--out', default='./dataset/words', help='LMDB folder to write (default: %(default)s)')
    parser.add_argument('--count', type=int, default=20000, help='number of words (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=1,
                        help='same seed, fonts and photos: same set (default: %(default)s)')
    parser.add_argument('--workers', type=int, default=available_cores(), help='processes (default: all cores)')
    parser.add_argument('--height', type=int, default=64,
                        help='least height of a crop in pixels, the greatest is 1.5 times that (default: %(default)s)')
    parser.add_argument('--words', default=DEFAULT_WORDS,
                        help='word list, one a line (default: lib/wordsets/rendering/words.txt)')
    parser.add_argument('--font_dir', help='folder of .ttf, .otf, .ttc fonts (default: those that fc-list names)')
    parser.add_argument('--font_split', choices=('all', 'train', 'val'), default='all',
                        help='use all font families, or a fixed nine tenths (train) or the other tenth (val)')
    parser.add_argument('--background_dir', nargs='+', default=[],
                        help='folders of photos (JPEG, PNG) for backgrounds (default: drawn ones only)')
    parser.add_argument('--force', action='store_true', help='replace an existing --out')
    args = parser.parse_args(argv)
    if args.count < 1 or args.workers < 1:
        parser.error(f'--count {args.count} and --workers {args.workers} must be at least 1')
    if args.seed < 0:
        parser.error(f'--seed {args.seed} must not be negative')
    if not 8 <= args.height <= 1024:
        parser.error(f'--height {args.height} must be from 8 to 1024 pixels')
    if os.path.lexists(args.out) and not args.force:
        parser.error(f'--out {args.out} exists; give --force to replace it or choose another path')
    for flag, folder in [('font_dir', args.font_dir)] + [('background_dir', folder) for folder in args.background_dir]:
        if folder and not os.path.isdir(folder):
            parser.error(f'--{flag} {folder} is not a folder')
    if not os.path.isfile(args.words):
        parser.error(f'--words {args.words} is not a file')
    return args


def render_set(args):
    words, dropped = read_words(args.words)
    if not words:
        sys.exit(f'{args.words}: no word of 1 to {MAX_LENGTH} printable ASCII characters in it; give another --words')
    families, skipped = find_fonts(args.font_dir, args.font_split, args.workers)
    photos, unusable = load_photos(args.background_dir, args.workers)
    print(f'{len(words)} words ({dropped} left out), {sum(map(len, families))} fonts in {len(families)} families, '
          f'{len(photos)} photos ({unusable} unusable)')
    for reason, number in sorted(skipped.items()):
        print(f'  fonts left out: {number} {reason}')
    if args.background_dir and not photos:
        print(f'{", ".join(args.background_dir)}: no JPEG or PNG photo there, only drawn backgrounds are used',
              file=sys.stderr)
    setup = {'seed': args.seed, 'height': args.height, 'words': words, 'photos': photos, 'families': families,
             'odds': odds_of(families)}
    with LmdbWriter(args.out, force=args.force) as writer, \
            closing(render_all(setup, args.count, args.workers)) as records:
        for label, data in tqdm(records, total=args.count, unit='word', mininterval=1):
            writer.add(label, image=data)
    print(f'{len(writer)} words written to {args.out}')


def main(argv=None):
    """Render; returns the exit status: 0, or 1 where the set could not be made."""
    try:
        render_set(parse_args(argv))
    except (OSError, BrokenProcessPool) as error:
        killed = isinstance(error, BrokenProcessPool)
        print(f'render_words.py: {"a worker was killed (out of memory? then fewer --workers)" if killed else error}',
              file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(run_command(main))
