"""Train one epoch, validate, test: what a run does with its networks. The numbers come back as plain floats."""
import contextlib
import math
import signal
import sys
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Optional

import numpy as np
import torch
from tqdm import tqdm

from lib.checkpoint import save_checkpoint
from lib.datasets.lmdb_dataset import LmdbDataset
from lib.datasets.loading import batches, make_loader
from lib.datasets.samples import EvalSamples, collate
from lib.inference.evaluation import WordReader, aster_reader, compare_words, evaluate
from lib.inference.tables import markdown, save_tables, summarize
from lib.runtime import distributed
from lib.runtime.interruption import Interrupted
from lib.runtime.logs import RunLog
from lib.trainers import Trainer, check_finite
from lib.vocabulary import Vocabulary


class NoReadableSamples(Exception):
    """No record of a set could be read."""


# ---------------------------------------------------------------------------------------------------------------- train

@dataclass
class Progress:
    """How far a run has come; a checkpoint holds it under 'progress'.

    epoch, iteration: finished ones. samples_seen: samples of the current epoch, over all processes; above zero, the end
    of that epoch (its validation, its line in the log) is still to come. best: highest validation accuracy so far.
    sums: {name: (sum, count)} of the numbers of the current epoch. unreadable: its records that could not be read.
    """

    epoch: int = 0
    samples_seen: int = 0
    iteration: int = 0
    best: float = -1.0
    sums: dict = field(default_factory=dict)
    unreadable: int = 0

    def add(self, numbers):
        for name, value in numbers.items():
            total, count = self.sums.get(name, (0.0, 0))
            self.sums[name] = (total + value, count + 1)

    def entry(self):
        """What log.txt holds of the current epoch: its number, counts, and the mean of each number."""
        means = {name: total / count for name, (total, count) in self.sums.items()}
        return {'epoch': self.epoch, 'iteration': self.iteration, 'unreadable': self.unreadable, **means}

    def next_epoch(self):
        self.epoch, self.samples_seen, self.sums, self.unreadable = self.epoch + 1, 0, {}, 0


@dataclass
class Run:
    """A training run: what it trains, how far it is, where it writes.

    reported: errors that were printed already. unread: (iteration, numbers) of the steps whose numbers are still on the
    device.
    """

    arch: str
    trainer: Trainer
    log: RunLog
    progress: Progress = field(default_factory=Progress)
    reported: set = field(default_factory=set)
    unread: list = field(default_factory=list)

    def read_numbers(self):
        """Add the numbers of the last steps, as means over the processes, to the progress and the log.

        Every process calls this at the same step, and waits for its device here. Returns the numbers of the last step;
        NonFiniteLoss, on every process, where one is NaN or infinite on any.
        """
        numbers = {}
        values = iter(distributed.mean([value for _, step in self.unread for value in step.values()]))
        for iteration, step in self.unread:
            numbers = dict(zip(step, values))
            check_finite(numbers)
            self.progress.add(numbers)
            self.log.scalars('train', numbers, iteration)
        self.unread.clear()
        return numbers

    def save(self, name='last.pth'):
        """Write a checkpoint to resume from, on rank 0; every process calls this at the same step.

        NonFiniteLoss, and no file, where a loss or a weight is NaN or infinite.
        """
        self.read_numbers()
        self.trainer.check_weights()
        for network in (*self.trainer.networks.values(), *self.trainer.averages.values()):
            distributed.average_buffers(network)
        unreadable = sum(distributed.gather([self.progress.unreadable]))
        self.progress.unreadable = unreadable if distributed.rank() == 0 else 0
        if distributed.rank() == 0:
            state = {'arch': self.arch, 'progress': asdict(self.progress), **self.trainer.state_dict()}
            save_checkpoint(self.log.folder / name, state)

    def load(self, state):
        """Continue from a checkpoint's `state`; ValueError where it is incomplete or of networks of another size."""
        try:
            self.trainer.load_state_dict(state)
            self.progress = Progress(**state['progress'])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(str(error)) from error
        if distributed.rank():
            self.progress.unreadable = 0  # rank 0 holds the count of all processes


def seed_step(seed, iteration, rank):
    """Seed torch's generators, of all devices, for one step of one process: so a resumed run draws what one that was
    never stopped draws, and no process draws what another one does."""
    rng = np.random.default_rng([seed, iteration, rank + 2])  # where 0 and 1 stand, the numbers are the sampler's
    torch.manual_seed(int(rng.integers(2 ** 63)))


