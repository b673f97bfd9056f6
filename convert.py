"""Enlarge images by bicubic interpolation, SRGAN and TextSR, read them, and draw the results side by side.

    python3 convert.py --image_path='./' --width=128 --height=32 --ds_scale=4
    python3 convert.py --image_path=photo.jpg --ds_scale=1 --zoom 120,80,60,20

writes <out_path>/bicubic, srgan, textsr and compare, one PNG for each image, and metrics.tsv and metrics.json; with
--labels also sheets/gained.png and sheets/failed.png, words that TextSR makes readable and words that it does not.
"""
import argparse
import csv
import io
import json
import math
import os
import sys
import warnings
from collections import Counter
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from lib.imaging import read_image, recognizer_input, to_tensor
from lib.inference.conversion import COMPARE, ORIGINAL, TITLES, Workers, convert, prepare, save, shown
from lib.inference.drawing import stack
from lib.inference.enlarging import Enlarger
from lib.inference.evaluators import read_words
from lib.metrics import finite_mean
from lib.options import ASTER_PATH, GENERATOR_PATHS
from lib.runtime.checkpoint import load_aster, load_generator, written_beside
from lib.runtime.console import run_command
from lib.runtime.distributed import pick_amp, pick_device
from lib.vocabulary import vocabulary_of
from lib.wordsets.word_lists import match_labels

METHODS = ('bicubic', 'srgan', 'textsr')
SUFFIXES = ('.png', '.jpg', '.jpeg', '.jpe', '.jfif', '.bmp', '.gif', '.tif', '.tiff', '.webp', '.ppm', '.pgm', '.pbm',
            '.pnm')
MAX_NAME = 200  # bytes of a result's name without .png; file systems take 255, and the unfinished file's is longer
WORKERS = 2  # threads side by side: one for each generator
SHEETS, SHEET = 'sheets', 8  # folder beside those of the methods; words on one, at most
WINDOW = 8  # batches of images in memory at once, from which those of like sizes are put together
WINDOW_PIXELS = 16_000_000  # of their results; a larger image is there alone


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description='Enlarge images by bicubic interpolation, SRGAN and TextSR, and read them. Of a folder its own '
                    'images are taken, not those of its sub-folders.')
    parser.add_argument('--image_path', default='./', help='an image or a folder of images (default: %(default)s)')
    parser.add_argument('--out_path', default='./', help='folder for the results (default: %(default)s)')
    parser.add_argument('--width', type=int, help='resize to this width first, pixels (default: each image keeps its '
                        'own size, less what is not divisible by --ds_scale at the right and bottom)')
    parser.add_argument('--height', type=int, help='resize to this height first, pixels; goes with --width')
    parser.add_argument('--ds_scale', type=int, default=4, choices=[1, 2, 4],
                        help='reduce the image so many times, then restore it and measure PSNR and SSIM; 1: do not '
                             'reduce, enlarge the image as it is (default: %(default)s)')
    parser.add_argument('--srgan_path', default=GENERATOR_PATHS['srgan'], help='generator (default: %(default)s)')
    parser.add_argument('--textsr_path', default=GENERATOR_PATHS['textsr'], help='generator (default: %(default)s)')
    parser.add_argument('--aster_path', default=ASTER_PATH, help='recognizer (default: %(default)s)')
    parser.add_argument('--beam_width', type=int, default=5,
                        help='beams of the reading; 1: greedy (default: %(default)s)')
    parser.add_argument('--zoom', type=parse_zoom, action='append', default=[], metavar='X,Y,W,H',
                        help='also draw this part of the image enlarged, in pixels of the original; may be repeated')
    parser.add_argument('--labels', help='list of image names and their true strings, such as gt.txt, to mark letters '
                                         'read wrongly and to print the word accuracy')
    parser.add_argument('--batch_size', type=int, default=64,
                        help='images enlarged together; 1: one after the other (default: %(default)s)')
    parser.add_argument('--amp', choices=['auto', 'off', 'bf16', 'fp16'], default='auto',
                        help='mixed precision of the generators; auto: bf16 where the device has units for it, off '
                             'elsewhere (default: %(default)s)')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda, cuda:1, ... (default: %(default)s)')
    args = parser.parse_args(argv)
    for name in ('width', 'height', 'beam_width', 'batch_size'):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f'--{name} {value}: must be above zero')
    if (args.width is None) != (args.height is None):
        parser.error('--width and --height: give both, or neither to keep the size of each image')
    for name in ('width', 'height'):
        if (getattr(args, name) or 0) % args.ds_scale:
            parser.error(f'--{name} {getattr(args, name)}: not divisible by --ds_scale {args.ds_scale}')
    return args


