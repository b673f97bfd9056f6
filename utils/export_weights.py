"""Export the weights of one network from a training checkpoint: float16, without optimizers.

    python3 -m utils.export_weights logs/best.pth weights/textsr.pth
    python3 -m utils.export_weights logs/best.pth textsr.safetensors
"""
import argparse
import os
import sys

import torch

if not __package__:  # run as a file, Python looks for modules beside it; they are in the project's root
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from lib.checkpoint import load_checkpoint, save_weights
from lib.runtime.console import run_command


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description='Take the weights of one network out of a training checkpoint.')
    parser.add_argument('checkpoint', help='last.pth or best.pth of a run of main.py, or a file that this wrote')
    parser.add_argument('output', help='file to write; it holds {"state_dict": ..., "arch": ..., "iteration": ...}, '
                                       'as NAME.safetensors the tensors, and the rest as metadata')
    parser.add_argument('--network', choices=['generator', 'recognizer'],
                        help='none: the recognizer of --arch aster, else the generator')
    parser.add_argument('--float32', action='store_true', help='keep full precision (default: float16, half the size)')
    return parser.parse_args(argv)


def export(checkpoint, network=None, dtype=None):
    """The content of the exported file; ValueError that names the network where the checkpoint has none.

    The spline of the rectification keeps its precision: its matrix is badly conditioned, and float16 moves the picture.
    """
    trained = 'recognizer' if checkpoint.get('arch') == 'aster' else 'generator'
    network = network or trained
    weights = checkpoint.get(network, checkpoint.get('state_dict') if network == trained else None)
    if weights is None or 'arch' not in checkpoint:
        names = list(map(str, checkpoint))
        raise ValueError(f'no {network} of main.py in it; it holds {", ".join(names[:6])}'
                         + (f' and {len(names) - 6} more' if len(names) > 6 else ''))
    iteration = checkpoint['progress']['iteration'] if 'progress' in checkpoint else checkpoint.get('iteration')
    state_dict = {name: value.to(dtype) if dtype and value.is_floating_point() and not name.startswith('tps.')
                  else value for name, value in weights.items()}
    return {'state_dict': state_dict, 'arch': checkpoint['arch'], 'iteration': iteration}


def main(argv=None):
    """Export; returns the exit status: 0, or 2 for a file that cannot be used."""
    args = parse_args(argv)
    try:
        content = export(load_checkpoint(args.checkpoint), args.network, None if args.float32 else torch.float16)
        save_weights(args.output, **content)
    except ValueError as error:
        print(f'export_weights.py: {args.checkpoint}: {error}', file=sys.stderr)
        return 2
    except OSError as error:
        print(f'export_weights.py: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(run_command(main))
