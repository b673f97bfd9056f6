"""The flags of convert.py and what follows from them. Needs no torch: help and errors come at once."""
import argparse
import os
from pathlib import Path

from lib.inference.box_files import Boxes
from lib.inference.boxes import corners_of
from lib.inference.files import BICUBIC, COMPARE, ORIGINALS, SHEETS, SUFFIXES, method_paths
from lib.options import ASTER_PATH, BEAM_WIDTH, WEIGHTS, Parser
from lib.runtime.console import printable


def parse_args(argv=None):
    parser = Parser(
        prog='convert.py', description='Enlarge pictures of words and photographs with words in them, and read the '
        'words. With --ds_scale, reduce the images first and measure how well they are restored.')
    add = parser.add_argument
    add('images', nargs='*', help='images and folders of images')
    add('-i', '--image_path', metavar='PATH', help='one more image or folder of images (default with --ds_scale: ./)')
    add('-o', '--out_path', metavar='PATH', help='folder for the results, or for one image NAME.png (default: '
        './enlarged, with --ds_scale: ./)')
    add('--methods', nargs='+', metavar='METHOD', help='bicubic, a file of weights/ such as srgan, textsr or '
        'textsr_x2, or NAME=FILE; several get a folder each (default: textsr; with --ds_scale: bicubic srgan '
        'textsr, with 2: bicubic textsr)')
    add('--recursive', action='store_true', help='take the images of sub-folders too, and write into '
        'sub-folders of the same names')
    add('--skip_existing', action='store_true', help='continue an earlier run: leave out images whose results are '
        'there, and their figures where the run makes any')
    add('--read_both', action='store_true', default=None, help='read each word also as bicubic interpolation enlarges '
        'it, and keep the string that the recognizer is more certain of (default with one method and no --ds_scale)')
    add('--no_read', action='store_true', help='do not read the words')
    add('--no_compare', action='store_true', help='make no drawings and no compare/index.html')
    photo = parser.add_argument_group('photographs (both sides above 192 pixels, or words given; only words that are '
                                      'given or found are read)')
    photo.add_argument('--zoom', type=zoom, action='append', default=[], metavar='X,Y,W,H',
                       help='a word, in pixels of the image; may be repeated')
    photo.add_argument('--boxes', metavar='FILE', help='file or folder that a text detector wrote: x,y,w,h or corners '
                       'x1,y1,x2,y2,... a line, or JSON; auto: found here (pip install rapidocr onnxruntime)')
    photo.add_argument('--background', metavar='METHOD', help='method that enlarges what lies between the words '
                       '(default: bicubic, with --ds_scale: each method enlarges the whole)')
    measure = parser.add_argument_group('measuring')
    measure.add_argument('--ds_scale', type=int, choices=[1, 2, 4], help='reduce each image so many times, restore it '
                         'and measure PSNR and SSIM; 1: do not reduce')
    measure.add_argument('--width', type=int, help='resize to this width first, pixels (default: images keep their '
                         'size, less what is not divisible by --ds_scale at the right and bottom)')
    measure.add_argument('--height', type=int, help='resize to this height first, pixels; goes with --width')
    measure.add_argument('--labels', metavar='FILE', help='list of image names and their true strings, such as gt.txt, '
                         'to mark letters read wrongly and to print the word accuracy')
    more = parser.add_argument_group('networks')
    more.add_argument('--srgan_path', help='file of srgan (default: weights/srgan.pth)')
    more.add_argument('--textsr_path', help='file of textsr (default: weights/textsr.pth; where images are reduced '
                      '4 times textsr_32x8.pth, 2 times textsr_x2.pth)')
    more.add_argument('--aster_path', default=ASTER_PATH, help='recognizer (default: %(default)s)')
    more.add_argument('--beam_width', type=int, default=BEAM_WIDTH,
                      help='beams of the reading; 1: greedy (default: %(default)s)')
    more.add_argument('--batch_size', type=int, default=64,
                      help='images enlarged together; 1: one after the other (default: %(default)s)')
    more.add_argument('--amp', choices=['auto', 'off', 'bf16', 'fp16'], default='auto', help='mixed precision of the '
                      'generators; auto: bf16 where the device has units for it, off elsewhere (default: %(default)s)')
    more.add_argument('--device', default='auto', help='auto, cpu, cuda, cuda:1, ... (default: %(default)s)')
    args = parser.parse_args(argv)
    try:
        complete(args)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    return args


