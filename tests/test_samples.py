import numpy as np
import pytest
import torch
from PIL import Image

from lib.datasets.augment import add_noise, augment, bend, low_resolution, recolour, turn, vary
from lib.datasets.degradation import degrade
from lib.datasets.lmdb_dataset import Record
from lib.datasets.samples import EvalSamples, PairSamples, ReadingSamples, collate
from lib.imaging import recognizer_input, resize, to_tensor


@pytest.fixture
def picture():
    gradient = Image.linear_gradient('L').resize((90, 30))
    return Image.merge('RGB', [gradient, gradient.rotate(90, expand=False), gradient.transpose(0)])


def test_pairs_are_made_by_degrade(picture):
    sample = PairSamples([Record('word', picture)], [(32, 128)], 4)[0, 5, 0]
    assert sample['hr'].shape == (3, 32, 128) and sample['label'] == 'word'
    assert torch.equal(sample['hr'][None], resize(to_tensor(picture)[None], (32, 128)))
    assert torch.equal(sample['lr'][None], degrade(sample['hr'][None], 4))


def test_paired_sets_keep_their_own_low_resolution(picture):
    record = Record('word', picture, Image.new('RGB', (64, 16), 'red'))
    sample = PairSamples([record], [(32, 128)], 4)[0, 5, 0]
    assert sample['lr'].shape == (3, 8, 32) and sample['lr'][0].min() == 1 and sample['lr'][1].max() == 0
    hr, lr = EvalSamples([record], [(16, 64)], 2)[0]['pairs'][16, 64]
    assert hr.shape == (3, 32, 128) and torch.equal(lr[:, 0, 0], torch.tensor([1.0, 0, 0]))


def test_the_draws_seed_decides_the_degradation(picture):
    samples = PairSamples([Record('word', picture)], [(32, 128)], 4, 'real')
    assert torch.equal(samples[0, 5, 0]['lr'], samples[0, 5, 0]['lr'])
    assert not torch.equal(samples[0, 5, 0]['lr'], samples[0, 6, 0]['lr'])


def test_the_seed_of_the_batch_decides_the_size(picture):
    samples = PairSamples([Record('word', picture)], [(32, 128), (32, 128), (48, 96)], 4)
    seen = [tuple(samples[0, seed, batch]['hr'].shape[1:]) for batch in range(6) for seed in range(2)]
    assert seen == 2 * (4 * [(32, 128)] + 2 * [(48, 96)])
    assert samples[0, 1, 2]['lr'].shape == (3, 12, 24)


def test_reading_samples_and_the_reduced_ones(picture):
    records = [Record('word', picture)]
    plain, reduced = ReadingSamples(records)[0, 1]['images'], ReadingSamples(records, reduced=(8, 32))[0, 1]['images']
    assert plain.shape == reduced.shape == (64, 256, 3) and plain.dtype == torch.uint8
    seen = recognizer_input(to_tensor(picture)[None])[0]  # what a test of the same picture sees
    assert (plain.permute(2, 0, 1) / 127.5 - 1 - seen).abs().max() < 0.01

    def detail(images):
        return images.float().diff(dim=1).diff(dim=1).abs().mean()
    assert detail(reduced) < detail(plain)
    paired = [Record('word', picture, Image.new('RGB', (64, 16), 'red'))]
    assert torch.equal(ReadingSamples(paired)[0, 1]['images'], plain)
    assert torch.equal(ReadingSamples(paired, reduced=(8, 32))[0, 1]['images'].unique(), torch.tensor([0, 255]))
    real = ReadingSamples(records, reduced=(8, 32), degradation='real')
    assert any(not torch.equal(real[0, seed]['images'], reduced) for seed in range(4))


def test_test_samples_tell_small_pictures(picture):
    samples = EvalSamples([Record('word', picture)], [(8, 32), (5, 20)], 4, below=(32, 100))
    sample = samples[0]
    assert sample['small'].shape == (1, 3, 30, 90)
    assert {size: tuple(hr.shape) for size, (hr, _) in sample['pairs'].items()} == \
        {(8, 32): (3, 32, 128), (5, 20): (3, 20, 80)}
    assert EvalSamples(samples.records, [(8, 32)], below=(30, 100))[0]['small'] is None
    assert [EvalSamples(range(9), [], indices=range(1, 9, 3)).indices[i] for i in range(3)] == [1, 4, 7]


