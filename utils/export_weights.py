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
import os
import sys

if not __package__:  # run as a file, Python looks for modules beside it; they are in the project's root
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from lib.inference.files import BICUBIC
from lib.options import SAVED_NETWORKS, CheckedParser
from lib.runtime.console import open_output, run_command
from lib.runtime.files import same_file


def parse_args(argv=None):
    parser = CheckedParser(description='Take the weights of one network out of a training checkpoint.')
    parser.add_argument('checkpoint', help='last.pth or best.pth of a run of main.py, or any file of weights')
    parser.add_argument('output', help='file to write; it holds {"state_dict": ..., "arch": ..., "iteration": ...}, '
                                       'the last two where the checkpoint has them; as NAME.safetensors the tensors, '
                                       'and the rest as metadata')
    parser.add_argument('--network', choices=SAVED_NETWORKS,
                        help='which one of a checkpoint that has both (default: the generator if there is one)')
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


if __name__ == '__main__':
    open_output()
    parse_args()  # --help and wrong flags are answered here, before the seconds that it takes to import torch

import torch

from lib.checkpoint import load_network, save_weights
from lib.models.generator import adapt


def averaged(model, network, path, share):
    """The state dict of the average with the network in a file, which has this share, or with BICUBIC.

    ValueError that names the path where they do not go together.
    """
    weights = model.state_dict()
    if path == BICUBIC:
        if network != 'generator':
            raise ValueError(f'--average {BICUBIC}: this is for a generator, not a {network}')
        return {name: value * (1 - share) if name.startswith('tail.') else value for name, value in weights.items()}
    other = load_network(path, network)[0]
    if network == 'recognizer' and model.alphabet != other.alphabet:
        raise ValueError(f'--average {path}: another alphabet')
    others = other.state_dict()
    if network == 'generator' and set(weights) != set(others):
        weights, others = (adapt(generator, generator.scale).state_dict() for generator in (model, other))
    sizes, other_sizes = ({name: value.shape for name, value in tensors.items()} for tensors in (weights, others))
    if sizes != other_sizes:
        raise ValueError(f'--average {path}: other layers or sizes')
    return {name: torch.lerp(value, others[name], share) if value.is_floating_point() else value
            for name, value in weights.items()}


def halved(weights):
    """A state dict in float16; ValueError that names a tensor that does not fit.

    The spline of the rectification keeps its precision: its matrix is badly conditioned, and float16 moves the picture.
    """
    halves = {name: value.half() if value.is_floating_point() and not name.startswith('tps.') else value
              for name, value in weights.items()}
    for name, half in halves.items():
        if not torch.equal(half.isfinite(), weights[name].isfinite()):
            raise ValueError(f'{name} has values too large for float16; give --float32')
    return halves


def about(checkpoint):
    """The 'arch' and the 'iteration' of a checkpoint's weights, a dict of those that it holds."""
    progress = checkpoint.get('progress')
    values = {'arch': checkpoint.get('arch'),
              'iteration': (progress if isinstance(progress, dict) else checkpoint).get('iteration')}
    return {name: value for name, value in values.items() if value is not None}


def main(argv=None):
    """Export; returns the exit status: 0, or 2 for a file that cannot be used."""
    args = parse_args(argv)
    try:
        if same_file(args.checkpoint, args.output):
            raise ValueError(f'{args.output}: is the checkpoint; name another file to write')
        model, network, checkpoint = load_network(args.checkpoint, args.network)
        weights = averaged(model, network, *args.average) if args.average else model.state_dict()
        save_weights(args.output, weights if args.float32 else halved(weights), **about(checkpoint))
    except (OSError, ValueError) as error:
        print(f'export_weights.py: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(run_command(main))