def parse_zoom(text):
    """'x,y,w,h' -> (x, y, w, h), the corner not negative, the sides above zero."""
    try:
        x, y, width, height = map(int, text.split(','))
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r} is not X,Y,W,H in whole pixels, for example 120,80,60,20') from None
    if min(x, y) < 0 or min(width, height) < 1:
        raise argparse.ArgumentTypeError(f'{text!r}: X and Y must not be negative, W and H must be above zero')
    return x, y, width, height


# ---------------------------------------------------------------------------------------------------------------- build

def load(flag, path, loader, device):
    """The network in a file, ready to be used; errors name the flag."""
    try:
        return loader(path).to(device).requires_grad_(False).eval()
    except (OSError, ValueError) as error:
        raise ValueError(f'{flag} {error}') from error


def build_enlargers(args, device):
    """{method: function of a list of images (3, h, w) that yields (index, enlarged PIL image)} and the scale of all."""
    generators = {method: load(f'--{method}_path', getattr(args, f'{method}_path'), load_generator, device)
                  for method in METHODS[1:]}
    scale = args.ds_scale if args.ds_scale > 1 else generators['srgan'].scale
    for method, generator in generators.items():
        if generator.scale != scale:
            other = f'--ds_scale is {scale}' if args.ds_scale > 1 else f'--srgan_path {args.srgan_path}: {scale} times'
            path = getattr(args, f'{method}_path')
            raise ValueError(f'--{method}_path {path}: enlarges {generator.scale} times; {other}')
    enlargers = {'bicubic': Enlarger(scale=scale, device=device).pictures}
    for method, generator in generators.items():
        enlarger = Enlarger(generator, device=device, amp=pick_amp(args.amp, device))
        enlargers[method] = partial(enlarger.pictures, batch_size=args.batch_size)
    return enlargers, scale


def build_reader(args, device):
    """A function of a list of PIL images of any size that returns (string, score) of each."""
    recognizer = load('--aster_path', args.aster_path, load_aster, device)
    if args.beam_width > recognizer.num_classes:
        raise ValueError(f'--beam_width {args.beam_width}: more than the {recognizer.num_classes} classes there are')
    vocabulary = vocabulary_of(recognizer.num_classes, recognizer.alphabet)

    def read(pictures):
        inputs = torch.cat([recognizer_input(to_tensor(picture)[None]) for picture in pictures])
        return read_words(recognizer, vocabulary, inputs.to(device), args.beam_width)

    return read


# --------------------------------------------------------------------------------------------------------- files, names

def find_images(path):
    """The images at a path, a file or a folder, and the names in a folder that are not taken for images."""
    path = Path(path)
    if not os.path.lexists(path):
        raise ValueError(f'--image_path {shown(path)}: no such file or folder')
    if not path.is_dir():
        return [path], []
    names = sorted(name for name in os.listdir(path) if not os.path.isdir(path / name))
    taken = [name for name in names if name.lower().endswith(SUFFIXES) and not name.startswith('.')]
    return [path / name for name in taken], [name for name in names if name not in taken]


def output_names(paths):
    """{path: name of its results}: the image's own with .png; images that would share one keep their suffix before it.

    Told apart as file systems do that ignore case. Names are cut so that nothing beside them gets too long.
    """
    sharing = Counter(path.stem.casefold() for path in paths)
    names, used = {}, set()
    for path in sorted(paths, key=lambda path: sharing[path.stem.casefold()]):  # those with a name of their own first
        stem = path.stem if sharing[path.stem.casefold()] == 1 else path.name
        if len(os.fsencode(stem)) > MAX_NAME:
            stem = os.fsencode(stem)[:MAX_NAME].decode('utf-8', 'ignore')
        while stem.casefold() in used:
            stem += '_'
        used.add(stem.casefold())
        names[path] = f'{stem}.png'
    return names


