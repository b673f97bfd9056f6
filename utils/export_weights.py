"""Export the weights of one network from a training checkpoint: float16, without optimizers.

    python3 -m utils.export_weights logs/best.pth weights/textsr.pth
    python3 -m utils.export_weights logs/best.pth textsr.safetensors

A run that went on from other weights can be averaged with them, which often keeps what either knows (Wortsman et al.,
2022, arXiv 2109.01903):

    python3 -m utils.export_weights logs/last.pth weights/aster.pth --average weights/aster.pth 0.25

Of a generator trained with an adversarial loss and the one it began with, the average lies between the two in PSNR too
(Wang et al., ESRGAN, 2018, arXiv 1809.00219). Where one of two generators has batch norm, it is folded first.

    python3 -m utils.export_weights logs/last.pth weights/textsr.pth --average bicubic 0.15

makes the residual over bicubic interpolation 0.15 smaller, for a generator that sharpens too much.
"""
import argparse
import os
import sys

import torch

if not __package__:  # run as a file, Python looks for modules beside it; they are in the project's root
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from lib.checkpoint import load_checkpoint, save_weights
from lib.inference.files import BICUBIC
from lib.models.generator import adapt, generator_from_state_dict
from lib.runtime.console import run_command


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description='Take the weights of one network out of a training checkpoint.')
    parser.add_argument('checkpoint', help='last.pth or best.pth of a run of main.py, or a file that this wrote')
    parser.add_argument('output', help='file to write; it holds {"state_dict": ..., "arch": ..., "iteration": ...}, '
                                       'as NAME.safetensors the tensors, and the rest as metadata')
    parser.add_argument('--network', choices=['generator', 'recognizer'],
                        help='none: the recognizer of --arch aster, else the generator')
    parser.add_argument('--average', nargs=2, metavar=('FILE', 'SHARE'),
                        help='average with the weights in FILE, which have this share, 0 to 1; bicubic: with bicubic '
                             'interpolation')
    parser.add_argument('--float32', action='store_true', help='keep full precision (default: float16, half the size)')
    args = parser.parse_args(argv)
    if args.average:
        try:
            args.average[1] = float(args.average[1])
        except ValueError:
            parser.error(f'--average: {args.average[1]} is no number')
        if not 0 <= args.average[1] <= 1:
            parser.error(f'--average: {args.average[1]} must lie in 0 to 1')
    return args


def average(weights, others, share):
    """The weighted mean of two state dicts; ValueError where they are not of one network."""
    sizes, other_sizes = ({name: value.shape for name, value in tensors.items()} for tensors in (weights, others))
    if sizes != other_sizes:
        raise ValueError('other layers or sizes')
    return {name: torch.lerp(value.float(), others[name].float(), share) if value.is_floating_point() else value
            for name, value in weights.items()}


def towards_bicubic(weights, share):
    """A generator's state dict with a residual over bicubic interpolation that is (1 - share) times as large."""
    if 'tail.weight' not in weights:
        raise ValueError('no generator')
    return {name: value.float() * (1 - share) if name.startswith('tail.') else value for name, value in weights.items()}


def without_batch_norm(weights):
    """A generator's state dict with batch norm folded into the convolutions."""
    generator = generator_from_state_dict(weights)
    return adapt(generator, generator.scale).state_dict()


def export(checkpoint, network=None, dtype=None, other=None, share=0.0):
    """The content of the exported file; ValueError that names the network where the checkpoint has none.

    other: a checkpoint whose network, which has this share, the weights are averaged with, or BICUBIC. The spline of
    the rectification keeps its precision: its matrix is badly conditioned, and float16 moves the picture.
    """
    trained = 'recognizer' if checkpoint.get('arch') == 'aster' else 'generator'
    network = network or trained
    weights = checkpoint.get(network, checkpoint.get('state_dict') if network == trained else None)
    if weights is None or 'arch' not in checkpoint:
        names = list(map(str, checkpoint))
        raise ValueError(f'no {network} of main.py in it; it holds {", ".join(names[:6])}'
                         + (f' and {len(names) - 6} more' if len(names) > 6 else ''))
    if other == BICUBIC:
        weights = towards_bicubic(weights, share)
    elif other is not None:
        others = export(other, network)['state_dict']
        if network == 'generator' and set(weights) != set(others):
            weights, others = map(without_batch_norm, (weights, others))
        weights = average(weights, others, share)
    iteration = checkpoint['progress']['iteration'] if 'progress' in checkpoint else checkpoint.get('iteration')
    state_dict = {name: value.to(dtype) if dtype and value.is_floating_point() and not name.startswith('tps.')
                  else value for name, value in weights.items()}
    return {'state_dict': state_dict, 'arch': checkpoint['arch'], 'iteration': iteration}


def main(argv=None):
    """Export; returns the exit status: 0, or 2 for a file that cannot be used."""
    args = parse_args(argv)
    path, share = args.average or (None, 0.0)
    try:
        content = export(load_checkpoint(args.checkpoint), args.network, None if args.float32 else torch.float16,
                         path if path in (None, BICUBIC) else load_checkpoint(path), share)
        save_weights(args.output, **content)
    except ValueError as error:
        files = f'{args.checkpoint}, --average {path}' if path else args.checkpoint
        print(f'export_weights.py: {files}: {error}', file=sys.stderr)
        return 2
    except OSError as error:
        print(f'export_weights.py: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(run_command(main))
