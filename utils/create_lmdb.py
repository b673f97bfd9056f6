"""Build an LMDB of word images and labels from a list of them, or check one that exists.

    python3 utils/create_lmdb.py
    python3 utils/create_lmdb.py --input ./ic15/gt.txt --output ./dataset/ic15_1811
    python3 utils/create_lmdb.py --check ./dataset/ic15_1811
"""
import math
import os
import sys
import time
import warnings
from collections import Counter
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from functools import partial
from itertools import islice

import lmdb
from PIL import Image
from tqdm import tqdm

if not __package__:  # run as a file, Python looks for modules beside it; they are in the project's root
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from lib.options import CheckedParser
from lib.runtime.console import printable, run_command
from lib.runtime.system import available_cores
from lib.runtime.workers import in_order
from lib.wordsets.image_check import image_size
from lib.wordsets.lmdb_reader import open_lmdb
from lib.wordsets.lmdb_writer import LmdbWriter
from lib.wordsets.word_lists import find_image, has_control, open_list

MAX_BYTES = 64 << 20  # of an image file; bounds the memory of a worker
CHUNK = 32  # entries in a task of a worker
NAMED = 5  # skipped entries named for each reason


def parse_args(argv=None):
    parser = CheckedParser(
        description='Build an LMDB of word images and labels, or check one. Images are decoded once to check them '
                    'and stored as the bytes they are; entries that cannot be used are skipped, counted and named.')
    parser.add_argument('--input', default='./syntax_crop.odgt',
                        help='a .odgt, a text list (image and label separated by a tab, a comma or a blank; or '
                             'hr<TAB>lr<TAB>label), a .mat of IIIT5K, or a folder with gt.txt (default: %(default)s). '
                             'Relative image paths refer to the folder of the list')
    parser.add_argument('--output', default='./dataset/syn800k', help='folder of the LMDB (default: %(default)s)')
    parser.add_argument('--min_width', type=int, default=0, metavar='PIXELS',
                        help='keep only images wider than this: 128 keeps 129 and up (default: %(default)s, all)')
    parser.add_argument('--min_height', type=int, default=0, metavar='PIXELS',
                        help='keep only images higher than this: 32 keeps 33 and up (default: %(default)s, all). '
                             'In pairs the sizes are those of the high-resolution image')
    parser.add_argument('--max_width', type=int, default=0, metavar='PIXELS',
                        help='keep only images narrower than this: 64 keeps up to 63 (default: %(default)s, all)')
    parser.add_argument('--max_height', type=int, default=0, metavar='PIXELS',
                        help='keep only images lower than this: 32 keeps up to 31 (default: %(default)s, all)')
    parser.add_argument('--workers', type=int, default=available_cores(),
                        help='processes that read and check images (default: all cores, here %(default)s)')
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument('--force', action='store_true', help='replace an LMDB that is already at --output')
    mode.add_argument('--append', action='store_true', help='add to the LMDB at --output')
    mode.add_argument('--check', metavar='PATH', help='build nothing; check the LMDB in this folder and describe it')
    args = parser.parse_args(argv)
    for flag in ('min_width', 'min_height', 'max_width', 'max_height'):
        if getattr(args, flag) < 0:
            parser.error(f'--{flag} must not be negative')
    for side in ('width', 'height'):
        least, greatest = getattr(args, f'min_{side}'), getattr(args, f'max_{side}')
        if greatest and greatest <= least + 1:
            parser.error(f'--min_{side} {least} --max_{side} {greatest}: no size is above the one and below the other')
    if args.workers < 1:
        parser.error('--workers must be at least 1')
    if args.check and not os.path.isdir(args.check):
        parser.error(f'--check {args.check}: no such folder')
    if not args.check and not os.path.exists(args.input):
        parser.error(f'--input {args.input} does not exist; run utils/crop_800k.py first or name another list')
    return args