def test_the_low_resolution_of_a_test_is_the_same_whichever_process_makes_it(picture):
    records = [Record('word', picture)] * 6
    whole, part = (EvalSamples(records, [(8, 32)], degradation='real', indices=indices)
                   for indices in (range(6), range(1, 6, 2)))
    lows = [whole[item]['pairs'][8, 32][1] for item in range(6)]
    assert all(torch.equal(part[item]['pairs'][8, 32][1], lows[2 * item + 1]) for item in range(3))
    assert len({low.sum().item() for low in lows}) > 2


def test_collate_leaves_out_and_lists_what_is_damaged(picture):
    records = [Record('word', picture), Record('', error='s: broken')]
    samples = PairSamples(records, [(16, 32)], 2)
    batch = collate([samples[i, 0, 0] for i in (0, 1, 0)])
    assert batch['hr'].shape == (2, 3, 16, 32) and batch['label'] == ['word'] * 2 and batch['errors'] == ['s: broken']
    assert collate([samples[1, 0, 0]]) == {'errors': ['s: broken']}


def test_augmentation_follows_its_generator(picture):
    before = picture.copy()
    seen = []
    for seed in range(40):
        changed = augment(picture, 1.0, np.random.default_rng(seed))
        assert changed.mode == 'RGB' and changed == augment(picture, 1.0, np.random.default_rng(seed))
        seen.append(changed)
    assert sum(changed != picture for changed in seen) > 30
    assert augment(picture, 0.0, np.random.default_rng(1)) == picture == before


def test_the_draws_seed_decides_the_augmentation(picture):
    samples = ReadingSamples([Record('word', picture)], augmentation=1.0)
    seen = [[samples[0, seed]['images'] for seed in range(6)] for _ in range(2)]
    assert all(map(torch.equal, *seen)) and not any(torch.equal(seen[0][0], images) for images in seen[0][1:])


def test_noise_and_turns_keep_a_white_ground():
    white = Image.new('RGB', (90, 30), 'white')
    assert np.asarray(add_noise(white, 14.0, np.random.default_rng(1))).min() > 150
    assert all(np.asarray(turn(white, np.random.default_rng(seed))).min() > 250 for seed in range(5))


@pytest.mark.parametrize('size', [(1, 1), (3, 90), (500, 2)])
def test_augmentation_takes_any_size(size):
    for seed in range(20):
        changed = augment(Image.new('RGB', size, 'teal'), 1.0, np.random.default_rng(seed))
        assert min(changed.size) >= 1 and max(changed.size) <= 1024


def test_a_bent_line_keeps_its_letters_and_its_background():
    """A dark bar all along the middle is there in every column, on the background it had."""
    picture = Image.new('RGB', (120, 40), 'white')
    picture.paste((0, 0, 0), (0, 16, 120, 24))
    for seed in range(20):
        values = np.asarray(bend(picture, np.random.default_rng(seed)).convert('L'))
        assert (values[:, 6:-6].min(0) < 100).all() and np.median(values) > 180


def test_low_resolution_loses_detail_and_keeps_the_mean():
    noise = Image.effect_noise((200, 60), 80).convert('RGB')
    values = np.asarray(noise, dtype=float)
    for seed in range(20):
        low = low_resolution(noise, np.random.default_rng(seed))
        assert low.width % 4 == low.height % 4 == 0 and 32 <= low.height <= 128
        again = np.asarray(low.resize(noise.size), dtype=float)
        assert again.std() < 0.6 * values.std() and abs(again.mean() - values.mean()) < 8


def test_colours_change_but_the_word_stays(picture):
    before, inverted = np.asarray(picture, dtype=float), 0
    for seed in range(40):
        values = np.asarray(recolour(picture, np.random.default_rng(seed)), dtype=float)
        assert values.std() > 0.2 * before.std()
        inverted += np.corrcoef(values.mean(2).flat, before.mean(2).flat)[0, 1] < 0
    assert 2 < inverted < 16, 'one in five'


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
    records = [Record('word', picture), Record('word', picture, picture.resize((32, 8)))]
    samples, plain = PairSamples(records, [(32, 128)], augmentation=1.0), PairSamples(records, [(32, 128)])
    for seed in range(20):
        assert torch.equal(samples[0, seed, 0]['lr'], degrade(samples[0, seed, 0]['hr'][None], 4)[0])
        assert torch.equal(samples[1, seed, 0]['hr'], plain[1, seed, 0]['hr']), 'a pair of its own stays as it is'
    assert any(not torch.equal(samples[0, seed, 0]['hr'], plain[0, seed, 0]['hr']) for seed in range(20))
