"""Crop the words of SynthText ("SynthText in the Wild", 858,750 images) into one JPEG a word and list them."""
import argparse
import contextlib
import hashlib
import json
import os
import sys
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path, PurePosixPath

from tqdm import tqdm

if not __package__:  # run as a file, Python looks for modules beside it; they are in the project's root
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from lib.options import CheckedParser
from lib.runtime.console import run_command
from lib.runtime.system import available_cores, hold, sync_folder
from lib.runtime.workers import in_order
from lib.wordsets.synthtext import crop_image, inner_path, read_gt, replace_file, words_of

DESCRIPTION = """\
Crop the words of SynthText ("SynthText in the Wild", 858,750 images) into one JPEG a word and list them.

    python3 utils/crop_800k.py --gt_path='./SynthText/gt.mat' --out_path='./' --syntxt_path='./SynthText'

writes <out_path>/syntxt_crop/<folder>/<image>_<k>.jpg (k: the word's place in its image, from 0; RGB, JPEG quality
95 without chroma subsampling), the list
<out_path>/syntax_crop.odgt, one JSON object a line (im_path, relative to the list's folder, im_name and label), and
<out_path>/syntax_crop_skipped.jsonl, which names everything that was left out and why.

With --min_width 128 256 --min_height 32 64 only words bigger than (more than, in both directions) at least one of the
sizes are written. syntax_crop.odgt then lists all of those, and syntax_crop_128x32.odgt and syntax_crop_256x64.odgt
the words bigger than each size; the lists share the crops. The size 0 0 stands for every word.

Started again after an interruption it continues where it was: <out_path>/syntax_crop.run holds what was asked for and
one small file for every 64 images that are done. The result is the same as of one run."""
CHUNK = 64  # images a task: what a worker loses when it is interrupted, and small enough to keep all of them busy
CROPS, LIST, SKIPPED, RUN = 'syntxt_crop', 'syntax_crop.odgt', 'syntax_crop_skipped.jsonl', 'syntax_crop.run'
EXAMPLES = 3  # cases of a reason named in the summary; SKIPPED names all of them


def part_path(out, number):
    return os.path.join(out, RUN, f'part-{number:06d}.jsonl')


def crop_chunk(task, images, out, sizes):
    """Crops the images of one (number, entries) task; its part file, written last, marks it as done."""
    number, entries = task
    rows = [row for entry in entries for row in crop_image(*entry, images, out, CROPS, sizes)]
    replace_file(part_path(out, number), ''.join(json.dumps(row) + '\n' for row in rows).encode(), flush=True)
    return len(entries)


def find_repeated(names):
    """Indices of names whose crops would get the names of an earlier one's (a.jpg twice, or a.jpg and a.png)."""
    seen, repeated = set(), set()
    for i, name in enumerate(names):
        inner = inner_path(name)
        stem = inner and str(PurePosixPath(inner).with_suffix(''))
        if stem in seen:
            repeated.add(i)
        elif stem:
            seen.add(stem)
    return repeated


def make_tasks(names, boxes, texts, numbers):
    """Yield the tasks of these numbers for `crop_chunk`: (number, first four arguments of `crop_image` for each image).
    """
    repeated = find_repeated(names)
    for number in numbers:
        rows = range(number * CHUNK, min((number + 1) * CHUNK, len(names)))
        yield number, [(names[i], i in repeated, boxes[i], words_of(texts[i])) for i in rows]


def list_name(width, height):
    return f'syntax_crop_{width}x{height}.odgt'


def list_names(sizes):
    return [LIST, *(list_name(width, height) for width, height in sizes)]


def merge(out, chunks, sizes):
    """Joins the part files in order into the lists, moves them into place and returns the counts.

    The file of skipped cases is moved too; the lists are not when no word was written.
    """
    run = Path(out, RUN)
    counts = {'written': 0, 'small': 0, 'lists': dict.fromkeys(list_names(sizes)[1:], 0), 'skipped': {}}
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context(open(run / name, 'w', encoding='utf-8'))
                 for name in [SKIPPED, *list_names(sizes)]}
        for number in range(chunks):
            with open(part_path(out, number), encoding='utf-8') as part:
                for row in map(json.loads, part):
                    count_row(row, counts, files, sizes)
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())  # the parts are deleted afterwards
    for name in files:
        if counts['written'] or name == SKIPPED:
            os.replace(run / name, Path(out, name))
    sync_folder(out)
    return counts