def load_entry(entry, folders, min_width=0, min_height=0, max_width=0, max_height=0):
    """Reads and checks the images of one entry.

    Returns:
        (label, {'image': bytes, ...}) or, for an entry to skip, (reason, name of what is wrong).
    """
    if entry.problem:
        return entry.problem, entry.place
    images = {}
    for kind, path in entry.paths.items():
        found, tried = find_image(path, folders)
        if found is None:
            return 'image not found', ' nor '.join(tried)
        try:
            if os.path.getsize(found) > MAX_BYTES:
                return f'file of more than {MAX_BYTES >> 20} MiB', found
            with open(found, 'rb') as file:
                images[kind] = file.read()
            width, height = image_size(images[kind])
        except (OSError, ValueError) as error:
            return 'image unusable', f'{found} ({error})'
        if kind != 'image_lr' and (width <= min_width or height <= min_height):
            return 'image too small', f'{found} ({width}x{height})'
        if kind != 'image_lr' and (width >= (max_width or math.inf) or height >= (max_height or math.inf)):
            return 'image too large', f'{found} ({width}x{height})'
    return entry.label, images


def load_chunk(entries, **options):
    return [load_entry(entry, **options) for entry in entries]


def refuse_huge_pictures():
    """Sets up a worker: a picture whose decoding would take the memory of many is an error of its entry."""
    warnings.simplefilter('ignore')
    warnings.simplefilter('error', Image.DecompressionBombWarning)


def build(writer, entries, total, workers, **options):
    """Writes the usable ones of about `total` entries with `writer`.

    Returns:
        (number written, Counter of skipped entries by reason, {reason: names of the first few}).
    """
    written, skipped, names = 0, Counter(), {}
    chunks = iter(lambda: list(islice(entries, CHUNK)), [])
    results = in_order(partial(load_chunk, **options), chunks, workers, initializer=refuse_huge_pictures)
    with writer, closing(results), tqdm(total=total, unit='', disable=None) as bar:
        for chunk in results:
            for text, images in chunk:
                if isinstance(images, dict):
                    writer.add(text, **images)
                    written += 1
                    continue
                skipped[text] += 1
                if skipped[text] <= NAMED:
                    names.setdefault(text, []).append(images)
            bar.update(len(chunk))
    return written, skipped, names


def create(args):
    """Builds the LMDB, prints the summary and returns the exit status."""
    start = time.monotonic()
    try:
        entries, total, folders = open_list(args.input)
        writer = LmdbWriter(args.output, force=args.force, append=args.append)
    except (OSError, ValueError) as error:
        return fail(error, 2)
    written, skipped, names = build(writer, entries, total, args.workers, folders=folders,
                                    min_width=args.min_width, min_height=args.min_height,
                                    max_width=args.max_width, max_height=args.max_height)
    seconds = time.monotonic() - start
    print(f'{args.output}: {written} written, {sum(skipped.values())} skipped in {seconds:.1f} s'
          + (f'; {len(writer)} records in all' if args.append else ''))
    for reason, number in skipped.most_common():
        more = f' and {number - NAMED} more' if number > NAMED else ''
        shown = ', '.join(map(printable, names[reason]))
        print(f'  {number} skipped, {reason}: {shown}{more}')
    return 0 if written else fail(f'nothing came out of {args.input}; {args.output} was not touched', 1)


def check_records(numbers, path, kinds):
    """Checks some records of an LMDB.

    Returns:
        A list of texts about damage, and Counters of label lengths, characters, widths and heights (powers of two).
    """
    damage, lengths, characters, widths, heights = [], Counter(), Counter(), Counter(), Counter()
    with open_lmdb(path) as env, env.begin() as transaction:
        for number in numbers:
            for kind in ('label', *kinds):
                try:
                    data = transaction.get(f'{kind}-{number:09d}'.encode())
                    if data is None:
                        raise ValueError('missing')
                    if kind != 'label':
                        width, height = image_size(data)
                        widths[1 << width.bit_length() - 1] += 1
                        heights[1 << height.bit_length() - 1] += 1
                        continue
                    label = data.decode('utf-8')
                    lengths[len(label)] += 1
                    characters.update(label)
                    if not label.strip():
                        raise ValueError('empty')
                    if has_control(label):
                        raise ValueError(f'control character in {label!r}')
                except (ValueError, lmdb.Error) as error:
                    damage.append(f'record {number}: {kind}: {error}')
    return damage, lengths, characters, widths, heights


