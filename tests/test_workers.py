import os

import pytest

from lib.runtime.workers import in_order

OWN = os.getpid()


def double_or_raise(number):
    if number == 7:
        raise ValueError('seven')
    return 2 * number


def in_another_process(_):
    return os.getpid() != OWN


@pytest.mark.parametrize('workers', [0, 2])
def test_results_come_in_order_and_few_items_are_taken_ahead(workers):
    taken = []

    def numbers():
        for i in range(100, 200):
            taken.append(i)
            yield i

    results = in_order(double_or_raise, numbers(), workers)
    assert next(results) == 200 and len(taken) <= 2 * workers + 1
    assert list(results) == list(range(202, 400, 2))


@pytest.mark.parametrize('workers', [0, 1])
def test_an_error_of_the_function_comes_out_where_its_item_stood(workers):
    results = in_order(double_or_raise, range(5, 10), workers)
    assert [next(results), next(results)] == [10, 12]
    with pytest.raises(ValueError, match='seven'):
        next(results)


def test_one_worker_is_another_process():
    """Damage that ends it does not end the command."""
    assert next(in_order(in_another_process, [0], 1)) and not next(in_order(in_another_process, [0], 0))
