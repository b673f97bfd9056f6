"""Measure how fast reading, training, data and conversion are, against the usual ways of doing it.

    python3 -m utils.benchmark                         all parts, on words that are rendered first
    python3 -m utils.benchmark --parts reading --data_dir ./dataset/svt_647

Variants take turns; the fastest round of each counts. On a CPU this is the time of the process, which other programs do
not affect; on CUDA, and where workers or threads take part, wall-clock time.
"""
import contextlib
import io
import math
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from itertools import islice
from pathlib import Path
from unittest import mock

if not __package__:  # run as a file, Python looks for modules beside it; they are in the project's root
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import convert
from lib.inference.tables import markdown_table
from lib.options import ASTER_PATH, CheckedParser, HelpFormatter
from lib.options import parse_args as training_flags
from lib.runtime.console import open_output, run_command
from lib.runtime.system import available_cores
from lib.vocabulary import Vocabulary, vocabulary_of

PARTS = ('reading', 'training', 'data', 'conversion', 'share')


def parse_args(argv=None):
    parser = CheckedParser(description='Measure how fast reading, training, data and conversion are.',
                           formatter_class=HelpFormatter)
    parser.add_argument('--parts', nargs='+', choices=PARTS, default=list(PARTS), help='what to measure')
    parser.add_argument('--data_dir', help='LMDB folder of words (default: words are rendered)')
    parser.add_argument('--words', type=int, default=128, help='words to read')
    parser.add_argument('--images', type=int, default=500, help='images to convert')
    parser.add_argument('--rounds', type=int, default=2, help='rounds of each measurement; on CUDA better 20')
    parser.add_argument('--batch_size', type=int, default=16, help='images in a training step')
    parser.add_argument('--blocks', type=int, default=5, help='residual blocks of the generator that is trained')
    parser.add_argument('--beam_width', type=int, default=5, help='beams of the reading')
    parser.add_argument('--workers', type=int, nargs='+', default=[0, 1, 2], help='numbers of data workers to try')
    parser.add_argument('--threads', type=int, default=1, help='threads of torch on a CPU; conversion takes all cores')
    parser.add_argument('--aster_path', default=ASTER_PATH, help='recognizer')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda, cuda:1, ...')
    args = parser.parse_args(argv)
    for name in ('words', 'images', 'rounds', 'batch_size', 'blocks', 'beam_width', 'threads'):
        if getattr(args, name) < 1:
            parser.error(f'--{name} {getattr(args, name)}: must be above zero')
    if min(args.workers) < 0:
        parser.error(f'--workers {min(args.workers)}: must not be negative')
    return args



if __name__ == '__main__':
    open_output()
    parse_args()  # --help and wrong flags are answered here, before the seconds that it takes to import torch

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from lib import build
from lib.checkpoint import load_aster
from lib.datasets.lmdb_dataset import LmdbDataset
from lib.datasets.sampler import EpochSampler
from lib.datasets.samples import PairSamples, collate
from lib.imaging import read_image, recognizer_input, to_tensor
from lib.losses.adversarial import discriminator_loss, generator_loss
from lib.losses.content import content_loss
from lib.losses.text_perceptual import text_perceptual_loss
from lib.runtime.device import autocast, pick_amp, pick_device

# ------------------------------------------------------------------------------------------------------------ measuring

def peak_memory(device, reset=False):
    """Most memory in use since the last reset, MiB: of the device, or of the process where it is a CPU."""
    if device.type == 'cuda':
        if reset:
            torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.max_memory_allocated(device) / 2 ** 20
    with contextlib.suppress(OSError):  # Linux alone; elsewhere the peak is that of the whole run
        if reset:
            Path('/proc/self/clear_refs').write_text('5')
        line = next(line for line in Path('/proc/self/status').read_text().splitlines() if line.startswith('VmHWM'))
        return int(line.split()[1]) / 2 ** 10
    import resource  # which Windows lacks
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** 10


