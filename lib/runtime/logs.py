"""The logs of a run: args.json, log.txt, TensorBoard scalars and pictures. Only rank 0 writes."""
import json
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tqdm import tqdm

from lib.runtime.files import written_beside
from lib.runtime.system import hold


class Events:
    """TensorBoard's event file of a run, written without a thread.

    tensorboardX's SummaryWriter writes in a thread: on a full disk that thread dies, and the run waits for its queue
    for ever. Here a write that fails is reported once, and the run continues without TensorBoard.
    """

    def __init__(self, folder, first_step):
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(folder / 'events'))
        # TensorBoard hides what a run wrote before it was resumed at an earlier step
        self.add(first_step, session_log=SessionLog(status=SessionLog.START))

    def add(self, step, **content):
        self._try(lambda: self._writer.write_event(Event(wall_time=time.time(), step=step, **content)))

    def flush(self):
        self._try(lambda: self._writer.flush())

    def _try(self, write):
        if self._writer is None:
            return
        try:
            write()
        except OSError as error:
            print(f'TensorBoard: could not be written ({error}); going on without it', file=sys.stderr)
            self._writer = None


class RunLog:
    """The log of one run in a folder; `enabled=False` (other ranks) makes every method do nothing."""

    def __init__(self, folder, args, enabled=True):
        self.folder, self.args, self.enabled = Path(folder), args, enabled
        self.events = self.lock = None

    def start(self, epoch, iteration, resumed=False):
        """Open the log. `resumed` in its folder: entries from `epoch` on, which will be written again, are dropped.

        Otherwise a run that is already in the folder is moved to earlier-1, earlier-2, ... in it; resumed from another
        checkpoint than its last one, copied there. The folder is held until `close`. ValueError where log.txt there is
        of another program, OSError where another run holds the folder.
        """
        if not self.enabled:
            return
        kept = self._entries_before(epoch)
        self._hold()
        if not resumed:
            self._set_aside()
            kept = []
        elif Path(self.args.resume).name != 'last.pth':
            self._set_aside(copy=True)
        self._write('log.txt', ''.join(kept))
        self._write('args.json', json.dumps(vars(self.args), indent=1, sort_keys=True) + '\n')
        for leftover in self.folder.glob('.*.partial'):
            leftover.unlink()  # of a run that was killed while it saved
        self.events = Events(self.folder / 'tensorboard', iteration)

    def close(self):
        """Let another run have the folder."""
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None

    def _hold(self):
        """OSError where another run is at work in the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for patience in range(20, -1, -1):  # a data worker of a killed run holds it until it has noticed
            try:
                self.lock = hold(self.folder)
                return
            except BlockingIOError:
                if not patience:
                    raise OSError(f'--logs_dir {self.folder}: another run is at work there; choose another folder'
                                  ) from None
                time.sleep(0.1)
            except OSError:  # a file system without locks
                return

    def _set_aside(self, copy=False):
        """Move the run in the folder to earlier-1, earlier-2, ... in it; copy: copy it, without TensorBoard.

        The checkpoint is moved last: if this is interrupted, the next run moves the rest.
        """
        if not (self._lines() or (self.folder / 'last.pth').exists()):
            return  # no run, or one that ended before its first checkpoint
        older = next(path for number in range(1, 10 ** 6) if not (path := self.folder / f'earlier-{number}').exists())
        older.mkdir()
        for name in ('log.txt', 'args.json', 'tensorboard', 'best.pth', 'last.pth'):
            if (self.folder / name).exists() and not (copy and name == 'tensorboard'):
                (shutil.copy2 if copy else os.rename)(self.folder / name, older / name)
        self.message(f'what the run in {self.folder} had after {self.args.resume} is kept in {older}' if copy else
                     f'the run that was in {self.folder} is in {older} now; --resume would have gone on with it')

    def _entries_before(self, epoch):
        """The lines of log.txt of earlier epochs."""
        kept = []
        for number, line in enumerate(self._lines(), 1):
            try:
                if json.loads(line)['epoch'] < epoch:
                    kept.append(line)
            except (ValueError, KeyError, TypeError):
                raise ValueError(f'{self.folder / "log.txt"}: line {number} is no entry of a log of main.py; move the '
                                 'file away or choose another --logs_dir') from None
        return kept

    def _lines(self):
        path = self.folder / 'log.txt'
        return path.read_text(encoding='utf-8', errors='replace').splitlines(keepends=True) if path.exists() else []

    def _write(self, name, text):
        with written_beside(self.folder / name) as partial:
            partial.write_text(text, encoding='utf-8')

    def message(self, text):
        """Print a line above the progress bar."""
        if self.enabled:
            tqdm.write(text)

    def epoch(self, entry, seconds):
        """Add one JSON object to log.txt; of two equal runs only `seconds` differs."""
        if self.enabled:
            self._write('log.txt', ''.join(self._lines()) + json.dumps({**entry, 'seconds': round(seconds, 1)}) + '\n')
            self.events.flush()

    def scalars(self, group, numbers, iteration):
        if self.enabled:
            for name, value in numbers.items():
                self.events.add(iteration, summary=summary.scalar(f'{group}/{name}', value))

    def picture(self, name, picture, iteration):
        """A PIL picture under TensorBoard's Images."""
        if self.enabled:
            self.events.add(iteration, summary=summary.image(name, np.asarray(picture), dataformats='HWC'))
