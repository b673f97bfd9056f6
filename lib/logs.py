"""What a run leaves behind to be read: args.json, log.txt, TensorBoard scalars and pictures. Only rank 0 writes."""
import json
from pathlib import Path

import numpy as np
from tensorboardX import SummaryWriter
from tqdm import tqdm

from lib.checkpoint import written_beside


class RunLog:
    """The log of one run in a folder; `enabled=False` (other ranks) makes every method do nothing."""

    def __init__(self, folder, args, enabled=True):
        self.folder, self.args, self.enabled = Path(folder), args, enabled
        self.writer = None

    def start(self, epoch, iteration):
        """Open the log; entries that a resumed run will write again, from `epoch` on, are dropped."""
        if not self.enabled:
            return
        kept = [line for line in self._lines() if json.loads(line)['epoch'] < epoch]
        self._write('log.txt', ''.join(kept))
        self._write('args.json', json.dumps(vars(self.args), indent=1, sort_keys=True) + '\n')
        self.writer = SummaryWriter(str(self.folder / 'tensorboard'), purge_step=iteration or None)

    def _lines(self):
        path = self.folder / 'log.txt'
        return path.read_text(encoding='utf-8').splitlines(keepends=True) if path.exists() else []

    def _write(self, name, text):
        with written_beside(self.folder / name) as partial:
            partial.write_text(text, encoding='utf-8')

    def message(self, text):
        """A line for the person who watches, above the progress bar."""
        if self.enabled:
            tqdm.write(text)

    @staticmethod
    def means(sums):
        """{name: (sum, count)} -> {name: mean}."""
        return {name: total / count for name, (total, count) in sums.items()}

    def epoch(self, entry, seconds):
        """Add one JSON object to log.txt; `seconds` alone differs between two equal runs."""
        if self.enabled:
            self._write('log.txt', ''.join(self._lines()) + json.dumps({**entry, 'seconds': round(seconds, 1)}) + '\n')

    def scalars(self, group, numbers, iteration):
        if self.enabled:
            for name, value in numbers.items():
                self.writer.add_scalar(f'{group}/{name}', value, iteration)

    def picture(self, name, picture, iteration):
        """A PIL picture under TensorBoard's Images."""
        if self.enabled:
            self.writer.add_image(name, np.asarray(picture), iteration, dataformats='HWC')
