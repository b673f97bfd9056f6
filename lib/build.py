"""Networks, trainer, data and methods from the flags of main.py."""
import json
import os
import shlex
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch

from lib.checkpoint import load_aster, load_checkpoint, load_generator
from lib.datasets.lmdb_dataset import LmdbDataset
from lib.datasets.loading import make_loader
from lib.datasets.sampler import EpochSampler
from lib.datasets.samples import PairSamples, ReadingSamples, collate
from lib.engine import Evaluation
from lib.inference.easyocr_reader import easyocr_reader
from lib.inference.enlarging import Method
from lib.inference.files import BICUBIC, method_paths
from lib.losses.vgg import VGGLoss
from lib.models.aster import Aster
from lib.models.discriminator import Discriminator
from lib.models.generator import Generator, adapt
from lib.options import TESTED, UNTRAINED, WEIGHTS
from lib.runtime import distributed
from lib.runtime.device import loss_scaler
from lib.trainers import OptimizerStep, RecognizerTrainer, SuperResolutionTrainer, cosine_schedule
from lib.vocabulary import Vocabulary, read_vocabulary, vocabulary_of


def check_folder(args, state=None):
    """OSError where nothing could be saved in --logs_dir, which would be found out after the work.

    ValueError where a run that does not go on from a checkpoint's `state` there starts from a checkpoint in it: its own
    one takes that place, and --resume would load it as that network.
    """
    path = Path(args.logs_dir).absolute()
    nearest = next(parent for parent in (path, *path.parents) if parent.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)):
        raise OSError(f'--logs_dir {args.logs_dir}: {nearest} is no folder that can be written to')
    if args.test or resumes_in_place(args, state):
        return
    written = [os.path.realpath(path / name) for name in ('last.pth', 'best.pth')]
    for flag in ('aster_path', 'generator_path', 'teacher_path'):
        given = getattr(args, flag)
        if given and os.path.realpath(given) in written:
            raise ValueError(f'--{flag} {given}: this run writes its own checkpoint there; choose another --logs_dir')


def check_networks(args):
    """Load what a training run needs besides the recognizer: OSError or ValueError where it cannot be had."""
    if args.generator_path:
        load_generator(args.generator_path)
    if args.teacher_path:
        build_teacher(args)
    if args.weights['vgg'] > 0:
        VGGLoss()


def check_sets(args):
    """Open every validation and test set, so that a missing one is found before any work is done."""
    for _, path in args.val_sets + args.test_sets:
        if path:
            LmdbDataset([path])


# ------------------------------------------------------------------------------------------------------------- networks

def build_recognizer(args, device):
    """The recognizer, frozen except with --arch aster and --finetune_aster, and its vocabulary."""
    recognizer, vocabulary = _recognizer(args)
    vocabulary.case_sensitive = args.case_sensitive
    if args.beam_width > len(vocabulary):
        raise ValueError(f'--beam_width {args.beam_width}: {args.aster_path} has {len(vocabulary)} classes')
    if args.arch != 'aster' or args.test:
        recognizer.freeze()
        # fine-tuned, it keeps its batch norm statistics: those of super-resolved batches would shift them
        recognizer.requires_grad_(args.finetune_aster and not args.test)
    return recognizer.to(device), vocabulary


def _recognizer(args):
    """The recognizer of --aster_path, for the characters of --voc_type where they are given, and its vocabulary."""
    wanted = read_vocabulary(args.voc_type) if args.voc_type else None
    if args.aster_path == 'none':
        vocabulary = wanted or Vocabulary()
        width = args.aster_width
        return Aster(len(vocabulary), width=width, decoder_dim=16 * width, attention_dim=16 * width, lstm_dim=8 * width,
                     stn_width=width, stn_dim=16 * width, alphabet=vocabulary.alphabet), vocabulary
    recognizer = load_aster(args.aster_path)
    vocabulary = vocabulary_of(recognizer.num_classes, recognizer.alphabet)
    if wanted and wanted.characters != vocabulary.characters:
        if args.arch != 'aster' or args.test:
            raise ValueError(f'--voc_type {args.voc_type}: {args.aster_path} has the classes of {vocabulary.voc_type}; '
                             '--arch aster trains it to others')
        known = [vocabulary.ids.get(character, vocabulary.unknown) for character in wanted.characters]
        recognizer.with_classes([*known, vocabulary.eos, vocabulary.padding, vocabulary.unknown], wanted.alphabet)
        if distributed.rank() == 0:
            print(f'--voc_type {args.voc_type}: {len(known) - known.count(vocabulary.unknown)} of its {len(known)} '
                  f'characters are known to {args.aster_path}; the others start as unknown', flush=True)
        vocabulary = wanted
    return recognizer, vocabulary


