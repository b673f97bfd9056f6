"""Estimate what training costs at the released sizes, from counted operations and bytes.

    python3 -m utils.training_cost
"""
import os
import sys
import warnings
from unittest import mock

if not __package__:  # run as a file, Python looks for modules beside it; they are in the project's root
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from lib.options import CheckedParser, HelpFormatter
from lib.runtime.console import open_output, run_command
from lib.vocabulary import Vocabulary

RATES = (20, 40)  # TFLOP/s in use
JPEG_BYTES = 5_000  # of a word


def parse_args(argv=None):
    parser = CheckedParser(description='Estimate what training costs, from counted operations and bytes.',
                           formatter_class=HelpFormatter)
    parser.add_argument('--words', type=int, default=1_290_000, help='words in an epoch; the default is SynthText_hr')
    parser.add_argument('--epochs', type=int, default=10, help='epochs')
    args = parser.parse_args(argv)
    for name in ('words', 'epochs'):
        if getattr(args, name) < 1:
            parser.error(f'--{name} {getattr(args, name)}: must be above zero')
    return args


if __name__ == '__main__':
    open_output()
    parse_args()  # --help and wrong flags are answered here, before the seconds that it takes to import torch

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from lib.datasets.samples import encode_labels
from lib.losses.adversarial import discriminator_loss, generator_loss
from lib.losses.content import content_loss
from lib.losses.text_perceptual import text_perceptual_loss
from lib.models.aster import Aster
from lib.models.discriminator import Discriminator
from lib.models.generator import Generator


@mock.patch('lib.models.generator.conv_of_shuffled', lambda conv, x: conv(F.pixel_shuffle(x, 2)))  # as on a GPU
def step_flops(blocks=16, count=2):
    """Counted floating-point operations of a training step, per image at 128x32, of each part (released sizes)."""
    generator, discriminator, recognizer = Generator(4, blocks), Discriminator(), Aster().freeze()
    lr, hr = torch.rand(count, 3, 8, 32), torch.rand(count, 3, 32, 128)
    sr, vocabulary = hr.clone().requires_grad_(), Vocabulary()
    targets = encode_labels(['letters'] * count, vocabulary)  # seven, with EOS eight steps of the decoder

    def of(function):
        with warnings.catch_warnings(), FlopCounterMode(display=False) as counter:
            warnings.simplefilter('ignore')  # it warns about the settings that it leaves alone
            with torch.backends.mkldnn.flags(enabled=False):  # its LSTM is not counted
                function()
        return counter.get_total_flops() / count

    def adversarial_step():
        fake = discriminator(sr)
        generator_loss(fake).backward(inputs=[sr], retain_graph=True)
        discriminator_loss(discriminator(hr), fake).backward(inputs=list(discriminator.parameters()))

    return {'generator': of(lambda: content_loss(generator(lr), hr).backward()), 'discriminator': of(adversarial_step),
            'recognizer': of(lambda: text_perceptual_loss(recognizer, sr, targets, vocabulary.padding).backward())}


def main(argv=None):
    """Print the estimate."""
    args = parse_args(argv)
    words, epochs = args.words, args.epochs
    flops = step_flops()
    total = sum(flops.values())
    parameters = sum(p.numel() for model in (Generator(4, 16), Discriminator()) for p in model.parameters())
    print(f'Estimate (not measured): {words:,} words, {epochs} epochs, 16 blocks, 128x32, the recognizer as released')
    print('operations of a step per image: '
          + ' + '.join(f'{name} {value / 1e9:.1f}' for name, value in flops.items()) + f' = {total / 1e9:.1f} GFLOP')
    print(f'all: {words:,} x {epochs} x {total / 1e9:.1f} GFLOP = {words * epochs * total / 1e15:.0f} PFLOP')
    for rate in RATES:
        hours = words * epochs * total / (rate * 1e12) / 3600
        images = rate * 1e12 / total
        print(f'at {rate} TFLOP/s in use: {hours:.1f} h on one GPU, {hours / 8 / 0.9:.1f} h on eight (90% efficiency); '
              f'{images:.0f} images/s, {images * JPEG_BYTES / 1e6:.0f} MB/s of JPEG for each GPU')
    print(f'gradients to reduce among eight: {parameters:,} x 4 bytes = {4 * parameters / 1e6:.0f} MB a step')


if __name__ == '__main__':
    sys.exit(run_command(main))