def count_row(row, counts, files, sizes):
    """Adds one row of crop_image() to the counts and to the open files it belongs in."""
    if 'crop' in row:
        line = {'im_path': row['crop'], 'im_name': row['crop'].rpartition('/')[2], 'label': row['label']}
        line = json.dumps(line) + '\n'
        counts['written'] += 1
        files[LIST].write(line)
        for width, height in sizes:
            if row['size'][0] > width and row['size'][1] > height:
                counts['lists'][list_name(width, height)] += 1
                files[list_name(width, height)].write(line)
    elif 'small' in row:
        counts['small'] += row['small']
    else:
        files[SKIPPED].write(json.dumps(row) + '\n')
        reason = counts['skipped'].setdefault(row['skip'], {'cases': 0, 'words': 0, 'examples': []})
        reason['cases'] += 1
        reason['words'] += row['words']
        if len(reason['examples']) < EXAMPLES:
            reason['examples'].append(f"{row['im_name']!r}: {row['detail']}")


def report(counts, out):
    print(f"{counts['written']} words written, listed in {os.path.join(out, LIST)}")
    for name, count in counts['lists'].items():
        print(f'{count} of them in {os.path.join(out, name)}')
    if counts['lists']:
        print(f"{counts['small']} words not bigger than any --min_width x --min_height")
    words = sum(reason['words'] for reason in counts['skipped'].values())
    print(f'{words} words skipped' + (f', all named in {os.path.join(out, SKIPPED)}' if counts['skipped'] else ''))
    for text, reason in counts['skipped'].items():
        print(f"skipped {reason['words']} words in {reason['cases']} cases: {text}", file=sys.stderr)
        for example in reason['examples']:
            print(f'    {example}', file=sys.stderr)
        if reason['cases'] > len(reason['examples']):
            print('    ...', file=sys.stderr)


def file_digest(path):
    digest = hashlib.sha256()
    with open(path, 'rb') as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_json(path):
    try:
        return json.loads(Path(path).read_text(encoding='utf-8'))
    except (FileNotFoundError, ValueError):
        return None


@contextlib.contextmanager
def only_run(out):
    """Locks out's run folder for this process; BlockingIOError while another one has it."""
    run = os.path.join(out, RUN)
    os.makedirs(run, exist_ok=True)
    descriptor = hold(run)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def clear_run(out, keep=()):
    """Forgets the run in out: its settings, parts and counts, but for the files named in `keep`. Crops stay."""
    for path in sorted(Path(out, RUN).iterdir(), reverse=True):  # settings before parts, which alone mean nothing
        if path.name not in keep:
            path.unlink()


def open_run(out, settings, force):
    """Makes the run folder ready. Returns the counts of a run that is finished already, else None.

    ValueError where the folder holds a run with other settings: two of them must not mix in one list.
    """
    run = Path(out, RUN)
    older, counts = read_json(run / 'settings.json'), read_json(run / 'finished.json')
    if older not in (None, settings) and not force:
        changed = ', '.join(key for key in settings if settings[key] != older.get(key))
        raise ValueError(f'{run} holds a run with other settings ({changed}): repeat its flags, choose another '
                         '--out_path, or give --force to start over')
    if older == settings and not counts:
        return None  # interrupted: go on, with --force as well, which may have begun it
    if older == settings and not force and all(Path(out, name).exists() for name in list_names(settings['sizes'])):
        return counts
    for name in list_names(older['sizes']) if older else ():
        Path(out, name).unlink(missing_ok=True)  # the crops it lists are about to be replaced
    clear_run(out)
    replace_file(run / 'settings.json', json.dumps(settings).encode(), flush=True)
    return None