def adam(groups, rate):
    """Adam as one kernel, two times as fast, where this torch has it for the device of the parameters (CPU: 2.4)."""
    groups = list(groups)
    try:  # of copies: it writes `fused` into the groups before it refuses
        copies = [dict(group) if isinstance(group, dict) else group for group in groups]
        return torch.optim.Adam(copies, rate, fused=True)
    except RuntimeError:
        return torch.optim.Adam(groups, rate)


def build_teacher(args):
    """The generator of --teacher_path; ValueError where it has another scale."""
    teacher = load_generator(args.teacher_path).eval()
    if teacher.scale != args.ds_scale:
        raise ValueError(f'--teacher_path {args.teacher_path}: enlarges {teacher.scale} times; --ds_scale is '
                         f'{args.ds_scale}')
    return teacher


def build_trainer(args, recognizer, vocabulary, device, total_steps):
    """The trainer of --arch with its networks on the device, wrapped for several processes."""
    schedule = cosine_schedule(total_steps, args.warmup, args.decay_steps)

    def prepare(network):
        network = distributed.wrap(network.to(device, memory_format=torch.channels_last), device, args.sync_bn)
        # Sizes are few. A graph for any size cannot be resized in torch 2.1, nor gone through twice in new versions.
        return torch.compile(network, dynamic=False) if args.compile else network

    def optimizer(groups):
        scaler = loss_scaler(args.amp, device)
        return OptimizerStep(adam(groups, args.lr), schedule, args.grad_clip, scaler)

    if args.arch == 'aster':
        recognizer.decoder.teacher_dropout = args.teacher_dropout
        recognizer = distributed.wrap(recognizer.to(memory_format=torch.channels_last), device, args.sync_bn)
        optimizers = {'recognizer': optimizer(recognizer.parameters())}
        return RecognizerTrainer({'recognizer': recognizer}, optimizers, device, vocabulary, args.amp, args.ema)

    generator = (adapt(load_generator(args.generator_path), args.ds_scale) if args.generator_path else
                 Generator(args.ds_scale, args.blocks, args.maps))
    networks = {'generator': prepare(generator)}
    groups = [{'params': list(networks['generator'].parameters())}]
    if args.finetune_aster:
        recognizer = networks['recognizer'] = distributed.wrap(recognizer, device)
        groups.append({'params': list(recognizer.parameters()), 'lr': args.aster_lr})
    optimizers = {'generator': optimizer(groups)}
    if args.weights['adversarial'] > 0:
        networks['discriminator'] = prepare(Discriminator(args.disc_maps))
        optimizers['discriminator'] = optimizer(networks['discriminator'].parameters())
    vgg = VGGLoss().to(device) if args.weights['vgg'] > 0 else None
    teacher = build_teacher(args).to(device, memory_format=torch.channels_last) if args.teacher_path else None
    return SuperResolutionTrainer(networks, optimizers, device, args.weights, recognizer, vocabulary, vgg, args.amp,
                                  {'clip': args.tpl_clip, 'perturbation': args.tpl_perturbation,
                                   'anchor': args.tpl_anchor}, args.ema, teacher)


# -------------------------------------------------------------------------------------------------------- training data

