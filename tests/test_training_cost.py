from utils import training_cost


def test_operations_of_a_step_are_counted():
    """The generator of 5 blocks at 128x32: 0.36 billion multiply-adds forward, three times as many with backward."""
    flops = training_cost.step_flops(blocks=5, count=1)
    assert 0.9 < flops['generator'] / (2 * 3 * 0.36e9) < 1.1
    assert set(flops) == {'generator', 'discriminator', 'recognizer'} and min(flops.values()) > 1e9
