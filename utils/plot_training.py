"""Draw the validation curves of runs of main.py, one line for each, as a PNG.

    python3 -m utils.plot_training ./logs_srgan ./logs_textsr --out training.png
"""
import json
import math
import os
import sys
from pathlib import Path

from PIL import Image, ImageDraw

if not __package__:  # run as a file, Python looks for modules beside it; they are in the project's root
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from lib.inference.drawing import FRAMES, GREY, INK, PAPER, draw_text
from lib.options import CheckedParser
from lib.runtime.console import run_command
from lib.runtime.files import written_beside

WIDTH, HEIGHT, SMOOTH = 900, 480, 3  # pixels of the picture; drawn so many times as large and reduced
LEFT, RIGHT, TOP, BOTTOM = 80, 24, 36, 48  # margins; TOP: from the last line of the legend
UNITS = {'accuracy': 'word accuracy (%)', 'psnr': 'PSNR (dB)', 'ssim': 'SSIM'}


def parse_args(argv=None):
    parser = CheckedParser(description='Draw the validation curves of runs of main.py.')
    parser.add_argument('logs_dirs', nargs='+', metavar='LOGS_DIR', help='folders of runs, each with log.txt')
    parser.add_argument('--metric', choices=list(UNITS), default='accuracy',
                        help='what to draw over the steps (default: %(default)s)')
    parser.add_argument('--out', default='training.png', help='PNG to write (default: %(default)s)')
    args = parser.parse_args(argv)
    if not args.out.lower().endswith('.png'):
        parser.error(f'--out {args.out}: the picture is a PNG; give NAME.png')
    return args


def read_curve(logs_dir, metric):
    """[(step, value), ...] of a run's own method at its validations, and of bicubic, what is not finite left out;
    ValueError where there is none."""
    try:
        arch = json.loads((Path(logs_dir) / 'args.json').read_text())['arch']
        entries = [json.loads(line) for line in (Path(logs_dir) / 'log.txt').read_text().splitlines()]
        curves = [[point for entry in entries if f'{method}/{metric}' in entry
                   if all(map(math.isfinite, point := (entry['iteration'], entry[f'{method}/{metric}'])))]
                  for method in ('none' if arch == 'aster' else arch, 'bicubic')]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f'{logs_dir}: not the folder of a run of main.py ({error})') from error
    if not curves[0]:
        raise ValueError(f'{logs_dir}: its log has no {metric} of {arch}; was it trained without --val_data_dir?')
    return curves


def ticks(low, high):
    """Round numbers from at most `low` to at least `high`, about six of them."""
    rough = (high - low) / 6 or 1.0
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def labels(folders):
    """What the curves of these folders are called: by the folder's name, or by its path where two have one name."""
    names = [os.path.basename(os.path.abspath(folder)) for folder in folders]
    return [folder if names.count(name) > 1 else name for folder, name in zip(folders, names)]


def legend(unit, names):
    """[(words as a picture, x, y)] of the unit and of each curve's name, in lines that are as wide as the plot."""
    places, x, y = [], LEFT, 12
    for number, name in enumerate([unit, *names]):
        words = draw_text(name, 16, WIDTH - LEFT - RIGHT, FRAMES[(number - 1) % len(FRAMES)] if number else INK)
        if x + words.width > WIDTH - RIGHT:
            x, y = LEFT, y + words.height
        places.append((words, x, y))
        x += words.width + 14
    return places


def plot(curves, unit):
    """[(name, [(step, value), ...]), ...] -> PIL image."""
    points = [point for _, curve in curves for point in curve]
    across = ticks(0, max(step for step, _ in points))
    up = ticks(min(value for _, value in points), max(value for _, value in points))
    names = legend(unit, [name for name, _ in curves])
    top = names[-1][2] + TOP

    def place(step, value):
        return (SMOOTH * (LEFT + (WIDTH - LEFT - RIGHT) * (step - across[0]) / (across[-1] - across[0])),
                SMOOTH * (HEIGHT - BOTTOM - (HEIGHT - top - BOTTOM) * (value - up[0]) / (up[-1] - up[0])))

    large = Image.new('RGB', (SMOOTH * WIDTH, SMOOTH * HEIGHT), PAPER)
    draw = ImageDraw.Draw(large)
    for value in up:
        draw.line([place(across[0], value), place(across[-1], value)], (225, 225, 225), SMOOTH)
    for number, (_, curve) in reversed(list(enumerate(curves))):  # the first one lies on top
        color = FRAMES[number % len(FRAMES)]
        draw.line([place(*point) for point in curve], color, 2 * SMOOTH, joint='curve')
        for x, y in (place(*point) for point in curve):
            draw.ellipse((x - 3 * SMOOTH, y - 3 * SMOOTH, x + 3 * SMOOTH, y + 3 * SMOOTH), color)
    picture = large.reduce(SMOOTH)

    def write(text, x, y, align):
        words = draw_text(text, 16, color=GREY)
        picture.paste(words, (round(x - align * words.width), round(y)))

    for step in across:
        write(f'{step:g}', place(step, up[0])[0] / SMOOTH, HEIGHT - BOTTOM + 4, 0.5)
    for value in up:
        write(f'{value:g}', LEFT - 8, place(0, value)[1] / SMOOTH - 11, 1)
    write('steps', WIDTH - RIGHT, HEIGHT - 24, 1)
    for words, x, y in names:
        picture.paste(words, (x, y))
    return picture


def main(argv=None):
    """Draw; returns the exit status: 0, or 2 where a folder or the picture cannot be used."""
    args = parse_args(argv)
    try:
        curves, bicubic = [], []
        for logs_dir, label in zip(args.logs_dirs, labels(args.logs_dirs)):
            curve, base = read_curve(logs_dir, args.metric)
            curves.append((label, curve))
            bicubic = base if base and (not bicubic or base[-1] > bicubic[-1]) else bicubic
        if bicubic:
            curves.append(('bicubic', bicubic))
        with written_beside(args.out) as partial:
            plot(curves, UNITS[args.metric]).save(partial, 'PNG')
    except (OSError, ValueError) as error:
        print(f'plot_training.py: error: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(run_command(main))
