"""Enlarge pictures of words and photographs with words in them, and read the words.

    python3 convert.py word.png                            enlarged/word.png; prints the string that is read
    python3 convert.py photos/ -o enlarged/
    python3 convert.py photo.jpg --zoom 120,80,60,20       this word by TextSR, the rest by bicubic interpolation
    python3 convert.py words/ --methods bicubic textsr     a folder for each, drawings and compare/index.html

With --ds_scale the methods are measured, each image against what is restored of it:

    python3 convert.py --image_path='./' --width=128 --height=32 --ds_scale=4

writes <out_path>/bicubic, srgan, textsr and compare, one PNG for each image, compare/index.html, metrics.tsv and
metrics.json; with --labels also sheets/gained.png and failed.png: words that TextSR makes readable, and others.
"""
import sys
import warnings
from pathlib import Path

from lib.inference.files import SUFFIXES, check_outputs, earlier_results, find_images, output_names
from lib.inference.flags import parse_args
from lib.runtime.console import first_five, printable, run_command
from lib.runtime.system import forget_sizes, share_heap
from lib.wordsets.word_lists import match_labels

WINDOW = 64  # images in memory at once, from which those of similar sizes are put together
WINDOW_PIXELS = 16_000_000  # of their results; a larger image is there alone


def main(argv=None):
    """Convert; returns the exit status: 0, 1 where an image was left out or nothing came out, 2, 130."""
    args = parse_args(argv)
    share_heap()
    forget_sizes()
    folders = {*args.folders.values(), *filter(None, [args.drawings, args.originals, args.sheets])}
    try:
        results = {args.out_path, *folders, *earlier_results(args.out_path)}
        images, others, unread = find_images(args.sources, args.recursive, results)
        labels, unused = match_labels(args.labels, [path for path, _ in images]) if args.labels else ({}, [])
        boxless = args.words.match(images) if args.words and images else ''
        from lib.inference.build import build_converter  # torch takes seconds: not before the flags are right
        converter = build_converter(args, labels, say)
        names = output_names([name for _, name in images])
        if args.out_name:
            names = [Path(args.out_name)]
        if images:
            sources = [] if args.out_name else args.sources  # a file may be named anywhere
            check_outputs(args.out_path, folders, [path for path, _ in images], names, sources)
    except (OSError, ValueError) as error:
        say(f'convert.py: error: {error}')
        return 2
    for line in unused:
        say(f'--labels {line}')
    if boxless:
        say(boxless)
    if others:
        say(f'{len(others)} files not images by their names: {first_five(others)}')
    for folder, error in unread.items():
        say(f'{printable(folder)}: left out: {error}')
    if not images:
        hint = '' if args.recursive else ', not in its sub-folders (--recursive)'
        say(f'convert.py: no image in {", ".join(map(printable, args.sources))}: looked there{hint}, for names that '
            f'end in {" ".join(SUFFIXES)}')
        return 1
    return run(args, converter, [(path, name, result) for (path, name), result in zip(images, names)], unread)


def say(message):
    """A line on stderr, above the progress bar."""
    from tqdm import tqdm
    tqdm.write(message, file=sys.stderr)


def windows(images, converter, problems, bar):
    """Yield lists of jobs that fit into memory together; images that cannot be used are named, noted in `problems`."""
    jobs, pixels = [], 0
    for path, name, result in images:
        try:
            jobs.append(converter.prepare(path, name, result))
            pixels += jobs[-1].pixels
        except ValueError as error:
            problems[str(name)] = str(error)
            say(f'{printable(path)}: left out: {error}')
            bar.update()
        if len(jobs) == (WINDOW if converter.batch_size > 1 else 1) or pixels >= WINDOW_PIXELS:
            yield jobs
            jobs, pixels = [], 0
    if jobs:
        yield jobs


def run(args, converter, images, unread):
    """Convert all images, print and save the figures; returns the exit status. unread: {folder left out: why}."""
    from PIL import Image
    from tqdm import tqdm

    from lib.inference import report
    from lib.runtime.device import is_out_of_memory
    warnings.simplefilter('ignore', Image.DecompressionBombWarning)  # Pillow refuses what is twice as large
    rows, left, problems, status, done = [], images, dict(unread), 0, 0
    if args.skip_existing:
        try:
            rows, left = report.go_on(images, args, converter, say)
        except (OSError, ValueError) as error:
            say(f'convert.py: error: {error}')
            return 2
    try:
        with tqdm(total=len(left), unit='image', disable=None, dynamic_ncols=True) as bar:
            converter.done = bar.update
            for jobs in windows(left, converter, problems, bar):
                converted = converter.convert(jobs)
                rows += converted if args.metrics else []  # else nothing needs them, and they may be millions
                done += len(jobs)
                if not args.measured:
                    report.print_readings(jobs, tqdm.write)
    except (KeyboardInterrupt, SystemExit) as stop:  # Ctrl-C, SIGTERM
        status = getattr(stop, 'code', 130)
    except OSError as error:
        say(f'convert.py: error: {error}')
        status = 1
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        say('convert.py: error: out of memory; a smaller --batch_size needs less')
        status = 1
    if rows and done:
        try:
            report.report(rows, problems, args, converter.vocabulary)
        except OSError as error:
            say(f'convert.py: error: {error}')
            status = status or 1
    where = Path(args.out_path, args.out_name) if args.out_name else args.out_path
    print(f'{done} of {len(left)} images converted into {printable(where)}',
          file=sys.stdout if args.measured else sys.stderr)
    return status or (1 if problems else 0)


if __name__ == '__main__':
    sys.exit(run_command(main))
