"""No tensor of a step is made elsewhere than where its images are.

Steps run with another default device than that of networks and batch, so that a tensor made without a word on its
device cannot be computed with: 'meta' beside the CPU, and the CPU beside CUDA where there is one.
"""
import copy
import os

import pytest
import torch
from helpers import TINY_ASTER
from torch.utils.data import DataLoader

from lib.datasets.samples import encode_labels
from lib.inference.evaluators import aster_reader, evaluate
from lib.models.aster import Aster
from lib.models.discriminator import Discriminator
from lib.models.generator import Generator
from lib.trainers import OptimizerStep, RecognizerTrainer, SuperResolutionTrainer
from lib.vocabulary import Vocabulary

WEIGHTS = {'content': 1.0, 'adversarial': 1e-3, 'tpl': 5e-4, 'vgg': 6e-3}


@pytest.fixture
def elsewhere(device):
    """A context in which tensors made without a device are on another one."""
    return torch.device('meta' if device.type == 'cpu' else 'cpu')


def optimizer_step(network):
    return OptimizerStep(torch.optim.Adam(network.parameters()), lambda step: 1.0, grad_clip=1.0)


def trained(trainer, batch, elsewhere):
    """What a step returns; one before makes the optimizers' states, which torch itself makes without a device."""
    batch = {**batch, 'label': ['sun', 'K9'], 'targets': encode_labels(['sun', 'K9'], Vocabulary())}
    trainer.step(batch)
    with elsewhere:
        return trainer.step(batch)


@pytest.mark.parametrize('options', [{'clip': 1.0}, {'anchor': 0.1}])
def test_super_resolution_training_stays_on_its_device(device, elsewhere, vgg, options):
    networks = {'generator': Generator(2, 1, 8).to(device), 'discriminator': Discriminator(4).to(device)}
    recognizer, vgg = Aster(**TINY_ASTER).freeze().to(device), copy.deepcopy(vgg).to(device)
    optimizers = {name: optimizer_step(network) for name, network in networks.items()}
    trainer = SuperResolutionTrainer(networks, optimizers, device, WEIGHTS, recognizer, Vocabulary(), vgg,
                                     tpl_options=options, ema=0.9)
    trained(trainer, {'hr': torch.rand(2, 3, 16, 32), 'lr': torch.rand(2, 3, 8, 16)}, elsewhere)


def test_recognizer_training_stays_on_its_device(device, elsewhere):
    recognizer = Aster(**TINY_ASTER).to(device)
    trainer = RecognizerTrainer({'recognizer': recognizer}, {'recognizer': optimizer_step(recognizer)}, device,
                                Vocabulary(), ema=0.9)
    trained(trainer, {'images': torch.zeros(2, 64, 256, 3, dtype=torch.uint8)}, elsewhere)


class Loader(DataLoader):
    """Draws a seed, as all do, on the CPU."""

    def __iter__(self):
        with torch.device('cpu'):
            return super().__iter__()


@pytest.mark.parametrize('beam_width', [1, 3])
def test_reading_stays_on_its_device(device, elsewhere, beam_width):
    """A test step: words enlarged, measured and read, in both protocols."""
    generator, recognizer = Generator(2, 1, 8).to(device).eval(), Aster(**TINY_ASTER).to(device).freeze()
    batch = {'index': [0, 1], 'label': ['sun', 'K9'], 'errors': [], 'original': [torch.rand(2, 3, 64, 256)],
             'small': [torch.rand(1, 3, 9, 20), None],
             'pairs': {(8, 16): (torch.rand(2, 3, 16, 32), torch.rand(2, 3, 8, 16))}}
    with elsewhere:
        reader = aster_reader(recognizer, Vocabulary(), beam_width)
        readings, _ = evaluate(Loader([batch], batch_size=None), 'words', reader, Vocabulary(),
                               {'srgan': generator}, device, below=(32, 64), with_hr=True)
    assert len(readings) == 2 * 4


def test_no_test_takes_a_gpu_unasked(request):
    assert request.config.getoption('markexpr') == 'cuda' or (
        os.environ['CUDA_VISIBLE_DEVICES'] == '' and not torch.cuda.is_available())