def crop_set(gt_path, syntxt_path, out_path, sizes=(), workers=1, force=False):
    """Crops a whole set; returns the counts that merge() makes. See the top of this file for what is written.

    sizes: (width, height) pairs in pixels, empty for every word. ValueError for a bad gt.mat or a mix of settings,
    BlockingIOError while another run is at work in out_path, other OSError where out_path cannot be written.
    """
    settings = {'gt_path': file_digest(gt_path), 'syntxt_path': os.path.realpath(syntxt_path),
                'sizes': [list(size) for size in sizes], 'chunk': CHUNK}
    with only_run(out_path):
        counts = open_run(out_path, settings, force)
        if counts is None:
            names, boxes, texts = read_gt(gt_path)
            chunks = -(-len(names) // CHUNK)
            todo = [number for number in range(chunks) if not os.path.exists(part_path(out_path, number))]
            done = len(names) - sum(min(CHUNK, len(names) - number * CHUNK) for number in todo)
            crop = partial(crop_chunk, images=syntxt_path, out=out_path, sizes=tuple(sizes) or ((0, 0),))
            tasks = make_tasks(names, boxes, texts, todo)
            with tqdm(total=len(names), initial=done, unit='image') as bar:
                # spawned, not forked: workers get the entries of their task and never a copy of the whole gt.mat
                for count in in_order(crop, tasks, min(workers, len(todo)) if workers > 1 else 0, 'spawn'):
                    bar.update(count)
            counts = merge(out_path, chunks, sizes)
            if counts['written']:
                replace_file(Path(out_path, RUN, 'finished.json'), json.dumps(counts).encode(), flush=True)
        else:
            print('finished already (--force crops again)', file=sys.stderr)
        # a run that wrote nothing is forgotten, so that other flags can be tried
        clear_run(out_path, keep=('settings.json', 'finished.json') if counts['written'] else ())
    return counts


def natural(text):
    if (value := int(text)) < 0:
        raise argparse.ArgumentTypeError(f'{text} is below 0')
    return value


def parse_args(argv=None):
    parser = CheckedParser(description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--gt_path', default='./SynthText/gt.mat', help='gt.mat of SynthText (default %(default)s)')
    parser.add_argument('--syntxt_path', default='./SynthText',
                        help="folder that gt.mat's image names start from (default %(default)s)")
    parser.add_argument('--out_path', default='./', help='folder for crops and lists (default %(default)s)')
    parser.add_argument('--min_width', type=natural, nargs='+', default=[], metavar='PIXELS',
                        help='only words wider than this; several with as many --min_height make a list each')
    parser.add_argument('--min_height', type=natural, nargs='+', default=[], metavar='PIXELS',
                        help='only words higher than this')
    parser.add_argument('--workers', type=natural, default=available_cores(),
                        help='processes that crop (default: all cores, here %(default)s)')
    parser.add_argument('--force', action='store_true',
                        help='crop again where out_path holds a finished run, start over where its settings were '
                             'others; older crops that are not made again stay, unlisted')
    args = parser.parse_args(argv)
    if len(args.min_width) != len(args.min_height):
        parser.error(f'--min_width has {len(args.min_width)} values and --min_height {len(args.min_height)}: '
                     'give one of each for every list')
    if args.workers < 1:
        parser.error('--workers is 0: give at least 1')
    if not os.path.isfile(args.gt_path):
        parser.error(f"--gt_path: no file {args.gt_path}: give SynthText's gt.mat")
    if not os.path.isdir(args.syntxt_path):
        parser.error(f'--syntxt_path: no folder {args.syntxt_path}: give the one that holds the image folders 1 to 200')
    return args


def main(argv=None):
    """Runs the command line and returns its exit status: 0, 1 nothing written or stopped, 2 bad input, 130 Ctrl-C."""
    args = parse_args(argv)
    sizes = list(dict.fromkeys(zip(args.min_width, args.min_height)))
    try:
        counts = crop_set(args.gt_path, args.syntxt_path, args.out_path, sizes, args.workers, args.force)
    except ValueError as error:
        print(f'crop_800k.py: error: {error}', file=sys.stderr)
        return 2
    except BlockingIOError:
        print(f'crop_800k.py: another run is at work in {args.out_path}: wait for it', file=sys.stderr)
        return 1
    except OSError as error:
        print(f'crop_800k.py: stopped: {error}. Mend that and start again to go on', file=sys.stderr)
        return 1
    except BrokenProcessPool:
        print('crop_800k.py: a worker was killed (out of memory? then fewer --workers). Start again to go on',
              file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('crop_800k.py: interrupted. Start again to go on', file=sys.stderr)
        return 130
    report(counts, args.out_path)
    if not counts['written']:
        print(f'crop_800k.py: no word was written: do {args.syntxt_path} and {args.gt_path} belong together?',
              file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(run_command(main))