def check_outputs(args, names):
    """Make the folders of the results; ValueError where a result would take the place of an input or become one."""
    inputs = {(status.st_dev, status.st_ino): path for path in names if path.exists() for status in [path.stat()]}
    for folder in (*METHODS, COMPARE, *([SHEETS] if args.labels else [])):
        folder = Path(args.out_path) / folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f'--out_path {shown(args.out_path)}: {error.strerror}: {shown(folder)}') from error
        if os.path.isdir(args.image_path) and os.path.samefile(folder, args.image_path):
            raise ValueError(f'--out_path {shown(args.out_path)}: results would go among the inputs, into '
                             f'{shown(folder)}; choose another folder')
        for name in names.values():
            target = folder / name
            status = target.stat() if target.exists() else None
            if status and (status.st_dev, status.st_ino) in inputs:
                raise ValueError(f'--out_path {shown(args.out_path)}: the result {shown(target)} would take the place '
                                 'of an input; choose another folder')


def say(message):
    """A line on stderr, above the progress bar."""
    tqdm.write(message, file=sys.stderr)


# --------------------------------------------------------------------------------------------------------------- report

def summarize(rows):
    """{method: {'images': number, 'psnr': mean, 'ssim': mean, 'words': with a label, 'accuracy': %}}, if known."""
    summary = {}
    for method in dict.fromkeys(row['method'] for row in rows):
        mine = [row for row in rows if row['method'] == method]
        summary[method] = {'images': len(mine)}
        if 'psnr' in mine[0]:
            summary[method]['psnr'] = finite_mean([row['psnr'] for row in mine])
            summary[method]['ssim'] = sum(row['ssim'] for row in mine) / len(mine)
        words = [row['right'] for row in mine if 'right' in row]
        if words:
            summary[method].update(words=len(words), accuracy=100 * sum(words) / len(words))
    return summary


def table(summary):
    """The summary as a markdown table; an empty string where nothing was measured."""
    columns = [('PSNR (dB)', 'psnr', '.2f'), ('SSIM', 'ssim', '.4f'), ('words', 'words', 'd'),
               ('accuracy (%)', 'accuracy', '.1f')]
    columns = [column for column in columns if any(column[1] in figures for figures in summary.values())]
    if not columns:
        return ''
    lines = ['| method | ' + ' | '.join(title for title, _, _ in columns) + ' |', '|---|' + '--:|' * len(columns)]
    for method, figures in summary.items():
        values = [format(figures[key], form) if key in figures else '-' for _, key, form in columns]
        lines.append(f'| {TITLES[method]} | ' + ' | '.join(values) + ' |')
    return '\n'.join(lines) + '\n'


def save_report(rows, summary, problems, args):
    """Write metrics.tsv, a line for each image and method, and metrics.json, means by method and what was left out."""
    def plain(value):
        if isinstance(value, float):
            return f'{value:.4f}'
        return '' if value is None else str(int(value)) if isinstance(value, bool) else shown(value)

    def known(value):  # JSON has neither NaN nor infinity
        return value if math.isfinite(value) else None

    columns = ('image', 'result', 'method', 'label', 'string', 'right', 'score', 'psnr', 'ssim')
    lines = io.StringIO()
    writer = csv.writer(lines, delimiter='\t', lineterminator='\n')  # puts a string with " in it into quotes
    writer.writerows([columns, *([plain(row.get(column)) for column in columns] for row in rows)])
    methods = {method: {key: known(value) for key, value in figures.items()} for method, figures in summary.items()}
    content = {'ds_scale': args.ds_scale, 'width': args.width, 'height': args.height, 'methods': methods,
               'left_out': problems}
    for name, text in (('metrics.tsv', lines.getvalue()), ('metrics.json', json.dumps(content, indent=1) + '\n')):
        with written_beside(Path(args.out_path) / name) as beside:
            beside.write_text(text, encoding='utf-8')