def last_number(cursor, kind):
    """Returns the highest number among the keys of one kind, 0 if there is none."""
    found = cursor.prev() if cursor.set_range(f'{kind}.'.encode()) else cursor.last()  # '.' comes right after '-'
    name, _, number = cursor.key().partition(b'-')
    return int(number) if found and name == kind.encode() and number.isdigit() else 0


def read_layout(path):
    """Returns (damage, number of records to look at, kinds of image) of an LMDB, from its keys."""
    with open_lmdb(path) as env, env.begin() as transaction:
        with transaction.cursor() as cursor:
            kinds = [kind for kind in ('image', 'image_hr', 'image_lr') if last_number(cursor, kind)]
            last = max(last_number(cursor, kind) for kind in ['label', *kinds])
        text = transaction.get(b'num-samples')
        if text is None or not text.isdigit():
            state = 'missing' if text is None else f'{text}, not a number'
            return [f'num-samples is {state}; the last record is {last}'], last, kinds
        if not last or not kinds:
            return ['no image-%09d or image_hr-%09d keys in it'], 0, []
        damage = [] if int(text) == last else [f'num-samples is {int(text)}, but the last record is {last}']
        return damage, min(int(text), last), kinds


def check(path, workers):
    """Verifies an LMDB, prints what it finds and returns the exit status."""
    try:
        damage, count, kinds = next(in_order(read_layout, [path], 1))  # a process, as bad pages may end it
    except (ValueError, lmdb.Error, OSError, BrokenProcessPool) as error:
        damage, count, kinds = [f'cannot be read: {error}'], 0, []
    found, done, step, totals = len(damage), 0, 8 * CHUNK, [Counter() for _ in range(4)]
    print(*damage, sep='\n', end='\n' if damage else '')
    chunks = (range(start, min(start + step, count + 1)) for start in range(1, count + 1, step))
    check_chunk = partial(check_records, path=path, kinds=kinds)
    results = in_order(check_chunk, chunks, workers, initializer=refuse_huge_pictures)
    with closing(results), tqdm(total=count, unit='', disable=None) as bar:
        try:
            for texts, *counters in results:
                for text in texts:
                    bar.write(printable(text))
                found += len(texts)
                for total, counter in zip(totals, counters):
                    total.update(counter)
                done = min(done + step, count)
                bar.update(done - bar.n)
        except BrokenProcessPool:
            bar.write(f'some record after {done}: reading it ended the process; data.mdb is damaged there')
            found += 1
    if count:
        describe(path, count, kinds, *totals)
    return fail(f'{path} is damaged: {found} fault{"s" * (found > 1)}, named above', 1) if found else 0


def describe(path, count, kinds, lengths, characters, widths, heights):
    """Prints what is in an LMDB: label lengths, alphabet and image sizes."""
    print(f'{path}: {count} records of label, {", ".join(kinds)}')
    print('label lengths:', ', '.join(f'{n}: {lengths[n]}' for n in sorted(lengths)))
    print('alphabet:', ''.join(char for char in sorted(characters) if '!' <= char <= '~'))
    print('other characters:', ', '.join(f'{c!r}: {n}' for c, n in sorted(characters.items()) if not '!' <= c <= '~'))
    for name, sizes in ('widths', widths), ('heights', heights):
        print(f'{name} in pixels:', ', '.join(f'{n}-{2 * n - 1}: {sizes[n]}' for n in sorted(sizes)))


def fail(text, status):
    print(f'create_lmdb.py: {text}', file=sys.stderr)
    return status


def main(argv=None):
    """Runs the command line; returns 0, 1 for damage, failure or an empty outcome, 2 for bad input, 130 for Ctrl-C."""
    args = parse_args(argv)
    try:
        return check(args.check, args.workers) if args.check else create(args)
    except KeyboardInterrupt:
        return fail('interrupted; nothing was changed', 130)
    except BrokenProcessPool:
        return fail('a worker process died (killed, or out of memory?); nothing was changed', 1)
    except (OSError, ValueError) as error:
        return fail(error, 1)


if __name__ == '__main__':
    sys.exit(run_command(main))
