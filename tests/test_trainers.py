import copy
import functools
import gc
import io
import math
import weakref
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from helpers import word_image
from PIL import Image
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lib.build import adam
from lib.checkpoint import load_aster, load_generator
from lib.datasets.degradation import degrade
from lib.datasets.samples import encode_labels
from lib.imaging import recognizer_input, resize, to_tensor
from lib.models.discriminator import Discriminator
from lib.models.generator import Generator
from lib.options import ASTER_PATH, SRRESNET_PATH
from lib.trainers import (
    NonFiniteLoss,
    OptimizerStep,
    RecognizerTrainer,
    SuperResolutionTrainer,
    check_finite,
    cosine_schedule,
)
from lib.vocabulary import Vocabulary

CPU = torch.device('cpu')
TERMS = ('content', 'adversarial', 'tpl', 'vgg')


def optimizer_step(*networks, lr=1e-3, grad_clip=0.0, schedule=lambda step: 1.0):
    parameters = [parameter for network in networks for parameter in network.parameters()]
    return OptimizerStep(torch.optim.Adam(parameters, lr), schedule, grad_clip)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return {'hr': torch.rand(2, 3, 16, 32, generator=generator), 'lr': torch.rand(2, 3, 8, 16, generator=generator),
            'targets': encode_labels(['sun', 'K9'], Vocabulary())}


@pytest.fixture
def build(tiny_aster):
    """build(weights, finetune=False) -> a trainer with new networks, always the same."""
    def make(weights, finetune=False, ema=0.0, **flags):
        torch.manual_seed(0)
        generator, recognizer = Generator(2, 1, 8), load_aster(tiny_aster).freeze().requires_grad_(finetune)
        with torch.no_grad():  # random ones pass the gradient on, those of a new recognizer hold it back
            recognizer.stn_head.stn_fc2.weight.normal_(std=0.01)
        networks, optimizers = {'generator': generator}, {}
        if finetune:
            networks['recognizer'] = recognizer
        optimizers['generator'] = optimizer_step(*networks.values(), **flags)
        if weights.get('adversarial'):
            networks['discriminator'] = Discriminator(4)
            optimizers['discriminator'] = optimizer_step(networks['discriminator'])
        return SuperResolutionTrainer(networks, optimizers, CPU, weights, recognizer, Vocabulary(),
                                      tpl_options={'clip': 1.0}, ema=ema, vgg=F.l1_loss)  # a stand-in
    return make


