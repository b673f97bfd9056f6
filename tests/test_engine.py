import contextlib
import math
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader

from lib import engine
from lib.datasets.sampler import EpochSampler
from lib.datasets.samples import collate
from lib.runtime.device import loss_scaler
from lib.trainers import OptimizerStep


class Words:
    def __getitem__(self, draw):
        return {'label': 'word'}


def draws(rank, start):
    """What each step of an epoch of four draws from torch's generator in one of two processes, from step `start` on."""
    drawn, sampler = [], EpochSampler([8], 1, seed=3, rank=rank, world=2)
    sampler.set_epoch(0, 2 * start)
    trainer = SimpleNamespace(step=lambda batch, measure: {'total': torch.rand(())}, least_words=1)
    log = SimpleNamespace(scalars=lambda group, numbers, iteration: drawn.append(numbers['total']))
    run = engine.Run('aster', trainer, log, engine.Progress(samples_seen=2 * start, iteration=start))
    interruption = SimpleNamespace(signal=None, at_once=contextlib.nullcontext)
    loader = DataLoader(Words(), batch_sampler=sampler, collate_fn=collate)
    engine.train_one_epoch(run, loader, total_steps=9, save_every=9, interruption=interruption)
    return drawn


def test_a_resumed_run_draws_in_every_process_what_it_would_have_drawn():
    whole = [draws(rank, 0) for rank in range(2)]
    assert len({*whole[0], *whole[1]}) == 8
    torch.rand(5)
    assert [draws(rank, 2) for rank in range(2)] == [drawn[2:] for drawn in whole]


@pytest.mark.skipif(torch.__version__ < (2, 3), reason='no scaler on a CPU')
def test_the_scale_of_half_precision_is_none_of_the_gradient_and_is_kept():
    def make():
        weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        return weight, OptimizerStep(torch.optim.SGD([weight], 1.0), lambda step: 1.0, 1.0,
                                     loss_scaler('fp16', torch.device('cpu')))
    weight, step = make()
    assert step.step((weight * torch.tensor([6.0, 8.0])).sum())['gradient'].item() == pytest.approx(10)
    assert weight.tolist() == pytest.approx([2.4, 3.2])  # clipped to a norm of 1
    assert step.step((weight * math.inf).sum())['gradient'].item() == 0
    state, resumed = step.state_dict(), make()[1]
    resumed.load_state_dict(state)
    assert state['skipped'] == 1 and state['scaler'] != make()[1].state_dict()['scaler']
    assert resumed.state_dict() == state
