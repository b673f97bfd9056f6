"""One training step of the two kinds of run: super-resolution with its losses, and the recognizer alone."""
import copy
import math

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lib.losses.adversarial import discriminator_loss, generator_loss
from lib.losses.content import content_loss
from lib.losses.text_perceptual import sequence_cross_entropy, text_perceptual_loss
from lib.runtime.device import autocast
from lib.runtime.distributed import unwrap

NETWORKS = ('generator', 'discriminator', 'recognizer')  # all that are trained, by the names that a checkpoint has


class NonFiniteLoss(FloatingPointError):
    """A loss, gradient or weight that became NaN or infinite; its text names it."""

    def __init__(self, what):
        super().__init__(f'{what}; the last checkpoint is kept. Try a lower --lr or --grad_clip 1')


def check_finite(numbers):
    """NonFiniteLoss that names the first of a dict of numbers which is not finite."""
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise NonFiniteLoss('the gradient is not finite' if name == 'gradient' else f'the {name} loss is {value}')


def cosine_schedule(total_steps, warmup, decay_steps=0):
    """Factor of the learning rate at a step: linear from 0 over `warmup` steps, 1, then half a cosine down to 0.01.

    The cosine takes the last `decay_steps` steps of total_steps, 0 for all after the warm-up.
    """
    start = max(warmup, total_steps - decay_steps if decay_steps else warmup)

    def factor(step):
        if step < warmup:
            return (step + 1) / warmup
        done = min(1.0, max(0, step - start) / max(1, total_steps - start))
        return 0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2
    return factor


class OptimizerStep:
    """An optimizer with its learning rate schedule, gradient clipping and loss scaler.

    grad_clip: largest norm of the gradient over all parameters, 0 for no limit. `skipped`, a tensor on the device,
    counts the steps that the scaler skipped because half precision overflowed.
    """

    def __init__(self, optimizer, schedule, grad_clip=0.0, scaler=None):
        self.optimizer, self.grad_clip, self.scaler = optimizer, grad_clip, scaler
        self.scheduler = LambdaLR(optimizer, schedule)
        self.skipped = 0

    def step(self, loss, retain_graph=False, measure=True):
        """Backward and one optimizer step, without waiting for the device unless there is a scaler.

        Only the gradients of this optimizer's parameters are computed. retain_graph: keep the graph for another loss.
        Returns {'gradient': its norm before clipping, 0 where the scaler skipped the step}; an empty dict where it is
        neither to be measured nor needed.
        """
        self.optimizer.zero_grad(set_to_none=True)
        scaler = self.scaler
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group['params']]
        (scaler.scale(loss) if scaler else loss).backward(inputs=parameters, retain_graph=retain_graph)
        if scaler:
            scaler.unscale_(self.optimizer)
        norm = None
        if measure or self.grad_clip or scaler:
            norm = nn.utils.clip_grad_norm_(parameters, self.grad_clip or math.inf)
        if scaler:
            finite = norm.isfinite()
            self.skipped, norm = self.skipped + ~finite, torch.where(finite, norm, 0)
            scaler.step(self.optimizer)
            scaler.update()
        else:
            self.optimizer.step()
        self.scheduler.step()
        return {} if norm is None else {'gradient': norm}

    def state_dict(self):
        return {'optimizer': self.optimizer.state_dict(), 'scheduler': self.scheduler.state_dict(),
                'scaler': self.scaler.state_dict() if self.scaler else {}, 'skipped': int(self.skipped)}

    def load_state_dict(self, state):
        """Continue from a state, at this run's own learning rates and schedule."""
        # which kernel computes the step depends on the device and torch of this run, not of the one that saved
        fused = self.optimizer.param_groups[0].get('fused')
        groups = [{**group, 'fused': fused} for group in state['optimizer']['param_groups']]
        self.optimizer.load_state_dict({**state['optimizer'], 'param_groups': groups})
        rates = self.scheduler.base_lrs
        self.scheduler.load_state_dict({**state['scheduler'], 'base_lrs': rates})
        for group, rate in zip(self.optimizer.param_groups, rates):
            group['initial_lr'] = rate
        self.go_to(self.scheduler.last_epoch)
        self.skipped = state['skipped']
        if self.scaler and state['scaler']:
            self.scaler.load_state_dict(state['scaler'])

    def go_to(self, step):
        """Set the learning rates to those of the schedule at `step`."""
        scheduler = self.scheduler
        scheduler.last_epoch = step
        for group, rate, factor in zip(self.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas):
            group['lr'] = rate * factor(step)


