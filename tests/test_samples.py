import pytest
import torch
from PIL import Image

from lib.datasets.augment import augment, vary
from lib.datasets.lmdb_dataset import Record
from lib.datasets.samples import EvalSamples, PairSamples, ReadingSamples, collate
from lib.imaging import degrade, resize, to_tensor


@pytest.fixture
def picture():
    gradient = Image.linear_gradient('L').resize((90, 30))
    return Image.merge('RGB', [gradient, gradient.rotate(90, expand=False), gradient.transpose(0)])


def test_pairs_are_made_by_degrade(picture):
    sample = PairSamples([Record('r', 'word', picture, None, None)], 32, 128, 4)[0, 5]
    assert sample['hr'].shape == (3, 32, 128) and sample['label'] == 'word'
    assert torch.equal(sample['hr'][None], resize(to_tensor(picture)[None], (32, 128)))
    assert torch.equal(sample['lr'][None], degrade(sample['hr'][None], 4))


def test_paired_sets_keep_their_own_low_resolution(picture):
    record = Record('r', 'word', picture, Image.new('RGB', (64, 16), 'red'), None)
    sample = PairSamples([record], 32, 128, 4)[0, 5]
    assert sample['lr'].shape == (3, 8, 32) and sample['lr'][0].min() == 1 and sample['lr'][1].max() == 0
    hr, lr = EvalSamples([record], [(16, 64)], 2)[0]['pairs'][16, 64]
    assert hr.shape == (3, 32, 128) and torch.equal(lr[:, 0, 0], torch.tensor([1.0, 0, 0]))


def test_the_draws_seed_decides_the_degradation(picture):
    samples = PairSamples([Record('r', 'word', picture, None, None)], 32, 128, 4, 'real')
    assert torch.equal(samples[0, 5]['lr'], samples[0, 5]['lr'])
    assert not torch.equal(samples[0, 5]['lr'], samples[0, 6]['lr'])


def test_reading_samples_and_the_reduced_ones(picture):
    records = [Record('r', 'word', picture, None, None)]
    plain, reduced = ReadingSamples(records)[0, 1]['images'], ReadingSamples(records, reduced=(8, 32))[0, 1]['images']
    assert plain.shape == reduced.shape == (3, 64, 256)
    assert plain.min() >= -1 and plain.max() <= 1

    def detail(images):
        return images.diff(dim=2).diff(dim=2).abs().mean()
    assert detail(reduced) < detail(plain)


def test_test_samples_tell_small_pictures(picture):
    samples = EvalSamples([Record('r', 'word', picture, None, None)], [(8, 32), (5, 20)], 4, below=(32, 100))
    sample = samples[0]
    assert sample['small'].shape == (3, 30, 90)
    assert {size: tuple(hr.shape) for size, (hr, _) in sample['pairs'].items()} == \
        {(8, 32): (3, 32, 128), (5, 20): (3, 20, 80)}
    assert EvalSamples(samples.records, [(8, 32)], below=(30, 100))[0]['small'] is None
    assert [EvalSamples(range(9), [], indices=range(1, 9, 3)).indices[i] for i in range(3)] == [1, 4, 7]


def test_collate_leaves_out_and_lists_what_is_damaged(picture):
    records = [Record('r', 'word', picture, None, None), Record('s', '', None, None, 's: broken')]
    samples = PairSamples(records, 16, 32, 2)
    batch = collate([samples[i, 0] for i in (0, 1, 0)])
    assert batch['hr'].shape == (2, 3, 16, 32) and batch['label'] == ['word'] * 2 and batch['errors'] == ['s: broken']
    assert collate([samples[1, 0]]) == {'errors': ['s: broken']}


def test_augmentation_follows_its_generator_and_keeps_the_range(picture):
    images = to_tensor(picture)[None]
    seen = []
    for seed in range(40):
        damaged = augment(images, 1.0, torch.Generator().manual_seed(seed))
        assert damaged.shape == images.shape and damaged.min() >= 0 and damaged.max() <= 1
        assert torch.equal(damaged, augment(images, 1.0, torch.Generator().manual_seed(seed)))
        seen.append(damaged)
    assert sum(not torch.equal(damaged, images) for damaged in seen) > 30
    assert torch.equal(augment(images, 0.0), images)


def test_varied_images_follow_their_generator_and_stay_sharp():
    image = to_tensor(Image.effect_noise((300, 90), 60).convert('RGB'))[None]
    image = image * torch.tensor([0.2, 0.6, 1.0]).view(3, 1, 1)
    plain = resize(image, (32, 128))

    def detail(images):
        return images.diff(dim=3).abs().mean() / images.std()

    seen = [vary(image, (32, 128), 1.0, torch.Generator().manual_seed(seed)) for seed in range(60)]
    for seed, varied in enumerate(seen):
        assert varied.shape == plain.shape and varied.min() >= 0 and varied.max() <= 1
        assert torch.equal(varied, vary(image, (32, 128), 1.0, torch.Generator().manual_seed(seed)))
        assert detail(varied) > 0.6 * detail(plain)
    assert sum(not torch.equal(varied, plain) for varied in seen) > 45
    assert len({tuple(varied.mean((0, 2, 3)).argsort().tolist()) for varied in seen}) == 6, 'orders of the colours'
    assert torch.equal(vary(image, (32, 128), 0.0), plain)


def test_low_resolution_is_that_of_the_varied_image(picture):
    records = [Record('r', 'word', picture, None, None), Record('s', 'word', picture, picture.resize((32, 8)), None)]
    samples, plain = PairSamples(records, 32, 128, augmentation=1.0), PairSamples(records, 32, 128)
    for seed in range(20):
        assert torch.equal(samples[0, seed]['lr'], degrade(samples[0, seed]['hr'][None], 4)[0])
        assert torch.equal(samples[1, seed]['hr'], plain[1, seed]['hr']), 'a pair of its own stays as it is'
    assert any(not torch.equal(samples[0, seed]['hr'], plain[0, seed]['hr']) for seed in range(20))