def build_samples(args, vocabulary):
    """The training samples of --arch, and the sampler that orders them."""
    records = LmdbDataset(args.train_data_dir, args.max_len, vocabulary.ids)
    if args.arch == 'aster':
        reduced = (args.height // args.ds_scale, args.width // args.ds_scale) if args.read_reduced else None
        samples = ReadingSamples(records, args.augmentation, reduced, args.ds_scale, args.degradation)
    else:
        samples = PairSamples(records, args.hr_sizes, args.ds_scale, args.degradation, args.augmentation)
    sampler = EpochSampler(records.lengths, args.batch_size, args.seed, args.train_shares, args.epoch_size or None,
                           distributed.rank(), distributed.world())
    return samples, sampler


def build_loader(args, samples, sampler, vocabulary, device):
    """Batches of what is left of the sampler's epoch."""
    # a generator of its own: a resumed run starts one loader more, which must not draw from torch's
    generator = torch.Generator().manual_seed(args.seed + sampler.epoch)
    return make_loader(samples, args.workers, device, partial(collate, vocabulary=vocabulary),
                       batch_sampler=sampler, generator=generator)


# ------------------------------------------------------------------------------------------------- validation and tests

def build_evaluation(args, recognizer, vocabulary, device):
    """How validation and tests read; `recognizer` without the wrappers of training. ValueError as `easyocr_reader`."""
    other_reader = easyocr_reader() if args.reader == 'easyocr' else None
    return Evaluation(recognizer, vocabulary, device, args.ds_scale, args.degradation, args.seed, args.test_batch_size,
                      args.workers, args.beam_width, other_reader, args.read_both)


def build_methods(args, device):
    """{name: function that enlarges} of --methods; by default bicubic and the generators whose files exist."""
    own = {args.arch: args.generator_path} if args.generator_path else {}
    there = [name for name in TESTED[args.ds_scale] if (WEIGHTS / f'{name}.pth').exists()]
    paths = method_paths(args.methods or dict.fromkeys(['bicubic', *there, *own]), own)
    if own and args.arch not in paths:
        raise ValueError(f'--generator_path {args.generator_path}: tested as {args.arch}, which is none of --methods')
    methods = {}
    for name, path in paths.items():
        generator = load_generator(path) if path else None
        if generator and generator.scale != args.ds_scale:
            raise ValueError(f'{path}: enlarges {generator.scale} times; --ds_scale is {args.ds_scale}')
        methods[name] = Method(generator, scale=args.ds_scale, device=device, amp=args.amp)
    if args.read_both and (BICUBIC not in methods or len(methods) == 1):
        raise ValueError('--read_both: bicubic and another method must be among --methods')
    taken = [name for name in methods if args.read_both and f'{BICUBIC}+{name}' in methods]
    if taken:
        raise ValueError(f'--methods {BICUBIC}+{taken[0]}: the name of what --read_both reads; choose another')
    return methods


# --------------------------------------------------------------------------------------------------------------- resume

def read_resumed(args):
    """The checkpoint of --resume, else None; ValueError where it is of no run or of another --arch."""
    if args.resume is None or args.test:
        return None
    path = Path(args.resume)
    if args.resume == 'auto':
        path = Path(args.logs_dir) / 'last.pth'
        if not any(path.parent.glob('*.pth')):
            if distributed.rank() == 0:
                print(f'--resume: no checkpoint in {args.logs_dir} yet; starting from the beginning', flush=True)
            return None
    args.resume = str(path)
    state = load_checkpoint(path)
    if 'state_dict' in state:
        raise ValueError(f'--resume {path}: exported weights, no training run that could go on; start from them with '
                         f'{"--aster_path" if args.arch == "aster" else "--generator_path"}')
    if state.get('arch') != args.arch or 'progress' not in state:
        kind = f'a run of --arch {state["arch"]}' if 'arch' in state else 'no training run'
        raise ValueError(f'--resume {path}: {kind}; this run is --arch {args.arch}')
    before = flags_of_run(path)
    words = before.get('train_data_dir')
    if args.demo and words and not before.get('demo'):
        raise ValueError(f'--resume {path}: give its --train_data_dir too: {shlex.join(words)}')
    changed = changed_flags(before, vars(args))
    if changed and distributed.rank() == 0:
        print(f'--resume {path}: other flags than before: {", ".join(changed)}', flush=True)
    return state


def flags_of_run(path):
    """{flag: value} of the run of a checkpoint, from the args.json beside it; empty where there is none, or none of
    this program."""
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        flags = json.loads(Path(path).with_name('args.json').read_text(encoding='utf-8'))
        training_flags(flags)
        return flags
    return {}


def changed_flags(before, now):
    """'--lr 0.001 -> 0.0001' of each flag that bears on the training and differs between two runs' {flag: value}."""
    before, now = map(training_flags, (before, now))
    return [f'--{name} {before[name]} -> {now[name]}' for name in now if before.get(name, now[name]) != now[name]]


def training_flags(flags):
    """{flag: its value as on a command line} of those that bear on the training."""
    def text(value):
        return ' '.join(map(str, value)) if isinstance(value, list) else 'none' if value is None else str(value)

    flags = {**flags, **{f'{term}_weight': weight for term, weight in flags.get('weights', {}).items()}}
    sizes = [f'{width}x{height}' for height, width in flags.get('hr_sizes', ())]
    if sizes:  # one of width x height is the default
        flags['hr_sizes'] = None if sizes == [f'{flags["width"]}x{flags["height"]}'] else sizes
    return {name: text(value) for name, value in flags.items() if name not in UNTRAINED}


def resumes_in_place(args, state):
    """Whether the run goes on in the folder of the checkpoint that `state` is of, None for a run from the beginning."""
    return bool(state) and os.path.dirname(os.path.realpath(args.resume)) == os.path.realpath(args.logs_dir)


def resume(args, run, state, sampler):
    """Continue `run` from the checkpoint's `state`, in the middle of an epoch if need be."""
    try:
        run.load(state)
    except ValueError as error:
        raise ValueError(f'--resume {args.resume}: {error}') from error
    if not resumes_in_place(args, state):
        run.progress.best = -1.0  # that is of a best.pth in another folder
    if not args.max_steps:  # another number of processes or another batch size counts other steps
        progress, steps_an_epoch, before = run.progress, len(sampler), run.progress.iteration
        sampler.set_epoch(progress.epoch, progress.samples_seen)
        progress.iteration = (progress.epoch + 1) * steps_an_epoch - len(sampler)
        for optimizer in run.trainer.optimizers.values():  # which has made fewer steps where batches were left out
            optimizer.go_to(optimizer.scheduler.last_epoch + progress.iteration - before)