def copy_of(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def changed(network, before):
    return [name for name, value in network.state_dict().items() if not torch.equal(value, before[name])]


def gradients(network):
    return [parameter.grad for parameter in network.parameters() if parameter.grad is not None]


@pytest.mark.parametrize('term', ['content', 'adversarial', 'vgg'])
def test_each_loss_alone_is_lowered_by_training(build, batch, term):
    """The adversarial one too, against a discriminator that stays as it is."""
    trainer = build({term: 1.0}, lr=3e-3)
    if term == 'adversarial':
        trainer.optimizers['discriminator'].step = lambda loss, measure: None
    losses = [trainer.step(batch)[term] for _ in range(20)]
    assert losses[-1] < 0.98 * losses[0]


def test_the_perceptual_loss_teaches_the_generator_to_write_readable_words():
    """With the shipped networks, and that loss alone: the gradient through the whole recognizer has the right sign."""
    words = ['Hotel', 'exit']
    images = [Image.open(io.BytesIO(word_image(word, (40, 16)))).convert('RGB') for word in words]
    hr = resize(torch.stack([to_tensor(image) for image in images]), (32, 128))
    batch = {'hr': hr, 'lr': degrade(hr, 4), 'targets': encode_labels(words, Vocabulary())}
    generator, recognizer, vocabulary = load_generator(SRRESNET_PATH), load_aster(ASTER_PATH).freeze(), Vocabulary()
    trainer = SuperResolutionTrainer({'generator': generator}, {'generator': optimizer_step(generator)}, CPU,
                                     {'tpl': 1.0}, recognizer, vocabulary)

    losses = [trainer.step(batch)['tpl'] for _ in range(3)]
    assert losses[-1] < 0.5 * losses[0]
    with torch.no_grad():
        ids, _ = recognizer.decode(recognizer_input(generator.eval()(batch['lr'])))
    assert [vocabulary.decode(row) for row in ids.tolist()] == words


def test_the_perceptual_loss_changes_nothing_in_the_recognizer(build, batch):
    trainer = build({'tpl': 1.0})
    before = copy_of(trainer.recognizer)
    trainer.step(batch)
    assert changed(trainer.recognizer, before) == []
    assert gradients(trainer.recognizer) == []
    assert all(gradient.abs().max() > 0 for gradient in gradients(trainer.generator.tail))


def test_every_term_is_reported_raw_and_weighted(build, batch):
    weights = {'content': 1.0, 'adversarial': 1e-3, 'tpl': 5e-4, 'vgg': 6e-3}
    numbers = {name: value.item() for name, value in build(weights).step(batch).items()}
    for term, weight in weights.items():
        assert numbers[f'weighted/{term}'] == pytest.approx(weight * numbers[term])
    assert numbers['total'] == pytest.approx(sum(numbers[f'weighted/{term}'] for term in weights))
    assert set(numbers) == {'total', 'gradient', 'discriminator', *weights, *(f'weighted/{term}' for term in weights)}
    assert all(math.isfinite(value) for value in numbers.values())


@pytest.mark.parametrize('term', TERMS)
def test_terms_without_weight_are_not_computed(build, batch, term, monkeypatch):
    trainer = build({**dict.fromkeys(TERMS, 0.0), term: 1.0})
    functions = {'content': 'content_loss', 'adversarial': 'generator_loss', 'tpl': 'text_perceptual_loss'}
    for other in functions.keys() - {term}:
        monkeypatch.setattr(f'lib.trainers.{functions[other]}', mock.Mock(side_effect=AssertionError('computed')))
    if term != 'vgg':
        trainer.vgg = mock.Mock(side_effect=AssertionError('computed'))
    numbers = trainer.step(batch)
    assert set(numbers) - {'discriminator'} == {'total', 'gradient', term, f'weighted/{term}'}
    assert ('discriminator' in numbers) == (term == 'adversarial')


def test_a_step_keeps_nothing_of_the_one_before(build, batch):
    trainer, outputs = build(dict.fromkeys(TERMS, 1.0)), []
    trainer.generator.register_forward_hook(lambda _module, _inputs, output: outputs.append(weakref.ref(output)))
    trainer.step(batch)
    gc.collect()
    assert len(outputs) == 1 and outputs[0]() is None, 'a hook that holds images keeps every step in memory'


def test_the_output_of_a_teacher_is_the_target(build, batch):
    trainer = build({'content': 1.0})
    trainer.teacher = copy.deepcopy(trainer.generator)
    assert trainer.step(batch)['content'] == 0


def test_the_discriminators_loss_does_not_reach_the_generator(build, batch):
    alone, both = build({'content': 1.0}), build({'content': 1.0, 'adversarial': 1e-30})
    before = copy_of(both.discriminator)
    alone.step(batch)
    both.step(batch)
    assert changed(both.generator, copy_of(alone.generator)) == []
    weights = [name for name in changed(both.discriminator, before) if name.endswith('weight')]
    assert len(weights) == len([name for name in before if name.endswith('weight')])


def test_the_discriminators_gradient_is_that_of_its_own_loss(build, batch):
    """It looks at the generated images once, for both losses; that is as good as looking twice."""
    trainer, twice = build({'adversarial': 1.0}), build({'adversarial': 1.0})
    trainer.step(batch)
    with torch.no_grad():
        fake = twice.generator.train()(batch['lr'])
    loss = nn.functional.softplus(-twice.discriminate(batch['hr'])) + nn.functional.softplus(twice.discriminate(fake))
    (loss.mean() / 2).backward()
    for ours, theirs in zip(gradients(trainer.discriminator), gradients(twice.discriminator)):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)


def test_a_recognizer_that_is_trained_along_moves_but_for_its_statistics(build, batch):
    trainer = build({'tpl': 1.0}, finetune=True)
    before = copy_of(trainer.recognizer)
    trainer.step(batch)
    moved = changed(trainer.recognizer, before)
    assert {'encoder.layer0.0.weight', 'decoder.decoder.fc.weight', 'stn_head.stn_fc2.weight'} <= set(moved)
    assert not [name for name in moved if 'running' in name or 'num_batches' in name or name.startswith('tps.')]
    assert 'recognizer' in trainer.state_dict()


