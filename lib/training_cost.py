"""What training costs at the released sizes, counted in operations and bytes: an estimate for the README."""
import warnings

import torch
from torch.utils.flop_counter import FlopCounterMode

from lib.losses.adversarial import discriminator_loss, generator_loss
from lib.losses.content import content_loss
from lib.losses.text_perceptual import text_perceptual_loss
from lib.models.aster import Aster
from lib.models.discriminator import Discriminator
from lib.models.generator import Generator
from lib.vocabulary import Vocabulary


def step_flops(blocks=16, characters=8, count=2):
    """Counted floating-point operations of a training step, per image at 128x32, of each part (released sizes)."""
    generator, discriminator, judge = Generator(4, blocks), Discriminator(), Aster().freeze()
    lr, hr = torch.rand(count, 3, 8, 32), torch.rand(count, 3, 32, 128)
    sr, vocabulary = hr.clone().requires_grad_(), Vocabulary()
    labels = ['a' * (characters - 1)] * count

    def of(function):
        with warnings.catch_warnings(), FlopCounterMode(display=False) as counter:
            warnings.simplefilter('ignore')  # the switch speaks of what was not touched
            with torch.backends.mkldnn.flags(enabled=False):  # its LSTM is not counted
                function()
        return counter.get_total_flops() / count

    def look():
        fake = discriminator(sr)
        generator_loss(fake).backward(inputs=[sr], retain_graph=True)
        discriminator_loss(discriminator(hr), fake).backward(inputs=list(discriminator.parameters()))

    return {'generator': of(lambda: content_loss(generator(lr), hr).backward()), 'discriminator': of(look),
            'recognizer': of(lambda: text_perceptual_loss(judge, vocabulary, sr, labels).backward())}


def estimate(words=1_290_000, epochs=10, tera=(20, 40), jpeg_bytes=5_000):
    """Print what training on SynthText_hr costs, from counted operations; an estimate, no measurement."""
    flops = step_flops()
    total = sum(flops.values())
    parameters = sum(p.numel() for model in (Generator(4, 16), Discriminator()) for p in model.parameters())
    print(f'\nEstimate (not measured): {words:,} words, {epochs} epochs, 16 blocks, 128x32, the recognizer as released')
    print('operations of a step per image: '
          + ' + '.join(f'{name} {value / 1e9:.1f}' for name, value in flops.items()) + f' = {total / 1e9:.1f} GFLOP')
    print(f'all: {words:,} x {epochs} x {total / 1e9:.1f} GFLOP = {words * epochs * total / 1e15:.0f} PFLOP')
    for rate in tera:
        hours = words * epochs * total / (rate * 1e12) / 3600
        images = rate * 1e12 / total
        print(f'at {rate} TFLOP/s in use: {hours:.1f} h on one GPU, {hours / 8 / 0.9:.1f} h on eight (90% efficiency); '
              f'{images:.0f} images/s, {images * jpeg_bytes / 1e6:.0f} MB/s of JPEG for each GPU')
    print(f'gradients to reduce among eight: {parameters:,} x 4 bytes = {4 * parameters / 1e6:.0f} MB a step')