def train_one_epoch(run, loader, total_steps, save_every, interruption, log_every=1):
    """Train on what is left of the epoch; after a signal saves and raises Interrupted.

    Whatever ends the run while it waits for data, a dead data worker too, ends it at once, after a save; several
    processes save together after a step, and what ends one of them while it waits leaves the last checkpoint.

    loader: batches of an `EpochSampler`. total_steps: iteration at which training ends. save_every: steps between
    checkpoints. log_every: steps after which their numbers are read from the device, those of all of them.
    """
    trainer, progress, sampler = run.trainer, run.progress, loader.batch_sampler
    samples_a_step = sampler.global_batch_size
    steps = max(0, min(len(loader), total_steps - progress.iteration))

    @contextlib.contextmanager
    def waiting():
        try:
            with interruption.at_once():
                yield
        except BaseException:
            bar.close()
            run.save()
            raise

    data = batches(loader, waiting if distributed.world() == 1 else contextlib.nullcontext)
    bar = tqdm(islice(data, steps), desc=f'epoch {progress.epoch + 1}', disable=distributed.rank() != 0,
               dynamic_ncols=True, unit_scale=samples_a_step, unit='image', total=steps,
               mininterval=0.1 if sys.stderr.isatty() else 10)  # seconds; a log file does not need every step
    for batch in bar:
        for error in sorted(set(batch['errors']) - run.reported):
            tqdm.write(f'unreadable, left out: {error}')  # each process knows its own records only
        run.reported.update(batch['errors'])
        progress.unreadable += len(batch['errors'])
        reading = (progress.iteration + 1) % log_every == 0
        # all processes step, or none does
        if not distributed.any_process(len(batch.get('label', ())) < trainer.least_words):
            seed_step(sampler.seed, progress.iteration, sampler.rank)
            run.unread.append((progress.iteration, trainer.step(batch, measure=reading)))
        progress.samples_seen += samples_a_step
        progress.iteration += 1
        if reading:
            numbers = run.read_numbers()
            bar.set_postfix({name: f'{value:.4g}' for name, value in numbers.items() if '/' not in name}, refresh=False)
        stopping = distributed.any_process(interruption.signal)
        if stopping or progress.iteration % save_every == 0:
            run.save()
        if stopping:
            bar.close()
            raise Interrupted(interruption.signal or signal.SIGTERM)  # the signal may have reached another process
    run.read_numbers()


# ------------------------------------------------------------------------------------------------- validation and tests

@dataclass
class Evaluation:
    """How words are read in validation and in tests: by the recognizer or another reader, the low resolution, the
    batches."""

    recognizer: torch.nn.Module
    vocabulary: Vocabulary
    device: torch.device
    ds_scale: int
    degradation: str
    seed: int
    batch_size: int
    workers: int
    beam_width: int
    other_reader: Optional[WordReader] = None
    read_both: bool = False  # in tests, see `evaluate`

    def reader(self):
        """The `WordReader` in use."""
        return self.other_reader or aster_reader(self.recognizer, self.vocabulary, self.beam_width)

    def samples(self, records, sizes_lr, below=None, indices=None):
        """The `EvalSamples` of these records for this reader and low resolution; arguments as there."""
        return EvalSamples(records, sizes_lr, self.ds_scale, self.degradation, below, indices, self.seed,
                           self.reader().prepare)

    def read(self, name, path, sizes_lr, methods, below=None, with_hr=False, read_both=False, report=None):
        """The `Reading`s of one LMDB folder, shared out over the processes; arguments as in `evaluate`.

        report: function of a line, for the records that could not be read; None prints to stderr.
        """
        records = LmdbDataset([path])
        shard = range(distributed.rank(), len(records), distributed.world())
        loader = make_loader(self.samples(records, sizes_lr, below, shard), self.workers, self.device, collate,
                             batch_size=self.batch_size)
        readings, errors = evaluate(loader, name, self.reader(), self.vocabulary, methods, self.device, below, with_hr,
                                    read_both)
        if errors and distributed.rank() == 0:
            report = report or (lambda line: print(line, file=sys.stderr))
            for error in errors:
                report(f'unreadable, not counted: {error}')
            report(f'{name}: {len(errors)} of {len(records)} records could not be read')
        return readings


def validate(evaluation, sets, size, methods, log, iteration):
    """Accuracy, PSNR and SSIM of every method, pooled over the validation sets, as {'method/figure': number}.

    sets: (name, path) of each. size: (height, width) of the low resolution. Tables and a sheet of words go to `log`.
    """
    training = evaluation.recognizer.training
    evaluation.recognizer.eval()
    readings = [reading for name, path in sets
                for reading in evaluation.read(name, path, [size], methods, with_hr=True, report=log.message)]
    rows = summarize(readings)
    pooled = [row for row in rows if len(sets) == 1 or row['set'] == 'combined']
    figures = {f'{row["method"]}/{name}': row[name] for row in pooled for name in ('accuracy', 'psnr', 'ssim')
               if row[name] is not None and math.isfinite(row[name])}
    log.message('\n' + markdown(rows, title=f'Validation after {iteration} steps: word accuracy (%)'))
    log.scalars('val', figures, iteration)
    if len(methods) > 1 and distributed.rank() == 0:
        samples = evaluation.samples(LmdbDataset([sets[0][1]]), [size])
        sheet = compare_words(samples, evaluation.reader(), evaluation.vocabulary, methods, evaluation.device, size)
        if sheet:
            log.picture('val', sheet, iteration)
    evaluation.recognizer.train(training)
    return figures


def test(evaluation, sets, sizes_lr, methods, folder, below=None):
    """Read every set with every method; prints the tables and saves them with all readings in `folder`.

    sets: (name, path or None) of each; one without a path is a row of dashes. below: see `evaluate`. NoReadableSamples
    where nothing could be read.
    """
    evaluation.recognizer.eval()
    readings = [reading for name, path in sets if path
                for reading in evaluation.read(name, path, sizes_lr, methods, below, read_both=evaluation.read_both)]
    if not readings:
        raise NoReadableSamples('--test_data_dir: not one word could be read')
    if distributed.rank() == 0:
        rows = summarize(readings)
        counted = ', case and symbols counted,' if evaluation.vocabulary.case_sensitive else ','
        by = f' of {evaluation.other_reader.name}' if evaluation.other_reader else ''
        text = markdown(rows, [name for name, _ in sets],
                        f'Word accuracy (%){by}{counted} by size of the low-resolution image', differences=True)
        print(text, flush=True)  # before it is saved: the disk may be full
        save_tables(Path(folder), rows, readings, text)
