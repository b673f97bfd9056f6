"""Train and test TextSR. `python3 main.py --help` lists the flags; without flags it renders its own words."""
import os
import random
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from lib.datasets.lmdb_dataset import LmdbDataset
from lib.datasets.sampler import EpochSampler
from lib.datasets.samples import EvalSamples, PairSamples, ReadingSamples, collate
from lib.inference.evaluators import bicubic_enlarger, compare_words, evaluate, generator_enlarger
from lib.inference.tables import markdown, save_tables, summarize
from lib.losses.vgg import VGGLoss
from lib.models.aster import Aster
from lib.models.discriminator import Discriminator
from lib.models.generator import Generator
from lib.options import DEMO_WORDS, GENERATOR_PATHS, parse_args
from lib.runtime import distributed
from lib.runtime.checkpoint import load_aster, load_checkpoint, load_generator, save_checkpoint
from lib.runtime.interruption import Interrupted, Interruption, follow_main_process
from lib.runtime.logs import RunLog
from lib.trainers import NonFiniteLoss, RecognizerTrainer, SuperResolutionTrainer, Update, cosine_schedule
from lib.vocabulary import Vocabulary, vocabulary_of


class NothingCameOut(Exception):
    """No record could be read."""


def main(argv=None):
    """Run; returns the exit status: 0, 1 where nothing came out, 2 for bad input, 130 or 143 after a signal."""
    args = parse_args(argv)
    try:
        device = distributed.setup(distributed.pick_device(args.device))
        args.amp = distributed.pick_amp(args.amp, device)
        seed_everything(args.seed, args.deterministic)
        state = read_resumed(args)
        if args.demo:
            render_words()
        check_sets(args)
        recognizer, vocabulary = build_recognizer(args, device)
        if args.test:
            methods = build_methods(args, device)
        else:
            methods, recognizer = train(args, state, recognizer, vocabulary, device)
        if args.test_sets:
            test(args, methods, recognizer, vocabulary, device)
        return 0
    except (NonFiniteLoss, NothingCameOut) as error:
        print(f'main.py: {error}', file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(f'main.py: {error}', file=sys.stderr)
        return 2
    except Interrupted as stop:
        print(f'main.py: {stop}; go on with --resume', file=sys.stderr)
        return stop.exit_status
    except KeyboardInterrupt:
        return 130
    finally:
        distributed.shutdown()


# ---------------------------------------------------------------------------------------------------------------- build

def seed_everything(seed, deterministic):
    if deterministic:
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = not deterministic  # sizes are fixed in training
    torch.use_deterministic_algorithms(deterministic, warn_only=True)


def render_words():
    """Render the words of a run without training data, where they are not there yet."""
    script = Path(__file__).resolve().parent / 'utils' / 'render_words.py'
    for folder, (count, seed) in DEMO_WORDS.items():
        if distributed.rank() == 0 and not Path(folder, 'data.mdb').exists():
            print(f'no --train_data_dir: rendering {count} words into {folder}', flush=True)
            command = [sys.executable, str(script), '--out', folder, '--count', str(count), '--seed', str(seed)]
            if subprocess.run(command).returncode:
                raise OSError(f'{folder}: utils/render_words.py could not render it')
    distributed.gather([])  # all wait for the words


def check_sets(args):
    """All sets are there before any work is done on one."""
    for _, path in args.val_sets + args.test_sets:
        if path:
            LmdbDataset([path])


def build_recognizer(args, device):
    """The recognizer, frozen but for --arch aster and --finetune_aster, and its vocabulary."""
    if args.aster_path == 'none':
        vocabulary = Vocabulary(args.voc_type or 'ALLCASES_SYMBOLS')
        return Aster(len(vocabulary)).to(device), vocabulary
    recognizer = load_aster(args.aster_path)
    try:
        vocabulary = vocabulary_of(recognizer.num_classes)
    except ValueError as error:
        raise ValueError(f'{args.aster_path}: {error}') from error
    if args.voc_type not in (None, vocabulary.voc_type):
        raise ValueError(f'--voc_type {args.voc_type}: {args.aster_path} has the classes of {vocabulary.voc_type}')
    if args.beam_width > len(vocabulary):
        raise ValueError(f'--beam_width {args.beam_width}: {args.aster_path} has {len(vocabulary)} classes')
    if args.arch != 'aster' or args.test:
        recognizer.freeze()
        # trained along, it keeps its batch norm statistics: super-resolved batches would shift them
        recognizer.requires_grad_(args.finetune_aster and not args.test)
    return recognizer.to(device), vocabulary


def build_methods(args, device):
    """{name: function that enlarges} of --methods; by default bicubic and the generators that are there."""
    paths = {'srgan': args.srgan_path, 'textsr': args.textsr_path}
    if args.generator_path:
        paths = {**paths, args.arch: args.generator_path}
    names = args.methods or ['bicubic', *(name for name, path in paths.items() if Path(path).exists())]
    methods = {}
    for entry in names:
        name, _, path = entry.partition('=')
        path = path or paths.get(name)
        if name == 'bicubic':
            methods[name] = bicubic_enlarger(args.ds_scale)
        elif path is None:
            raise ValueError(f'--methods {name}: give bicubic, {", ".join(GENERATOR_PATHS)} or {name}=GENERATOR.pth')
        else:
            generator = load_generator(path)
            if generator.scale != args.ds_scale:
                raise ValueError(f'{path}: enlarges {generator.scale} times; --ds_scale is {args.ds_scale}')
            methods[name] = generator_enlarger(generator, device)
    return methods


def build_generator(args):
    """A new generator, or that of --generator_path."""
    if not args.generator_path:
        return Generator(args.ds_scale, args.blocks, args.maps)
    generator = load_generator(args.generator_path)
    if generator.scale != args.ds_scale:
        raise ValueError(f'--generator_path {args.generator_path}: enlarges {generator.scale} times; --ds_scale is '
                         f'{args.ds_scale}')
    return generator


def build_trainer(args, recognizer, vocabulary, device, total_steps):
    """The trainer of --arch with its networks on the device, wrapped for several processes."""
    schedule = cosine_schedule(total_steps, args.warmup, args.decay_steps)

    def prepare(network):
        network = distributed.wrap(network.to(device, memory_format=torch.channels_last), device, args.sync_bn)
        return torch.compile(network) if args.compile else network

    def update(groups):
        scaler = torch.amp.GradScaler(device.type) if args.amp == 'fp16' else None
        return Update(torch.optim.Adam(groups, args.lr), schedule, args.grad_clip, scaler)

    if args.arch == 'aster':
        recognizer = distributed.wrap(recognizer, device, args.sync_bn)
        updates = {'recognizer': update(recognizer.parameters())}
        return RecognizerTrainer({'recognizer': recognizer}, updates, device, vocabulary, args.amp, args.ema)

    networks = {'generator': prepare(build_generator(args))}
    groups = [{'params': list(networks['generator'].parameters())}]
    if args.finetune_aster:
        recognizer = networks['recognizer'] = distributed.wrap(recognizer, device)
        groups.append({'params': list(recognizer.parameters()), 'lr': args.aster_lr})
    updates = {'generator': update(groups)}
    if args.weights['adversarial'] > 0:
        networks['discriminator'] = prepare(Discriminator(args.disc_maps))
        updates['discriminator'] = update(networks['discriminator'].parameters())
    vgg = VGGLoss().to(device) if args.weights['vgg'] > 0 else None
    return SuperResolutionTrainer(networks, updates, device, args.weights, recognizer, vocabulary, vgg, args.amp,
                                  args.tpl_clip, args.ema)


# ---------------------------------------------------------------------------------------------------------------- train

def train(args, state, recognizer, vocabulary, device):
    """Train until --epochs or --max_steps, from a checkpoint's `state` or from the start.

    Returns what to test: methods, as `build_methods` does, and the recognizer.
    """
    characters = vocabulary.characters + vocabulary.characters.upper()  # LOWERCASE takes capitals too
    records = LmdbDataset(args.train_data_dir, args.max_len, characters)
    if args.arch == 'aster':
        reduced = (args.height // args.ds_scale, args.width // args.ds_scale) if args.read_reduced else None
        samples = ReadingSamples(records, args.augmentation, reduced, args.ds_scale)
    else:
        samples = PairSamples(records, args.height, args.width, args.ds_scale, args.degradation, args.augmentation)
    sampler = EpochSampler(records.lengths, args.batch_size, args.seed, args.train_shares, args.epoch_size or None,
                           distributed.rank(), distributed.world())
    total_steps = args.max_steps or args.epochs * len(sampler)
    trainer = build_trainer(args, recognizer, vocabulary, device, total_steps)
    progress = {'epoch': 0, 'position': 0, 'iteration': 0, 'best': -1.0, 'sums': {}, 'unreadable': 0}
    if state:
        progress = resume(args, trainer, state)
        if not args.max_steps:  # other processes or another batch size may have counted other steps
            steps_an_epoch = len(sampler)
            sampler.set_position(progress['epoch'], progress['position'])
            progress['iteration'] = (progress['epoch'] + 1) * steps_an_epoch - len(sampler)
            for update in trainer.updates.values():
                update.go_to(progress['iteration'])
    log = RunLog(args.logs_dir, args, enabled=distributed.rank() == 0)
    resumed_here = bool(state) and Path(args.resume).resolve().parent == Path(args.logs_dir).resolve()
    log.start(progress['epoch'], progress['iteration'], resumed_here)
    log.message(f'{len(records)} words to train on ({records.left_out} left out: empty or above --max_len '
                f'{args.max_len}; {records.outside} with characters outside {vocabulary.voc_type}), '
                f'{sampler.step_size} a step, {total_steps} steps on {device}')
    methods = {'bicubic': bicubic_enlarger(args.ds_scale)}
    if args.arch != 'aster':
        methods[args.arch] = generator_enlarger(trainer.network('generator'), device)
    if 'recognizer' in trainer.networks:  # its average, where there is one
        recognizer = trainer.network('recognizer')

    reported = set()
    with Interruption() as interruption:
        # a position above zero is an epoch whose end is still to come: its validation and its line in the log
        while progress['iteration'] < total_steps or progress['position']:
            started = time.time()
            train_one_epoch(args, trainer, samples, sampler, progress, total_steps, log, interruption, reported)
            if not progress['sums']:
                raise NothingCameOut(f'{", ".join(args.train_data_dir)}: not one word of the epoch could be read')
            save_run(args, trainer, progress, 'last.pth')
            entry = {'epoch': progress['epoch'], 'iteration': progress['iteration'],
                     'unreadable': progress['unreadable'], **log.means(progress['sums'])}
            if args.amp == 'fp16':
                entry['skipped'] = sum(update.skipped for update in trainer.updates.values())
            if args.val_data_dir:
                with interruption.at_once():
                    entry.update(validate(args, methods, recognizer, vocabulary, device, log, progress['iteration']))
                distributed.unwrap(recognizer).train(args.arch == 'aster')
            key = next((k for k in (f'{args.arch}/accuracy', 'none/accuracy') if k in entry), None)
            progress.update(epoch=progress['epoch'] + 1, position=0, sums={}, unreadable=0)
            if key and entry[key] > progress['best']:
                progress['best'] = entry[key]
                save_run(args, trainer, progress, 'best.pth')
            log.epoch(entry, seconds=time.time() - started)
            save_run(args, trainer, progress, 'last.pth')
            if distributed.any_process(interruption.signal, device):
                raise Interrupted(interruption.signal or signal.SIGTERM)
    log.message(f'done: {Path(args.logs_dir) / "last.pth"}')
    return methods, recognizer


def train_one_epoch(args, trainer, samples, sampler, progress, total_steps, log, interruption, reported):
    """The rest of an epoch from progress['position'] on; after a signal saves and raises Interrupted.

    reported: the errors that were told already.
    """
    sampler.set_position(progress['epoch'], progress['position'])
    steps = max(0, min(len(sampler), total_steps - progress['iteration']))
    # a generator of its own: whoever resumes starts one loader more, and must not draw from torch's for that
    generator = torch.Generator().manual_seed(args.seed + progress['epoch'])
    loader = DataLoader(samples, batch_sampler=sampler, num_workers=args.workers, collate_fn=collate,
                        pin_memory=trainer.device.type == 'cuda', worker_init_fn=follow_main_process,
                        generator=generator)
    bar = tqdm(islice(loader, steps), desc=f'epoch {progress["epoch"] + 1}', disable=distributed.rank() != 0,
               dynamic_ncols=True, unit_scale=sampler.step_size, unit='image', total=steps,
               mininterval=0.1 if sys.stderr.isatty() else 10)  # seconds; a file need not hold every step
    for batch in bar:
        for error in sorted(set(batch['errors']) - reported):
            tqdm.write(f'unreadable, left out: {error}')  # each process knows of its own records alone
        reported.update(batch['errors'])
        progress['unreadable'] += len(batch['errors'])
        if not distributed.any_process('label' not in batch, trainer.device):  # all step together or none does
            numbers = distributed.mean(trainer.step(batch), trainer.device)
            for name, value in numbers.items():
                total, count = progress['sums'].get(name, (0.0, 0))
                progress['sums'][name] = (total + value, count + 1)
            bar.set_postfix({name: f'{value:.4g}' for name, value in numbers.items() if '/' not in name},
                            refresh=False)
            log.scalars('train', numbers, progress['iteration'])
        progress['position'] += sampler.step_size
        progress['iteration'] += 1
        stopping = distributed.any_process(interruption.signal, trainer.device)
        if stopping or progress['iteration'] % args.save_every == 0:
            save_run(args, trainer, progress, 'last.pth')
        if stopping:
            bar.close()
            raise Interrupted(interruption.signal or signal.SIGTERM)  # it may have reached another process alone


def validate(args, methods, recognizer, vocabulary, device, log, iteration):
    """Accuracy, PSNR and SSIM of every method on the validation sets, as {'method/figure': number}."""
    distributed.unwrap(recognizer).eval()
    size = (args.height // args.ds_scale, args.width // args.ds_scale)
    readings = []
    for name, path in args.val_sets:
        readings += read_set(args, name, path, [size], methods, recognizer, vocabulary, device, with_hr=True,
                             log=log)[0]
    rows = summarize(readings)
    pooled = [row for row in rows if len(args.val_sets) == 1 or row['set'] == 'combined']
    figures = {f'{row["method"]}/{name}': row[name] for row in pooled for name in ('accuracy', 'psnr', 'ssim')
               if row[name] is not None}
    log.message('\n' + markdown(rows, title=f'Validation after {iteration} steps: word accuracy (%)'))
    log.scalars('val', figures, iteration)
    if args.arch != 'aster' and distributed.rank() == 0:
        records = LmdbDataset(args.val_data_dir[:1])
        samples = EvalSamples(records, [size], args.ds_scale, args.degradation, seed=args.seed)
        sheet = compare_words(samples, recognizer, vocabulary, methods, device, size)
        if sheet:
            log.picture('val', sheet, iteration)
    return figures


def save_run(args, trainer, progress, name):
    """Save all that a run needs to go on, from rank 0; every process calls this at the same step."""
    for network in (*trainer.networks.values(), *trainer.averages.values()):
        distributed.average_buffers(network)
    unreadable = sum(distributed.gather([progress['unreadable']]))
    progress['unreadable'] = unreadable if distributed.rank() == 0 else 0
    if distributed.rank() == 0:
        state = {'arch': args.arch, 'progress': progress, 'random': torch.get_rng_state(), **trainer.state_dict()}
        save_checkpoint(Path(args.logs_dir) / name, state)


def read_resumed(args):
    """The checkpoint of --resume, else None; ValueError where it is of no run or of another --arch."""
    if args.resume is None or args.test:
        return None
    path = Path(args.resume)
    if args.resume == 'auto':
        path = Path(args.logs_dir) / 'last.pth'
        if not any(path.parent.glob('*.pth')):
            print(f'--resume: no checkpoint in {args.logs_dir} yet; starting from the beginning', flush=True)
            return None
    args.resume = str(path)
    state = load_checkpoint(path)
    if state.get('arch') != args.arch or 'progress' not in state:
        kind = f'a run of --arch {state["arch"]}' if 'arch' in state else 'no training run'
        raise ValueError(f'--resume {path}: {kind}; this run is --arch {args.arch}')
    return state


def resume(args, trainer, state):
    """Load the state of a checkpoint into the trainer; returns the progress it was at."""
    try:
        trainer.load_state_dict(state)
        torch.set_rng_state(state['random'])
        # the count of all processes is with rank 0
        return {**state['progress'], 'unreadable': 0 if distributed.rank() else state['progress']['unreadable']}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f'--resume {args.resume}: {error}') from error


# ----------------------------------------------------------------------------------------------------------------- test

def read_set(args, name, path, sizes_lr, methods, recognizer, vocabulary, device, with_hr=False, below=None, log=None):
    """Readings of one LMDB folder, shared out over the processes, and the errors of the records that are damaged."""
    records = LmdbDataset([path])
    shard = range(distributed.rank(), len(records), distributed.world())
    samples = EvalSamples(records, sizes_lr, args.ds_scale, args.degradation, below, shard, args.seed)
    loader = DataLoader(samples, args.test_batch_size, num_workers=args.workers, collate_fn=collate,
                        pin_memory=device.type == 'cuda', worker_init_fn=follow_main_process)
    readings, errors = evaluate(loader, name, distributed.unwrap(recognizer), vocabulary, methods, device, below,
                                with_hr, args.beam_width)
    if errors and distributed.rank() == 0:
        report = log.message if log else lambda text: print(text, file=sys.stderr)
        for error in errors:
            report(f'unreadable, not counted: {error}')
        report(f'{name}: {len(errors)} of {len(records)} records could not be read')
    return readings, errors


def test(args, methods, recognizer, vocabulary, device):
    """Test every set with every method; prints the tables and saves them with all readings in --logs_dir."""
    below = (args.blur_h, args.blur_w) if args.single_test else None
    distributed.unwrap(recognizer).eval()
    readings = []
    for name, path in (entry for entry in args.test_sets if entry[1]):
        readings += read_set(args, name, path, args.lr_sizes, methods, recognizer, vocabulary, device, below=below)[0]
    if not readings:
        raise NothingCameOut('--test_data_dir: not one word could be read')
    if distributed.rank() == 0:
        rows = summarize(readings)
        text = markdown(rows, [name for name, _ in args.test_sets])
        save_tables(args.logs_dir, rows, readings, text)
        print(text)


if __name__ == '__main__':
    sys.exit(main())