def zoom(text):
    """'x,y,w,h' -> the four corners, the first one not negative, the sides above zero."""
    try:
        x, y, width, height = map(int, text.split(','))
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r} is not X,Y,W,H in whole pixels, for example 120,80,60,20') from None
    if min(x, y) < 0 or min(width, height) < 1:
        raise argparse.ArgumentTypeError(f'{text!r}: X and Y must not be negative, W and H must be above zero')
    return corners_of([x, y, width, height])


def complete(args):
    """Check the flags and fill in what follows from them; ValueError that names the flag."""
    measured = args.measured = args.ds_scale is not None
    args.sources = [*args.images, *([args.image_path] if args.image_path else [])] or (['./'] if measured else [])
    if not args.sources:
        hint = '; images stand before --methods' if any(map(os.path.exists, args.methods or ())) else ''
        raise ValueError(f'give an image or a folder of images{hint}')
    args.ds_scale = args.ds_scale or 1
    for name in ('width', 'height', 'beam_width', 'batch_size'):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f'--{name} {value}: must be above zero')
    if (args.width is None) != (args.height is None):
        raise ValueError('--width and --height: give both, or neither to keep the size of each image')
    for name in ('width', 'height'):
        if (getattr(args, name) or 0) % args.ds_scale:
            raise ValueError(f'--{name} {getattr(args, name)}: not divisible by --ds_scale {args.ds_scale}')
    reduced = args.ds_scale > 1
    textsr = {1: 'textsr.pth', 2: 'textsr_x2.pth', 4: 'textsr_32x8.pth'}[args.ds_scale]
    own = {'srgan': args.srgan_path or str(WEIGHTS / 'srgan.pth'), 'textsr': args.textsr_path or str(WEIGHTS / textsr)}
    compared = [BICUBIC, 'textsr'] if args.ds_scale == 2 and not args.srgan_path else [BICUBIC, *own]
    args.paths = method_paths(args.methods or (compared if measured else ['textsr']), own)
    if args.background is None and not measured:
        args.background = BICUBIC
    background = method_paths([args.background or BICUBIC], {**own, **args.paths}, '--background')
    (args.background_name, args.background_path), = background.items()
    args.words = Boxes(args.boxes) if args.boxes not in (None, 'auto') else None

    args.out_name = None
    args.out_path = args.out_path or ('./' if measured else './enlarged')
    several = measured or len(args.paths) > 1
    if args.out_path.lower().endswith(SUFFIXES) and not os.path.isdir(args.out_path):
        if not args.out_path.lower().endswith('.png'):
            raise ValueError(f'--out_path {printable(args.out_path)}: results are PNG; give NAME.png or a folder')
        if several or len(args.sources) > 1 or os.path.isdir(args.sources[0]):
            raise ValueError(f'--out_path {printable(args.out_path)}: give a folder; NAME.png is for one image and '
                             'method')
        args.out_path, args.out_name = os.path.split(args.out_path)
    args.folders = {name: Path(args.out_path, name if several else '') for name in args.paths}
    args.drawings = Path(args.out_path, COMPARE) if several and not args.no_compare else None
    if args.labels and args.no_read and not args.drawings:
        raise ValueError(f'--labels {printable(args.labels)}: for what is read, which is nothing with --no_read; leave '
                         'out one of the two')
    if args.read_both and args.no_read:
        raise ValueError('--read_both: for what is read, which is nothing with --no_read; leave out one of the two')
    if args.read_both is None:
        args.read_both = not (several or args.no_read)
    args.metrics = bool(args.drawings or args.labels or measured)
    args.originals = args.drawings / ORIGINALS if args.drawings and reduced else None
    args.sheets = Path(args.out_path, SHEETS) if args.drawings and args.labels and not args.no_read else None