def seconds(function, device, clock=None):
    """(result of the function, time in s)."""
    clock = clock or (time.perf_counter if device.type == 'cuda' else time.process_time)
    started = clock()
    result = function()
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    return result, clock() - started


def measure(variants, device, rounds, clock=None):
    """{name: function} -> {name: (what it returned, fastest time in s, peak memory in MiB)}; they take turns."""
    results = {}
    for _ in range(rounds):
        for name, function in variants.items():
            peak_memory(device, reset=True)
            result, elapsed = seconds(function, device, clock)
            fastest = min(elapsed, results[name][1] if name in results else math.inf)
            results[name] = result, fastest, peak_memory(device)
    return results


def report(title, results, count, against=None):
    """Print a table: `count` images took each of the results its time; times as fast as the result `against`."""
    lines = [[name, f'{count / elapsed:.1f}', f'{1000 * elapsed / count:.2f}',
              f'{results[against][1] / elapsed:.2f}' if against else '-', f'{memory:.0f}']
             for name, (_, elapsed, memory) in results.items()]
    table = markdown_table(['variant', 'images/s', 'ms/image', 'times as fast', 'peak MiB'], '-rrrr', lines)
    print(f'\n{title}\n\n{table}', flush=True)


# -------------------------------------------------------------------------------------------------------------- reading