def save_sheets(rows, out_path):
    """Put drawings together: gained.png, words read from TextSR and not from bicubic; failed.png, not from TextSR.

    Of the failures those come first that bicubic reads, and then those that are read as they are.
    """
    right = {(row['result'], row['method']): row['right'] for row in rows if 'right' in row}
    names = list(dict.fromkeys(result for result, _ in right))
    failed = [name for name in names if not right[name, 'textsr']]
    failed.sort(key=lambda name: (not right[name, 'bicubic'], not right.get((name, ORIGINAL), False)))
    gained = [name for name in names if right[name, 'textsr'] and not right[name, 'bicubic']]
    for title, chosen in (('gained', gained), ('failed', failed)):
        path = Path(out_path) / SHEETS / f'{title}.png'
        if chosen:
            save(stack([read_image(Path(out_path) / COMPARE / name) for name in chosen[:SHEET]]), path)
        else:
            path.unlink(missing_ok=True)  # of an earlier run


def main(argv=None):
    """Convert; returns the exit status: 0, 1 where an image was left out or nothing came out, 2, 130."""
    args = parse_args(argv)
    warnings.simplefilter('ignore', Image.DecompressionBombWarning)  # Pillow refuses what is twice as large
    try:
        paths, others = find_images(args.image_path)
        device = pick_device(args.device)
        enlargers, scale = build_enlargers(args, device)
        read = build_reader(args, device)
        labels, unused = match_labels(args.labels, paths) if args.labels else ({}, [])
        names = output_names(paths)
        if paths:
            check_outputs(args, names)
    except (OSError, ValueError) as error:
        say(f'convert.py: error: {error}')
        return 2
    for line in unused:
        say(f'--labels {line}')
    if others:
        say(f'not images by their names: {", ".join(map(shown, others))}')
    if not paths:
        say(f'convert.py: no image in {shown(args.image_path)}: looked in that folder itself, not in its sub-folders, '
            f'for names that end in {" ".join(SUFFIXES)}; give an image or another folder with --image_path')
        return 1
    return run(paths, names, enlargers, scale, read, labels, args)


def windows(paths, args, load_job, problems, bar):
    """Yield lists of jobs that fit into memory together; images that cannot be used are named, noted in `problems`."""
    jobs, pixels = [], 0
    most = WINDOW * args.batch_size if args.batch_size > 1 else 1
    for path in paths:
        try:
            jobs.append(load_job(path))
            pixels += jobs[-1].pixels
        except ValueError as error:
            problems[path.name] = str(error)
            say(f'{shown(path)}: left out: {error}')
            bar.update()
        if len(jobs) == most or pixels >= WINDOW_PIXELS:
            yield jobs
            jobs, pixels = [], 0
    if jobs:
        yield jobs


def run(paths, names, enlargers, scale, read, labels, args):
    """Convert all images, print and save the figures; returns the exit status."""
    size = (args.width, args.height) if args.width else None
    rows, problems, status = [], {}, 0
    workers = Workers(1 if args.batch_size == 1 else WORKERS)

    def load_job(path):
        return prepare(path, names[path], args.ds_scale, scale, size, args.zoom, labels.get(path), say)

    try:
        with tqdm(total=len(paths), unit='image', disable=None, dynamic_ncols=True) as bar:
            for jobs in windows(paths, args, load_job, problems, bar):
                rows += convert(jobs, enlargers, read, args.out_path, workers, args.batch_size)
                bar.update(len(jobs))
    except KeyboardInterrupt:
        status = 130
    except OSError as error:
        say(f'convert.py: error: {error}')
        status = 1
    done = len({row['result'] for row in rows})
    summary = summarize(rows)
    if done:
        print(table(summary), end='', flush=True)
        try:
            save_report(rows, summary, problems, args)
            save_sheets(rows, args.out_path)
        except OSError as error:
            say(f'convert.py: error: {error}')
            status = status or 1
    print(f'{done} of {len(paths)} images converted into {shown(args.out_path)}')
    return status or (1 if problems else 0)


if __name__ == '__main__':
    sys.exit(run_command(main))