class Trainer:
    """What both kinds share: networks and their `OptimizerStep`s by name, and their state.

    ema: decay of the exponential moving average of the weights and batch norm statistics of every network but the
    discriminator; 0 for none. The average is what is validated, saved under the network's name and exported.
    least_words: how many a step needs, in the batch of each process.
    """

    least_words = 1

    def __init__(self, networks, optimizers, device, amp='off', ema=0.0):
        self.networks, self.optimizers, self.device, self.amp = networks, optimizers, device, amp
        self.averages = {name: frozen_copy(unwrap(network)) for name, network in networks.items()
                         if ema and name != 'discriminator'}
        self.move_averages = get_ema_multi_avg_fn(ema)

    def autocast(self):
        return autocast(self.amp, self.device)

    def to_device(self, batch, name):
        """A tensor of a batch, copied without waiting where its memory is pinned."""
        return batch[name].to(self.device, non_blocking=True)

    def check_weights(self):
        """NonFiniteLoss that names the first network with weights that are NaN or infinite."""
        for name, network in self.networks.items():
            if not torch.stack([parameter.detach().isfinite().all() for parameter in network.parameters()]).all():
                raise NonFiniteLoss(f'the weights of the {name} are not finite')

    def network(self, name):
        """The network to validate and to use afterwards: its moving average where there is one, unwrapped."""
        return self.averages[name] if name in self.averages else unwrap(self.networks[name])

    def update_averages(self):
        """Call after each optimizer step. Not by torch's AveragedModel, which waits for the device."""
        for name, average in self.averages.items():
            self.move_averages(floats(average), floats(unwrap(self.networks[name])), None)

    def state_dict(self):
        """The weights to use of each network under its name, and the state of the optimizers under 'updates'.

        Where the weights to use are averages, those that training continues from are under 'NAME_raw'.
        """
        return {**{name: self.network(name).state_dict() for name in self.networks},
                **{f'{name}_raw': unwrap(self.networks[name]).state_dict() for name in self.averages},
                'updates': {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}}

    def load_state_dict(self, state):
        """ValueError where the state is of another kind of run or of networks of another size.

        From a state without averages, they start at its weights; one with averages also loads into a run without them.
        """
        trained = [name for name in NETWORKS if name in state and 'updates' in state]
        if set(trained) != set(self.networks):
            raise ValueError(f'of another kind of run: it trains {", ".join(trained) or "nothing"}, this run '
                             f'{", ".join(self.networks)}')
        for name, network in self.networks.items():
            try:
                unwrap(network).load_state_dict(state.get(f'{name}_raw', state[name]))
                if name in self.averages:
                    self.network(name).load_state_dict(state[name])
            except RuntimeError as error:
                raise ValueError(f'its {name} does not fit: {str(error).splitlines()[1].strip()}') from error
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state['updates'][name])


def frozen_copy(network):
    """A copy of the network, whose parameters take no gradient."""
    network = copy.deepcopy(network)
    for parameter in network.parameters():  # not by the network's own method: `Aster` would fold the batch norm
        parameter.requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.RNNBase):
            module.flatten_parameters()  # cuDNN would do so at each use
    return network


def floats(network):
    """Weights and batch norm statistics, without the counts of batches."""
    return [tensor.detach() for tensors in (network.parameters(), network.buffers()) for tensor in tensors
            if tensor.is_floating_point()]