class Waits(TorchDispatchMode):
    """Notes what would wait for a GPU because it asks for the content of a tensor.

    Not that of optimizers, which count their steps in tensors on the CPU.
    """

    def __init__(self, optimizers):
        super().__init__()
        self.names, self.paused = [], False
        for optimizer in optimizers:  # not by hooks: torch 2.1 leaves them out once torch.compile was used
            optimizer.step = self.unnoted(optimizer.step)

    def unnoted(self, step):
        @functools.wraps(step)
        def paused_step():
            self.paused = True
            step()
            self.paused = False
        return paused_step

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if not self.paused and name in ('_local_scalar_dense', 'nonzero', 'is_nonzero', 'masked_select', 'equal'):
            self.names.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize('measure', [True, False])
def test_a_step_does_not_wait_for_the_device(build, batch, measure):
    trainer = build(dict.fromkeys(TERMS, 1.0), ema=0.5)
    with Waits(step.optimizer for step in trainer.optimizers.values()) as waits:
        numbers = trainer.step(batch, measure)
        assert float(numbers['total']) > 0
    assert waits.names == ['_local_scalar_dense']  # the one of this test
    assert ('gradient' in numbers) == measure


def test_the_norm_of_the_gradient_is_there_where_it_is_clipped(build, batch):
    assert 'gradient' in build({'content': 1.0}, grad_clip=1.0).step(batch, measure=False)


def test_a_number_that_is_not_finite_is_named():
    check_finite({'a': 1.0, 'gradient': 2.0})
    with pytest.raises(NonFiniteLoss, match='the b loss is inf; the last checkpoint is kept'):
        check_finite({'a': 1.0, 'b': math.inf, 'gradient': math.nan})
    with pytest.raises(NonFiniteLoss, match='the gradient is not finite'):
        check_finite({'a': 1.0, 'gradient': math.nan})


def test_weights_that_are_not_finite_are_named(build):
    trainer = build({'content': 1.0, 'adversarial': 1.0})
    trainer.check_weights()
    trainer.discriminator.features[0].bias.data[0] = math.nan
    with pytest.raises(NonFiniteLoss, match='the weights of the discriminator are not finite'):
        trainer.check_weights()


def test_gradient_clip_bounds_the_step_and_reports_the_norm_before():
    network = nn.Linear(2, 1, bias=False)
    optimizer = OptimizerStep(torch.optim.SGD(network.parameters(), 1.0), lambda step: 1.0, grad_clip=0.5)
    before = network.weight.detach().clone()
    assert optimizer.step(network(torch.tensor([[3.0, 4.0]])).sum())['gradient'].item() == pytest.approx(5)
    assert (network.weight - before).norm().item() == pytest.approx(0.5, rel=1e-4)


def test_cosine_schedule():
    factor = cosine_schedule(total_steps=110, warmup=10)
    assert [factor(step) for step in (0, 4, 9, 10)] == pytest.approx([0.1, 0.5, 1, 1])
    assert factor(60) == pytest.approx(0.505)
    assert factor(110) == factor(1000) == pytest.approx(0.01)
    assert all(factor(step + 1) <= factor(step) for step in range(10, 120))
    assert cosine_schedule(10, 0)(0) == 1


def test_cosine_schedule_of_the_last_steps():
    factor = cosine_schedule(total_steps=110, warmup=10, decay_steps=40)
    assert [factor(step) for step in (4, 9, 10, 70, 90, 110)] == pytest.approx([0.5, 1, 1, 1, 0.505, 0.01])
    assert cosine_schedule(20, 10, 100)(10) == 1  # decays not before the warm-up is over


def test_an_optimizer_follows_its_schedule_and_jumps_to_a_step():
    network = nn.Linear(1, 1)
    optimizer = optimizer_step(network, lr=2.0, schedule=lambda step: 1 / (1 + step))
    rates = []
    for _ in range(3):
        rates.append(optimizer.optimizer.param_groups[0]['lr'])
        optimizer.step(network(torch.ones(1, 1)).sum())
    assert rates == pytest.approx([2, 1, 2 / 3])
    optimizer.go_to(9)
    assert optimizer.optimizer.param_groups[0]['lr'] == pytest.approx(0.2)
    optimizer.step(network(torch.ones(1, 1)).sum())
    assert optimizer.optimizer.param_groups[0]['lr'] == pytest.approx(2 / 11)


