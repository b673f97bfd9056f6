"""The order of training samples: it depends on the seed alone, not on the number of processes or on a resume."""
import numpy as np


class EpochSampler:
    """Batches of draws (index, seed, seed of the step) of one epoch for one process; a draw's seed feeds its random
    degradations, a step's what all its words share.

    lengths: records of each folder. shares: how often each folder is drawn, relative; None draws every record once.
    epoch_size: draws in an epoch, None for as many as there are records. batch_size is per process: step s of rank r
    takes the draws from (s * world + r) * batch_size on. Draws that do not fill a step of all processes are left out;
    where there are fewer than one step needs, they are repeated.
    """

    def __init__(self, lengths, batch_size, seed, shares=None, epoch_size=None, rank=0, world=1):
        self.lengths, self.batch_size, self.seed, self.shares = lengths, batch_size, seed, shares
        self.rank, self.world = rank, world
        self.global_batch_size = batch_size * world
        self.epoch_size = max(epoch_size or sum(lengths), self.global_batch_size)
        self.epoch = self.samples_seen = 0

    def set_epoch(self, epoch, samples_seen=0):
        """Continue in `epoch` after its first `samples_seen` draws, counted over all processes."""
        self.epoch, self.samples_seen = epoch, samples_seen

    def order(self):
        """The indices of the whole epoch, as drawn."""
        random = np.random.default_rng([self.seed, self.epoch])
        starts = np.cumsum([0, *self.lengths[:-1]])

        def passes(length, count):
            """`count` draws of range(length): whole shuffled passes, each index once before any comes again."""
            rounds = [random.permutation(length) for _ in range(-(-count // length))]
            return np.concatenate(rounds)[:count]

        if self.shares is None:
            return passes(sum(self.lengths), self.epoch_size)
        folders = random.choice(len(self.lengths), self.epoch_size, p=np.array(self.shares) / sum(self.shares))
        order = np.empty(self.epoch_size, dtype=np.int64)
        for folder, (start, length) in enumerate(zip(starts, self.lengths)):
            mine = folders == folder
            if mine.any():
                order[mine] = start + passes(length, int(mine.sum()))
        return order

    def __len__(self):
        """Steps that are left of the epoch."""
        return max(0, (self.epoch_size - self.samples_seen) // self.global_batch_size)

    def __iter__(self):
        order = self.order()
        seeds = np.random.default_rng([self.seed, self.epoch, 1]).integers(2 ** 63, size=len(order))
        for step in range(len(self)):
            start = self.samples_seen + step * self.global_batch_size
            first = start + self.rank * self.batch_size
            yield [(int(order[i]), int(seeds[i]), int(seeds[start])) for i in range(first, first + self.batch_size)]
