"""Training and testing on a pretended device: no tensor may be made elsewhere than where the images are.

Fake tensors have a device and a shape but no content, and refuse to be mixed with those of another device. The device
is 'meta': fake tensors of 'cuda' cannot go backward without a driver.
"""
import contextlib
import functools

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader

from lib.datasets.samples import encode_labels
from lib.inference.evaluators import evaluate
from lib.losses.vgg import VGGLoss
from lib.models.aster import Aster
from lib.models.discriminator import Discriminator
from lib.models.generator import Generator
from lib.trainers import OptimizerStep, RecognizerTrainer, SuperResolutionTrainer
from lib.vocabulary import Vocabulary
from tests.conftest import TINY_ASTER

DEVICE = torch.device('meta')
TARGETS = encode_labels(['sun', 'K9'], Vocabulary())
WEIGHTS = {'content': 1.0, 'adversarial': 1e-3, 'tpl': 5e-4, 'vgg': 6e-3}


class Answers(TorchFunctionMode):
    """What a program asks of the content of tensors, answered: every number is 1, every condition true."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, '__name__', '')
        if name in ('tolist', 'item', '__float__', '__int__', '__bool__'):
            dtype = {'__float__': torch.float, '__int__': torch.int, '__bool__': torch.bool}.get(name, args[0].dtype)
            ones = np.ones(args[0].shape, str(dtype).split('.')[1])
            return ones.tolist()
        if name == 'nonzero':
            return torch.arange(len(args[0]), device=args[0].device).unsqueeze(1)
        return function(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def pretended(monkeypatch):
    monkeypatch.setattr(torch, 'autocast', lambda *_args, **_keywords: contextlib.nullcontext())  # has no such device
    monkeypatch.setattr(Aster, 'decode', functools.partialmethod(Aster.decode, max_len=2))  # all steps are alike
    monkeypatch.setattr('lib.models.aster.resnet_aster.BLOCKS', (1,) * 5)
    # torch.tensor makes tensors of 'meta' that are not fake: batch norm counts its batches in one
    with FakeTensorMode(allow_non_fake_inputs=True), Answers():
        yield


def built(make):
    """A network made on the device."""
    with DEVICE:
        return make()


def optimizer_step(network):
    return OptimizerStep(torch.optim.Adam(network.parameters()), lambda step: 1.0, grad_clip=1.0)


def train_super_resolution():
    networks = {'generator': built(lambda: Generator(2, 1, 8)), 'discriminator': built(lambda: Discriminator(4))}
    recognizer, vgg = built(lambda: Aster(**TINY_ASTER)).freeze(), built(lambda: VGGLoss(weights=None))
    optimizers = {name: optimizer_step(network) for name, network in networks.items()}
    trainer = SuperResolutionTrainer(networks, optimizers, DEVICE, WEIGHTS, recognizer, Vocabulary(), vgg,
                                     tpl_options={'clip': 1.0})
    return trainer.step({'hr': torch.rand(2, 3, 16, 32), 'lr': torch.rand(2, 3, 8, 16), 'targets': TARGETS})


def train_recognizer():
    recognizer = built(lambda: Aster(**TINY_ASTER))
    optimizers = {'recognizer': optimizer_step(recognizer)}
    trainer = RecognizerTrainer({'recognizer': recognizer}, optimizers, DEVICE, Vocabulary())
    return trainer.step({'images': torch.zeros(2, 64, 256, 3, dtype=torch.uint8), 'targets': TARGETS})


def read(beam_width):
    """A test step: words enlarged, measured and read, in both protocols."""
    generator = built(lambda: Generator(2, 1, 8)).eval()
    batch = {'index': [0, 1], 'label': ['sun', 'K9'], 'errors': [], 'original': torch.rand(2, 3, 64, 256),
             'small': [torch.rand(1, 3, 9, 20), None],
             'pairs': {(8, 16): (torch.rand(2, 3, 16, 32), torch.rand(2, 3, 8, 16))}}
    return evaluate(DataLoader([batch], batch_size=None), 'words', built(lambda: Aster(**TINY_ASTER)).freeze(),
                    Vocabulary(), {'srgan': generator}, DEVICE, below=(32, 64), with_hr=True,
                    beam_width=beam_width)[0]


def test_training_steps_stay_on_the_device():
    assert set(WEIGHTS) < set(train_super_resolution())
    assert set(train_recognizer()) == {'total', 'gradient'}


@pytest.mark.parametrize('beam_width', [1, 3])
def test_reading_stays_on_the_device(beam_width):
    assert len(read(beam_width)) == 2 * 4


# one place in each step: the function that makes a tensor, as if it had been told no device
@pytest.mark.parametrize(('name', 'step'), [
    ('torch.ones_like', train_super_resolution), ('torch.full', lambda: read(1)), ('torch.zeros_like', lambda: read(3)),
])
def test_a_tensor_on_another_device_is_noticed(name, step, monkeypatch):
    make = getattr(torch, name.split('.')[1])

    def on_the_cpu(first, *args, **keywords):
        keywords.pop('device', None)
        return make(first.cpu() if torch.is_tensor(first) else first, *args, **keywords)

    monkeypatch.setattr(name, on_the_cpu)
    with pytest.raises(RuntimeError, match='meta and cpu|cpu and meta|self .cpu. and values .meta'):
        step()