@torch.no_grad()
def usual_search(recognizer, columns, width, max_len=100):
    """Beam search (greedy: width 1) as usually written: always max_len steps, each projecting the columns of every
    beam anew; columns (N, W, C) of `Aster.encode`. Returns the ids of the N strings, those of `Aster.decode`."""
    cell, eos = recognizer.decoder.decoder, recognizer.decoder.eos
    unit, classes, count = cell.attention_unit, cell.fc.out_features, len(columns)
    columns = columns.repeat_interleave(width, 0)  # (N width, W, C)
    state = columns.new_zeros(1, len(columns), cell.gru.hidden_size)
    symbols = torch.full((len(columns),), recognizer.decoder.bos, device=columns.device)
    scores = columns.new_full((count, width), -math.inf)
    scores[:, 0] = 0
    ids = symbols.new_empty(len(columns), 0)
    ended = [[] for _ in range(count)]
    for _ in range(max_len):
        energy = unit.wEmbed(torch.tanh(unit.xEmbed(columns) + unit.sEmbed(state[0]).unsqueeze(1))).squeeze(2)
        context = torch.bmm(energy.softmax(1).unsqueeze(1), columns).squeeze(1)
        inputs = torch.cat([cell.tgt_embedding(symbols), context], dim=1)
        output, state = cell.gru(inputs.unsqueeze(1), state)
        totals = scores.view(-1, 1) + cell.fc(output.squeeze(1)).log_softmax(1)
        scores, picks = totals.view(count, -1).topk(width, dim=1)
        parents = (picks // classes + width * torch.arange(count, device=columns.device).unsqueeze(1)).flatten()
        symbols = (picks % classes).flatten()
        state, ids = state[:, parents], torch.cat([ids[parents], symbols.unsqueeze(1)], dim=1)
        done = (symbols == eos).view(count, width)
        for sample, beam in done.nonzero().tolist():
            ended[sample].append((scores[sample, beam].item(), ids[sample * width + beam].tolist()))
        scores = scores.masked_fill(done, -math.inf)
    for sample, strings in enumerate(ended):  # the first to end compete, then what is left
        strings += zip(scores[sample].tolist(), ids[sample * width:(sample + 1) * width].tolist())
    return [max(strings[:width])[1] for strings in ended]


def reading(args, data_dir, device):
    """Words read by the usual search and by ours; returns whether the strings are the same."""
    recognizer = load_aster(args.aster_path).freeze().to(device)
    vocabulary = vocabulary_of(recognizer.num_classes, recognizer.alphabet)
    dataset = LmdbDataset([data_dir])
    records = [dataset[index] for index in range(min(args.words, len(dataset)))]
    images = torch.cat([recognizer_input(to_tensor(record.image)[None]) for record in records if not record.error])
    images = images.to(device)

    def usual(width, amp):
        rows = []
        for batch in images.split(64):
            with autocast(amp, device):
                columns = recognizer.encode(batch)
            rows += usual_search(recognizer, columns, width)
        return [vocabulary.decode(row) for row in rows]

    def ours(width, amp):
        with autocast(amp, device):
            return [vocabulary.decode(row) for batch in images.split(64)
                    for row in recognizer.decode(batch, width)[0].tolist()]

    widths = {'greedy': 1, f'beam {args.beam_width}': args.beam_width}
    precisions = {'': 'off'}
    if pick_amp('auto', device) == 'bf16':
        precisions[', convolutions in bf16'] = 'bf16'

    variants = {'the encoder alone': lambda: [recognizer.encode(batch) for batch in images.split(64)]}
    for name, width in widths.items():
        for precision, amp in precisions.items():
            variants[f'{name}, usual{precision}'] = partial(usual, width, amp)
            variants[f'{name}{precision}'] = partial(ours, width, amp)
    with torch.no_grad():
        results = measure(variants, device, args.rounds)
    _, encoder, _ = alone = results.pop('the encoder alone')
    for name in widths:
        mine = {key: value for key, value in results.items() if key.startswith(name)}
        report(f'Reading {len(images)} words, {name}', {**mine, 'the encoder alone': alone}, len(images),
               f'{name}, usual')
        faster = (results[f'{name}, usual'][1] - encoder) / (results[name][1] - encoder)
        print(f'the decoder alone: {faster:.1f} times as fast')
        for precision in list(precisions)[1:]:
            differ = sum(map(str.__ne__, results[name][0], results[f'{name}{precision}'][0]))
            both = results[f'{name}, usual{precision}'][1] / results[f'{name}{precision}'][1]
            print(f'{both:.1f} times as fast where both are in bf16, which changes {differ} of {len(images)} strings')
    same = all(results[f'{name}, usual{precision}'][0] == results[f'{name}{precision}'][0]
               for name in widths for precision in precisions)
    print(f'identical strings: {"yes" if same else "NO"}')
    return same


# ------------------------------------------------------------------------------------------------------------- training

def build_trainer(args, device, amp='off', layout=None):
    """The trainer that main.py builds, with the losses of the usual step.

    layout: the memory format of all networks instead of its choice.
    """
    flags = training_flags(['--train_data_dir', '-', '--blocks', str(args.blocks), '--amp', amp,
                            '--aster_path', args.aster_path, '--tpl_anchor', '0', '--tpl_perturbation', '0'])
    torch.manual_seed(0)
    recognizer, vocabulary = build.build_recognizer(flags, device)
    trainer = build.build_trainer(flags, recognizer, vocabulary, device, total_steps=1000)
    for network in trainer.networks.values() if layout else ():
        network.to(memory_format=layout)
    return trainer


@mock.patch('lib.models.generator.conv_of_shuffled', lambda conv, x: conv(F.pixel_shuffle(x, 2)))
@mock.patch('lib.models.aster.resnet_aster.conv_bn', lambda conv, bn, x: bn(conv(x)))
@mock.patch('lib.models.aster.stn_head.conv_bn', lambda conv, bn, x: bn(conv(x)))
def usual_step(trainer, batch):
    """A step as usually written: D runs on the generated images once for each of the two losses."""
    hr, lr = batch['hr'].to(trainer.device), batch['lr'].to(trainer.device)
    trainer.generator.train()
    sr = trainer.generator(lr)
    trainer.discriminator.requires_grad_(False)
    terms = trainer.losses(sr, hr, batch['targets'].to(trainer.device), trainer.discriminate(sr))
    trainer.optimizers['generator'].step(sum(trainer.weights[term] * value for term, value in terms.items()))
    trainer.discriminator.requires_grad_(True)
    loss = discriminator_loss(trainer.discriminate(hr), trainer.discriminate(sr.detach()))
    trainer.optimizers['discriminator'].step(loss)


def training_batch(args, data_dir):
    """The first --batch_size readable words of an LMDB folder as pairs of 128x32 and 32x8, collated."""
    samples = PairSamples(LmdbDataset([data_dir], 100), [(32, 128)])
    pairs = (samples[index, index, 0] for index in range(len(samples.records)))
    usable = (sample for sample in pairs if 'hr' in sample)
    return collate(list(islice(usable, args.batch_size)), Vocabulary())


def train_step(args, data_dir, device):
    """A TextSR step in several ways of computing it."""
    batch = training_batch(args, data_dir)
    usual = build_trainer(args, device, layout=torch.contiguous_format)
    ours = build_trainer(args, device)
    name = 'as usual: float32, channels first'
    variants = {name: lambda: usual_step(usual, batch), 'float32, channels last': lambda: ours.step(batch)}
    half = build_trainer(args, device, 'bf16')
    chosen = pick_amp('auto', device) == 'bf16'  # what main.py does
    if chosen:
        variants['the same in bf16 autocast'] = lambda: half.step(batch)
    results = measure(variants, device, max(2, args.rounds))
    report(f'Training, {args.blocks} blocks, batches of {len(batch["label"])} at 128x32; main.py chooses the last',
           results, len(batch['label']), name)
    if not chosen:  # without units for it, bf16 is many times slower than float32: few images
        few = {key: value[:2] for key, value in batch.items()}
        results = measure({'float32': lambda: ours.step(few), 'bf16 autocast': lambda: half.step(few)}, device, 2)
        report('The same in batches of 2; this device has no units for bf16', results, 2, 'float32')


def share(args, data_dir, device):
    """How the time of a training step is divided, in the precision that main.py chooses."""
    amp = pick_amp('auto', device)
    batch, trainer = training_batch(args, data_dir), build_trainer(args, device, amp)
    hr, lr = batch['hr'].to(device), batch['lr'].to(device)
    sr = hr.clone().requires_grad_()
    samples = PairSamples(LmdbDataset([data_dir], 100), [(32, 128)], augmentation=1.0)
    trainer.step(batch)
    parameters = list(trainer.discriminator.parameters())

    def discriminator():
        fake = trainer.discriminate(sr)
        generator_loss(fake).backward(inputs=[sr], retain_graph=True)
        discriminator_loss(trainer.discriminate(hr), fake).backward(inputs=parameters)

    def generator():
        with trainer.autocast():
            made = trainer.generator(lr)
        content_loss(made.float(), hr).backward()

    def recognizer():
        with trainer.autocast():
            loss = text_perceptual_loss(trainer.recognizer, sr, batch['targets'].to(device), trainer.vocabulary.padding,
                                        images_hr=hr, **trainer.tpl_options)
        loss.backward()

    results = measure({
        'generator': generator, 'discriminator': discriminator, 'recognizer': recognizer,
        'optimizers': lambda: [step.optimizer.step() for step in trainer.optimizers.values()],
        'data, which workers make beside it': lambda: collate([samples[index, 0, 0] for index in range(len(hr))]),
    }, device, max(2, args.rounds))
    total = sum(elapsed for name, (_, elapsed, _) in results.items() if not name.startswith('data'))
    lines = [[name, f'{1000 * elapsed:.0f}', f'{elapsed / total:.0%}'] for name, (_, elapsed, _) in results.items()]
    print(f'\nShare of a training step, {args.blocks} blocks, batches of {len(hr)}, --amp {amp}\n')
    print(markdown_table(['part', 'ms', 'share'], '-rr', lines), flush=True)


# ------------------------------------------------------------------------------------------------- data and conversion

def data(args, data_dir, device):
    """Words read from the LMDB, degraded and stacked, by the number of workers."""
    samples = PairSamples(LmdbDataset([data_dir], 100), [(32, 128)], augmentation=1.0)
    batches = max(1, min(60, len(samples.records) // args.batch_size))

    def read(workers):
        sampler = EpochSampler(samples.records.lengths, args.batch_size, 1, epoch_size=batches * args.batch_size)
        loader = iter(DataLoader(samples, batch_sampler=sampler, num_workers=workers, collate_fn=collate))
        next(loader)  # the start of the workers does not count
        return seconds(lambda: sum(1 for _ in loader), torch.device('cpu'), time.perf_counter)

    results = {}
    for workers in args.workers:
        (_, elapsed), _, memory = measure({'': partial(read, workers)}, torch.device('cpu'), 1)['']
        results[f'-j {workers}'] = None, elapsed * batches / max(1, batches - 1), memory
    report(f'Data: {batches} batches of {args.batch_size} pairs, by workers', results, batches * args.batch_size,
           f'-j {args.workers[0]}')


def conversion(args, data_dir, device):
    """convert.py on a folder of word images, one by one and in batches; returns whether the results are the same."""
    records = LmdbDataset([data_dir])
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / 'images').mkdir()
        for index in range(min(args.images, len(records))):
            if not records[index].error:
                records[index].image.save(folder / 'images' / f'{index:05d}.png')

        def run(size):
            silent = io.TextIOWrapper(io.BytesIO())
            with contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent):
                return convert.main([
                    '--image_path', str(folder / 'images'), '--out_path', str(folder / str(size)), '--ds_scale', '4',
                    '--aster_path', args.aster_path, '--batch_size', str(size), '--device', str(device)])

        names = {1: 'one by one', 64: 'batches of 64'}
        torch.set_num_threads(available_cores())  # for both, as without this benchmark
        variants = {name: partial(run, size) for size, name in names.items()}
        results = measure(variants, device, 1, time.perf_counter)
        torch.set_num_threads(args.threads)
        paths = sorted(path.relative_to(folder / '1') for path in (folder / '1' / 'textsr').glob('*.png'))
        report(f'convert.py, {len(paths)} words in their own sizes', results, len(paths), names[1])
        worst = max(difference(folder / '1' / path, folder / '64' / path) for path in paths)
    print(f'largest difference of the results: {worst} of 255')
    return worst <= 1


def difference(path, other):
    """Largest difference of two images, in grey levels."""
    one, two = (to_tensor(read_image(str(image))).mul(255).round() for image in (path, other))
    return int((one - two).abs().max()) if one.shape == two.shape else 255


# ----------------------------------------------------------------------------------------------------------------- main

def main(argv=None):
    """Measure; returns the exit status: 0, 1 where results differ that must not, 2 for bad input."""
    args = parse_args(argv)
    torch.set_num_threads(args.threads)
    try:
        device = pick_device(args.device)
        with tempfile.TemporaryDirectory() as folder:
            data_dir = args.data_dir or str(Path(folder, 'words'))
            if not args.data_dir:
                script = str(Path(__file__).resolve().with_name('render_words.py'))
                subprocess.run([sys.executable, script, '--out', data_dir, '--count', str(args.images)], check=True,
                               stdout=subprocess.DEVNULL)
            records = LmdbDataset([data_dir])
            if all(records[index].error for index in range(len(records))):
                raise ValueError(f'{data_dir}: not one word can be read')
            print(f'{device}, {torch.get_num_threads()} threads, torch {torch.__version__}')
            same = []
            for name, part in (('reading', reading), ('training', train_step), ('share', share), ('data', data),
                               ('conversion', conversion)):
                if name in args.parts:
                    torch.backends.cudnn.benchmark = name in ('training', 'share')  # as main.py and convert.py do
                    same.append(part(args, data_dir, device))
        return 1 if False in same else 0
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        print(f'benchmark.py: {error}', file=sys.stderr)
        return 2


if __name__ == '__main__':
    sys.exit(run_command(main))