class SuperResolutionTrainer(Trainer):
    """Trains the generator with every loss that has a weight, and the discriminator where the adversarial one has.

    weights: {term: weight} of content, adversarial, tpl, vgg; terms of weight 0 are not computed. networks holds
    'generator', 'discriminator' (adversarial) and 'recognizer' (only where it is trained along); optimizers 'generator'
    and 'discriminator'. recognizer: computes the Text Perceptual Loss; tpl_options: its keywords. teacher: a generator
    whose output takes the place of the high-resolution image.
    """

    def __init__(self, networks, optimizers, device, weights, recognizer=None, vocabulary=None, vgg=None, amp='off',
                 tpl_options=None, ema=0.0, teacher=None):
        super().__init__(networks, optimizers, device, amp, ema)
        self.teacher = teacher
        self.weights = {term: weight for term, weight in weights.items() if weight > 0}
        self.recognizer, self.vocabulary, self.vgg, self.tpl_options = recognizer, vocabulary, vgg, tpl_options or {}
        self.generator, self.discriminator = networks['generator'], networks.get('discriminator')

    def step(self, batch, measure=True):
        """One step on hr (N, 3, H, W), lr (N, 3, h, w), targets (N, T), see `encode_labels`.

        Returns {name: 0-d tensor on the device}, each term raw and weighted; nothing waits for the device. measure:
        the norm of the gradient too.
        """
        hr, lr = self.to_device(batch, 'hr'), self.to_device(batch, 'lr')
        if self.teacher is not None:
            with torch.no_grad(), self.autocast():
                hr = self.teacher(lr).float()
        self.generator.train()
        with self.autocast():
            sr = self.generator(lr)
        sr = sr.float()
        # one D(fake) serves both losses: the discriminator is updated only after the generator
        fake_logits = None if self.discriminator is None else self.discriminate(sr)
        terms = self.losses(sr, hr, self.to_device(batch, 'targets'), fake_logits)
        weighted = {term: self.weights[term] * value for term, value in terms.items()}
        total = sum(weighted.values())
        numbers = {**terms, **{f'weighted/{term}': value for term, value in weighted.items()}, 'total': total}
        numbers.update(self.optimizers['generator'].step(total, fake_logits is not None, measure))
        unwrap(self.generator).level_phases()
        if fake_logits is not None:
            loss = numbers['discriminator'] = discriminator_loss(self.discriminate(hr), fake_logits)
            self.optimizers['discriminator'].step(loss, measure=False)
        self.update_averages()
        return {name: value.detach() for name, value in numbers.items()}

    def discriminate(self, images):
        """Logits (N,) of images (N, 3, H, W)."""
        self.discriminator.train()
        with self.autocast():
            return self.discriminator(images).float()

    def losses(self, sr, hr, targets, fake_logits=None):
        """Every term that has a weight, raw, by name; fake_logits are those of sr."""
        terms = {}
        if 'content' in self.weights:
            terms['content'] = content_loss(sr, hr)
        if 'adversarial' in self.weights:
            terms['adversarial'] = generator_loss(fake_logits)
        if 'tpl' in self.weights:
            with self.autocast():
                terms['tpl'] = text_perceptual_loss(self.recognizer, sr, targets, self.vocabulary.padding,
                                                    images_hr=hr, **self.tpl_options)
        if 'vgg' in self.weights:
            with self.autocast():
                terms['vgg'] = self.vgg(sr, hr).float()
        return terms


class RecognizerTrainer(Trainer):
    """Trains the recognizer with teacher forcing. networks and optimizers hold 'recognizer'."""

    def __init__(self, networks, optimizers, device, vocabulary, amp='off', ema=0.0):
        super().__init__(networks, optimizers, device, amp, ema)
        self.recognizer, self.vocabulary = networks['recognizer'], vocabulary
        if any(isinstance(module, nn.BatchNorm1d) for module in self.recognizer.modules()):
            self.least_words = 2  # one has no variance; --sync_bn replaces this class by one for all processes

    def step(self, batch, measure=True):
        """One step on 8-bit images (N, 64, 256, 3) and targets (N, T); returns the same kind of numbers."""
        images, targets = self.to_device(batch, 'images'), self.to_device(batch, 'targets')
        images = images.permute(0, 3, 1, 2).float() / 127.5 - 1  # NHWC -> NCHW in [-1, 1]
        self.recognizer.train()
        with self.autocast():
            logits = self.recognizer(images, targets)
        loss = sequence_cross_entropy(logits, targets, self.vocabulary.padding)
        norm = self.optimizers['recognizer'].step(loss, measure=measure)
        self.update_averages()
        return {'total': loss.detach(), **norm}
