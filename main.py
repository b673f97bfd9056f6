"""Train and test TextSR. `python3 main.py --help` lists the flags; without flags it renders its own words."""
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

from lib.options import DEMO_WORDS, parse_args
from lib.runtime.console import open_output, run_command

if __name__ == '__main__':
    open_output()
    parse_args()  # --help and wrong flags are answered here, before the seconds that it takes to import torch

import torch

from lib import build, engine
from lib.datasets.loading import DataWorkerDied
from lib.inference.enlarging import Method
from lib.runtime import distributed
from lib.runtime.device import is_out_of_memory, pick_amp, pick_device
from lib.runtime.interruption import Interrupted, Interruption
from lib.runtime.logs import RunLog
from lib.runtime.system import keep_freed_memory
from lib.trainers import NonFiniteLoss


def main(argv=None):
    """Run; returns the exit status: 0, 1 where nothing came out, 2 for bad input, 130 or 143 after a signal."""
    args, together = parse_args(argv), False
    try:
        device = pick_device(args.device)
        distributed.setup(device)
        args.amp = pick_amp(args.amp, device)
        seed_everything(args.seed, args.deterministic)
        state = build.read_resumed(args)
        build.check_folder(args, state)
        recognizer, vocabulary = build.build_recognizer(args, device)
        if args.demo:
            build.check_networks(args)
            render_words()
        build.check_sets(args)
        evaluation = build.build_evaluation(args, recognizer, vocabulary, device)
        methods = build.build_methods(args, device) if args.test else train(args, evaluation, state)
        if args.test_sets:
            torch.backends.cudnn.benchmark = False
            below = (args.blur_h, args.blur_w) if args.single_test else None
            engine.test(evaluation, args.test_sets, args.lr_sizes, methods, args.logs_dir, below)
        together = True
        return 0
    except (NonFiniteLoss, engine.NoReadableSamples, DataWorkerDied) as error:
        print(f'main.py: {error}', file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(f'main.py: {error}', file=sys.stderr)
        return 2
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        print(f'main.py: out of memory; a smaller {"--test_batch_size" if args.test else "--batch_size"} or smaller '
              'sizes of images need less', file=sys.stderr)
        return 1
    except Interrupted as stop:  # of all processes at the same step
        together = True
        print(f'main.py: {stop}; go on with --resume', file=sys.stderr)
        return stop.exit_status
    except KeyboardInterrupt:
        return 130
    finally:
        distributed.shutdown(together)
        for worker in multiprocessing.active_children():
            worker.kill()  # one that is stuck would be waited for at the end


def train(args, evaluation, state=None):
    """Train until --epochs or --max_steps, from a checkpoint's `state` if there is one; returns the methods to test."""
    device, vocabulary = evaluation.device, evaluation.vocabulary
    if device.type == 'cpu':
        keep_freed_memory()
    samples, sampler = build.build_samples(args, vocabulary)
    total_steps = args.max_steps or args.epochs * len(sampler)
    trainer = build.build_trainer(args, evaluation.recognizer, vocabulary, device, total_steps)
    run = engine.Run(args.arch, trainer, RunLog(args.logs_dir, args, enabled=distributed.rank() == 0))
    if state:
        build.resume(args, run, state, sampler)
    progress, log = run.progress, run.log
    log.start(progress.epoch, progress.iteration, build.resumes_in_place(args, state))
    records = samples.records
    log.message(f'{len(records)} words to train on ({records.left_out} left out: empty or above --max_len '
                f'{args.max_len}; {records.outside} with characters outside {vocabulary.voc_type}), '
                f'{sampler.global_batch_size} a step, {total_steps} steps on {device}')
    if args.warmup > total_steps:
        log.message(f'--warmup {args.warmup}: more than the {total_steps} steps, so the learning rate never gets to '
                    f'--lr {args.lr:g}; give less')
    methods = {'bicubic': Method(scale=args.ds_scale)}
    if args.arch != 'aster':
        methods[args.arch] = Method(trainer.network('generator'), device=device, amp=args.amp)
    if 'recognizer' in trainer.networks:
        evaluation.recognizer = trainer.network('recognizer')  # its moving average, where there is one
    size_lr = (args.height // args.ds_scale, args.width // args.ds_scale)
    chosen_by = args.arch if args.arch != 'aster' else 'bicubic' if args.read_reduced else 'none'  # best.pth
    log_every = args.log_every or (10 if device.type == 'cuda' else 1)
    torch.backends.cudnn.benchmark = not args.deterministic  # batches have few sizes; those of a test have many

    with closing(log), Interruption() as interruption:
        while progress.iteration < total_steps or progress.samples_seen:
            started = time.time()
            sampler.set_epoch(progress.epoch, progress.samples_seen)
            loader = build.build_loader(args, samples, sampler, vocabulary, device)
            engine.train_one_epoch(run, loader, total_steps, args.save_every, interruption, log_every)
            if not progress.sums:
                raise engine.NoReadableSamples(
                    f'{", ".join(args.train_data_dir)}: too few words of the epoch could be read for one step')
            run.save()
            entry = progress.entry()
            if args.amp == 'fp16':
                entry['skipped'] = sum(int(optimizer.skipped) for optimizer in trainer.optimizers.values())
            if args.val_sets:
                with interruption.at_once():
                    entry.update(engine.validate(evaluation, args.val_sets, size_lr, methods, log, progress.iteration))
            progress.next_epoch()
            accuracy = entry.get(f'{chosen_by}/accuracy', -1.0)
            if accuracy > progress.best:
                progress.best = accuracy
                run.save('best.pth')
            log.epoch(entry, seconds=time.time() - started)
            run.save()
            if distributed.any_process(interruption.signal):
                raise Interrupted(interruption.signal or signal.SIGTERM)
    log.message(f'done: {Path(args.logs_dir) / "last.pth"}' + (plotting(args.logs_dir) if args.val_sets else ''))
    return methods


def plotting(logs_dir):
    """The end of a run's last line: the command that draws its accuracy."""
    script = os.path.relpath(Path(__file__).resolve().parent / 'utils' / 'plot_training.py')
    picture = Path(logs_dir) / 'training.png'
    return f'; to draw its accuracy over the steps: {shlex.join(["python3", script, logs_dir, "--out", str(picture)])}'


def seed_everything(seed, deterministic):
    """Seed torch on all devices; deterministic: operations without a deterministic form are errors."""
    if deterministic:
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    torch.manual_seed(seed)
    if deterministic != torch.are_deterministic_algorithms_enabled():  # the call imports the compiler: seconds
        torch.use_deterministic_algorithms(deterministic)


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


if __name__ == '__main__':
    sys.exit(run_command(main))