@pytest.mark.skipif(torch.__version__ < (2, 4), reason='on a CPU it has one kernel')
@pytest.mark.parametrize('before, after', [(True, False), (False, True)])
def test_the_kernel_of_an_optimizer_is_that_of_the_machine_it_goes_on_with(before, after, monkeypatch):
    adam_of_all = torch.optim.Adam

    def of_old_torch(groups, rate, fused=False):
        if fused:
            raise RuntimeError('`fused=True` requires all the params to be CUDA')
        return adam_of_all(groups, rate)

    steps = []
    for fused in (before, after):
        with monkeypatch.context() as patches:
            if not fused:
                patches.setattr(torch.optim, 'Adam', of_old_torch)
            steps.append(OptimizerStep(adam(nn.Linear(1, 1).parameters(), 1e-3), lambda step: 1.0))
    steps[1].load_state_dict(copy.deepcopy(steps[0].state_dict()))
    assert [bool(step.optimizer.param_groups[0]['fused']) for step in steps] == [before, after]


def test_the_average_of_the_weights_follows_them_and_is_what_is_kept(build, batch):
    trainer = build({'content': 1.0, 'adversarial': 1e-3}, ema=0.75, lr=1e-2)
    expected = copy_of(trainer.generator)
    for _ in range(3):
        trainer.step(batch)
        for name, value in trainer.generator.state_dict().items():
            if value.is_floating_point():
                expected[name] = 0.75 * expected[name] + 0.25 * value
    state = trainer.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(state['generator'][name], value)
    assert changed(trainer.generator, state['generator_raw']) == []
    assert set(changed(trainer.generator, state['generator'])) > {'head.0.weight', 'tail.weight'}
    assert 'discriminator_raw' not in state and trainer.network('discriminator') is trainer.discriminator


@pytest.mark.parametrize('before, after', [(0.5, 0.0), (0.0, 0.5), (0.5, 0.5)])
def test_averages_can_be_begun_and_left_off(build, batch, before, after):
    first = build({'content': 1.0}, ema=before)
    first.step(batch)
    state = copy.deepcopy(first.state_dict())
    second = build({'content': 1.0}, ema=after)
    second.load_state_dict(state)
    assert changed(second.generator, copy_of(first.generator)) == []  # training goes on from the same weights
    kept = second.network('generator')
    assert changed(kept, state['generator' if after else 'generator_raw']) == []
    second.step(batch)
    assert bool(changed(kept, copy_of(second.generator))) == bool(after)


def test_a_state_of_another_kind_or_size_is_refused(build):
    state = build({'content': 1.0}).state_dict()
    with pytest.raises(ValueError, match='it trains generator, this run generator, discriminator'):
        build({'adversarial': 1.0}).load_state_dict(state)
    with pytest.raises(ValueError, match='it trains nothing, this run generator$'):
        build({'content': 1.0}).load_state_dict({'generator': state['generator']})
    along = build({'tpl': 1.0}, finetune=True)
    with pytest.raises(ValueError, match='it trains generator, this run generator, recognizer'):
        along.load_state_dict(state)
    with pytest.raises(ValueError, match='it trains generator, recognizer, this run generator$'):
        build({'tpl': 1.0}).load_state_dict(along.state_dict())
    state['generator'] = Generator(2, 2, 8).state_dict()
    with pytest.raises(ValueError, match='its generator does not fit'):
        build({'content': 1.0}).load_state_dict(state)


def test_the_recognizer_learns_two_words(tiny_aster):
    recognizer = load_aster(tiny_aster)
    optimizers = {'recognizer': optimizer_step(recognizer, lr=0.01)}
    trainer = RecognizerTrainer({'recognizer': recognizer}, optimizers, CPU, Vocabulary())
    torch.manual_seed(0)
    batch = {'images': torch.randint(256, (2, 64, 256, 3), dtype=torch.uint8),
             'targets': encode_labels(['sun', 'K9'], Vocabulary())}
    statistics = recognizer.encoder.layer0[1].running_mean.clone()
    losses = [trainer.step(batch)['total'] for _ in range(12)]
    assert losses[-1] < 0.8 * losses[0]
    assert not torch.equal(statistics, recognizer.encoder.layer0[1].running_mean)
