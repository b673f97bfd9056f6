"""Prints how strong a checkerboard generators draw where a picture has no detail.

    python3 -m utils.checkerboard weights/textsr.pth weights/srgan.pth --image street.jpg --box 60,60,200,100

One column is a flat colour, the other, with --image, a plain part of that photograph, such as sky: its noise shows more
of it. Grey levels of 255, see `lib.metrics.checkerboard`; above 0.5 it can be seen.
"""
import os
import sys

from PIL import Image

if not __package__:  # run as a file, Python looks for modules beside it; they are in the project's root
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from lib.inference.boxes import bounds
from lib.inference.flags import zoom
from lib.inference.tables import markdown_table
from lib.options import CheckedParser, HelpFormatter
from lib.runtime.console import open_output, run_command

FLAT = (128, 120, 140)


def parse_args(argv=None):
    parser = CheckedParser(description='Print how strong a checkerboard generators draw where there is no detail.',
                           formatter_class=HelpFormatter)
    parser.add_argument('generators', nargs='+', metavar='GENERATOR', help='files of weights')
    parser.add_argument('--image', help='a photograph with a plain part')
    parser.add_argument('--box', type=zoom, metavar='X,Y,W,H',
                        help='that part, in pixels (default: the whole photograph)')
    args = parser.parse_args(argv)
    if args.box and not args.image:
        parser.error('--box: a part of which --image?')
    return args


if __name__ == '__main__':
    open_output()
    parse_args()  # --help and wrong flags are answered here, before the seconds that it takes to import torch

from lib.checkpoint import load_generator
from lib.imaging import read_image, to_tensor
from lib.inference.enlarging import Method
from lib.metrics import checkerboard


def plain_part(path, corners=None):
    """The part of the picture in a file between these corners, all of it where there are none; ValueError where it
    cannot be had."""
    try:
        image = read_image(path)
    except ValueError as error:
        raise ValueError(f'--image {path}: {error}') from error
    if corners is None:
        return image
    part = bounds(corners)
    if part[2] > image.width or part[3] > image.height:
        raise ValueError(f'--box: reaches beyond {path}, which has {image.width}x{image.height} pixels')
    return image.crop(part)


def strength(generator, picture):
    """The checkerboard, in grey levels, of a PIL picture enlarged by the generator."""
    (_, enlarged), = Method(generator).pictures([to_tensor(picture)])
    return checkerboard(to_tensor(enlarged)[None], generator.scale).item()


def table(args):
    """The figures as a Markdown table; OSError or ValueError, which names the file, where one cannot be used."""
    grounds = {'flat colour': Image.new('RGB', (64, 16), FLAT)}
    if args.image:
        grounds[args.image] = plain_part(args.image, args.box)
    lines = []
    for path in args.generators:
        generator = load_generator(path)
        lines.append([path, *(f'{strength(generator, picture):.2f}' for picture in grounds.values())])
    return markdown_table(['file', *grounds], '-' + 'r' * len(grounds), lines)


def main(argv=None):
    """Print; returns the exit status: 0, or 2 where a file cannot be used."""
    args = parse_args(argv)
    try:
        print(table(args))
    except (OSError, ValueError) as error:
        print(f'checkerboard.py: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(run_command(main))
