"""Write a generator or a recognizer as ONNX, for onnxruntime and other programs.

    python3 -m utils.export_onnx weights/textsr.pth textsr.onnx
    python3 -m utils.export_onnx weights/aster_half.pth aster.onnx

Generator: images_lr (n, 3, height, width), float32 RGB in [0, 1], any n, height and width -> images_sr, not clamped.
Recognizer: images (n, 3, height, width) in [0, 1], of any size, resized inside -> logits (n, max_len, classes), decoded
greedily. A string ends at the first class `eos`; that and the characters, JSON both, are in the model's metadata.
Needs `pip install -r requirements-export.txt`.
"""
import contextlib
import importlib.util
import io
import json
import os
import sys
import warnings
from unittest import mock

if not __package__:  # run as a file, Python looks for modules beside it; they are in the project's root
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from lib.options import SAVED_NETWORKS, CheckedParser, HelpFormatter
from lib.runtime.console import open_output, run_command
from lib.runtime.files import same_file, written_beside
from lib.vocabulary import vocabulary_of


def parse_args(argv=None):
    parser = CheckedParser(description='Write a generator or a recognizer as ONNX.',
                           formatter_class=HelpFormatter)
    parser.add_argument('weights', help='file of weights or training checkpoint')
    parser.add_argument('output', help='file to write, such as textsr.onnx')
    parser.add_argument('--network', choices=SAVED_NETWORKS,
                        help='which one of a checkpoint that has both (default: the generator if there is one)')
    parser.add_argument('--max_len', type=int, default=25, help='recognizer: steps of its decoding, EOS included')
    args = parser.parse_args(argv)
    if args.max_len < 1:
        parser.error(f'--max_len {args.max_len}: must be above zero')
    return args


if __name__ == '__main__':
    open_output()
    parse_args()  # --help and wrong flags are answered here, before the seconds that it takes to import torch

import torch
import torch.nn.functional as F
from torch import nn

from lib.checkpoint import load_network
from lib.imaging import RECOGNIZER_SIZE


class GreedyReading(nn.Module):
    """A recognizer with its decoding in it, max_len steps for every image: (N, 3, H, W) in [0, 1] -> logits (N, T, C).

    Each step is given the likeliest class of the one before.
    """

    def __init__(self, recognizer, max_len):
        super().__init__()
        self.recognizer, self.max_len = recognizer, max_len

    def forward(self, images):
        # what `recognizer_input` does; that asks whether it need resize, and the answer would become part of the model
        images = F.interpolate(images.clamp(0, 1), RECOGNIZER_SIZE, mode='bilinear', antialias=True) * 2 - 1
        columns = self.recognizer.encode(images)
        head = self.recognizer.decoder
        state, keys, symbol_gates = head.start(columns)
        symbols = torch.full_like(columns[:, 0, 0], head.bos, dtype=torch.int64)
        logits = []
        for _ in range(self.max_len):
            state = head.decoder(state, symbol_gates[symbols].unsqueeze(1), columns, keys)
            logits.append(head.decoder.fc(state[:, 0]))
            symbols = logits[-1].argmax(1)
        return torch.stack(logits, dim=1)


def build(path, network=None, max_len=25):
    """What is exported of a file: the module, names of its input and output, an input to trace it with, metadata."""
    model, network, _ = load_network(path, network)
    if network == 'generator':
        model.eval().requires_grad_(False)
        return model, ('images_lr', 'images_sr'), torch.rand(2, 3, 8, 32), {'scale': model.scale}
    for module in model.freeze().modules():  # folds batch norm, and leaves RNNs in train mode
        module.training = False
    vocabulary = vocabulary_of(model.num_classes, model.alphabet)
    return (GreedyReading(model, max_len).eval(), ('images', 'logits'), torch.rand(2, 3, 32, 128),
            {'characters': vocabulary.characters, 'eos': vocabulary.eos})


def export(module, names, example, metadata):
    """The module as torch's ONNXProgram, batch, height and width dynamic; metadata: {name: JSON value}."""
    sides = {axis: torch.export.Dim(name) for axis, name in ((0, 'n'), (2, 'height'), (3, 'width'))}
    # one convolution for the last layer, simpler for other programs
    plain = mock.patch('lib.models.generator.conv_of_shuffled', lambda conv, x: conv(F.pixel_shuffle(x, 2)))
    with plain, warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter('ignore')  # of torch about its own parts
        program = torch.onnx.export(module, (example,), dynamo=True, dynamic_shapes=(sides,), input_names=names[:1],
                                    output_names=names[1:], verbose=False)
    program.model.metadata_props.update({name: json.dumps(value) for name, value in metadata.items()})
    return program


def largest_difference(path, module):
    """Between what onnxruntime and torch compute, over random images of three shapes."""
    import onnxruntime
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    differences = []
    for seed, shape in enumerate(((1, 3, 8, 32), (3, 3, 16, 64), (2, 3, 13, 57))):
        images = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
        found, = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        with torch.no_grad():
            differences.append((torch.from_numpy(found) - module(images)).abs().max().item())
    return max(differences)


def main(argv=None):
    """Export; returns the exit status: 0, or 2 for what is missing or cannot be used."""
    args = parse_args(argv)
    missing = [name for name in ('onnx', 'onnxscript', 'onnxruntime') if importlib.util.find_spec(name) is None]
    try:
        if missing:
            raise ValueError(f'needs {", ".join(missing)}: pip install -r requirements-export.txt')
        if same_file(args.weights, args.output):
            raise ValueError(f'{args.output}: is the file of weights; name another file to write')
        module, names, example, metadata = build(args.weights, args.network, args.max_len)
        try:
            program = export(module, names, example, metadata)
        except Exception as error:  # the exporter's own, of many kinds; TypeError: a torch without it
            reason = error.__cause__ or error  # the exporter's own text is the same for every cause
            raise ValueError(f'{args.weights}: torch {torch.__version__} could not export it, a newer one may '
                             f'({" ".join(str(reason).split())[:200]})') from error
        with written_beside(args.output) as partial:
            program.save(partial)
            difference = largest_difference(partial, module)
    except (OSError, ValueError) as error:
        print(f'export_onnx.py: {error}', file=sys.stderr)
        return 2
    print(f'{args.output}: {names[0]} -> {names[1]}; differs from torch by at most {difference:.1e}')
    return 0


if __name__ == '__main__':
    sys.exit(run_command(main))
