import numpy as np
import pytest

from lib.datasets.sampler import EpochSampler


def draws(sampler, epoch=0, start=0):
    sampler.set_epoch(epoch, start)
    return list(sampler)


def flat(batches):
    return [draw for batch in batches for draw in batch]


def test_each_record_once_an_epoch():
    batches = draws(EpochSampler([5, 7], 3, seed=1))
    assert [len(batch) for batch in batches] == [3] * 4
    assert sorted(index for index, *_ in flat(batches)) == list(range(12))


def test_what_fills_no_step_is_left_out():
    assert len(flat(draws(EpochSampler([10], 4, seed=1)))) == 8


def test_order_follows_seed_and_epoch_alone():
    first = draws(EpochSampler([20], 4, seed=1))
    assert draws(EpochSampler([20], 4, seed=1)) == first
    assert draws(EpochSampler([20], 4, seed=2)) != first
    assert draws(EpochSampler([20], 4, seed=1), epoch=1) != first
    orders = [[index for index, *_ in flat(draws(EpochSampler([20], 4, seed=1), epoch))] for epoch in (0, 1)]
    assert orders[0] != orders[1]
    np.random.seed(5)
    assert draws(EpochSampler([20], 4, seed=1)) == first


def test_every_draw_has_a_seed_of_its_own():
    sampler = EpochSampler([4], 4, seed=1, epoch_size=12)
    seeds = [seed for _, seed, _ in flat(draws(sampler)) + flat(draws(sampler, epoch=1))]
    assert len(set(seeds)) == 24 and all(0 <= seed < 2 ** 63 for seed in seeds)


def test_the_draws_of_a_step_share_a_seed_of_the_step():
    steps = [{step_seed for *_, step_seed in batch} for batch in draws(EpochSampler([40], 4, seed=1))]
    assert all(len(seeds) == 1 for seeds in steps) and len(set.union(*steps)) == 10


@pytest.mark.parametrize('start', [0, 4, 12, 20])
@pytest.mark.parametrize('shares', [None, [1, 3]])
def test_from_the_middle_on(start, shares):
    sampler = EpochSampler([7, 13], 4, 1, shares)
    whole = draws(sampler, epoch=2)
    rest = draws(sampler, epoch=2, start=start)
    assert rest == whole[start // 4:] and len(sampler) == len(rest)


def test_behind_the_end_nothing_is_left():
    sampler = EpochSampler([8], 4, seed=1)
    assert draws(sampler, start=400) == [] and len(sampler) == 0


@pytest.mark.parametrize('world', [2, 4])
@pytest.mark.parametrize('start', [0, 2, 8])
def test_any_number_of_processes_sees_the_same_global_batches(world, start):
    alone = draws(EpochSampler([9, 20], 8, 1), start=start)
    ranks = [draws(EpochSampler([9, 20], 8 // world, 1, rank=rank, world=world), start=start) for rank in range(world)]
    assert [flat(parts) for parts in zip(*ranks)] == alone


def test_shares():
    indices = np.array([index for index, *_ in flat(draws(EpochSampler([1000, 10], 50, 1, shares=[1, 3])))])
    second = indices >= 1000
    assert abs(second.mean() - 0.75) < 0.05
    assert len(set(indices[~second])) == (~second).sum()  # none twice while others of its folder wait
    counts = np.bincount(indices[second] - 1000)
    assert counts.max() - counts.min() <= 1
    assert not (np.array([i for i, *_ in flat(draws(EpochSampler([8, 8], 4, 1, shares=[0, 1])))]) < 8).any()


def test_epoch_size():
    short = flat(draws(EpochSampler([100], 4, 1, epoch_size=20)))
    assert len(short) == 20 == len({index for index, *_ in short})
    long = [index for index, *_ in flat(draws(EpochSampler([6], 4, 1, epoch_size=12)))]
    assert sorted(long[:6]) == sorted(long[6:]) == list(range(6))


def test_fewer_records_than_a_step_needs():
    batch, = draws(EpochSampler([3], 8, 1))
    assert sorted({index for index, *_ in batch}) == [0, 1, 2] and len(batch) == 8
