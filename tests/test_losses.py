import math

import pytest
import torch
import torch.nn.functional as F
from helpers import TINY_ASTER
from torchvision.transforms import Normalize

from lib.datasets.samples import encode_labels
from lib.imaging import recognizer_input
from lib.losses.adversarial import discriminator_loss, generator_loss
from lib.losses.content import content_loss
from lib.losses.text_perceptual import anchor_loss, perturb, sequence_cross_entropy, text_perceptual_loss
from lib.models.aster import Aster
from lib.vocabulary import Vocabulary

VOCABULARY = Vocabulary('LOWERCASE')


@pytest.fixture(scope='module')
def recognizer():
    torch.manual_seed(0)
    return Aster(len(VOCABULARY), **TINY_ASTER).freeze()


def test_content_is_the_mean_squared_error():
    assert content_loss(torch.full((2, 3, 4, 4), 0.5), torch.zeros(2, 3, 4, 4)).item() == pytest.approx(0.25)


def test_adversarial_losses_at_indifference_and_at_certainty():
    none, sure = torch.zeros(4), torch.full((4,), 30.0)
    assert generator_loss(none).item() == pytest.approx(math.log(2))
    assert discriminator_loss(none, none).item() == pytest.approx(math.log(2))
    assert discriminator_loss(sure, -sure).item() < 1e-6 < generator_loss(-sure).item()
    assert generator_loss(sure).item() < 1e-6


def test_generator_loss_does_not_saturate():
    logits = torch.full((2,), -20.0, requires_grad=True)
    generator_loss(logits).backward()
    assert logits.grad.sum().item() == pytest.approx(-1)


def tpl(recognizer, images, labels, *options, **keywords):
    targets = encode_labels(labels, VOCABULARY)
    return text_perceptual_loss(recognizer, images, targets, VOCABULARY.padding, *options, **keywords)


def test_cross_entropy_is_summed_up_to_eos_and_divided_by_the_batch():
    targets = encode_labels(['a', 'abc'], VOCABULARY)
    logits = torch.randn(2, 4, len(VOCABULARY))
    by_hand = sum(-F.log_softmax(logits[n, t], 0)[targets[n, t]] for n, steps in ((0, 2), (1, 4)) for t in range(steps))
    loss = sequence_cross_entropy(logits, targets, VOCABULARY.padding)
    assert loss.item() == pytest.approx(by_hand.item() / 2, rel=1e-5)


def test_text_perceptual_loss_limits_the_gradient_of_each_word(recognizer):
    images = torch.rand(3, 3, 32, 128)
    labels = ['a', 'a long word', 'word']

    def gradients(factor, clip):
        leaf = images.clone().requires_grad_()
        tpl(recognizer, leaf, labels, clip).mul(factor).backward()
        return leaf.grad / factor * len(labels)

    free = gradients(1, 0)
    norms = free.flatten(1).norm(dim=1)
    clip = norms.median().item()
    for factor in (1e-3, 1, 2.0 ** 14):
        clipped = gradients(factor, clip)
        torch.testing.assert_close(clipped.flatten(1).norm(dim=1), norms.clamp(max=clip), rtol=1e-4, atol=0)
        directions = F.cosine_similarity(clipped.flatten(1), free.flatten(1))
        torch.testing.assert_close(directions, torch.ones(3), rtol=1e-4, atol=0)


def test_the_limit_of_the_text_perceptual_loss_leaves_other_losses_alone(recognizer):
    images = torch.rand(2, 3, 32, 128, requires_grad=True)
    sr = images * 1
    (tpl(recognizer, sr, ['ab', 'c'], 1e-12) + sr.sum()).backward()
    torch.testing.assert_close(images.grad, torch.ones_like(images))


def test_the_anchor_is_zero_at_the_high_resolution_and_pulls_towards_it(recognizer):
    hr = torch.rand(2, 3, 32, 128)
    labels = ['ab', 'c']

    def loss(images, anchor):
        return tpl(recognizer, images, labels, anchor=anchor, images_hr=hr)

    assert loss(hr, 2.0).item() == pytest.approx(loss(hr, 0.0).item(), rel=1e-4)
    far = (0.5 * hr + 0.5 * torch.rand_like(hr)).requires_grad_()
    extra = loss(far, 2.0) - loss(far, 0.0)
    assert extra.item() == pytest.approx(2 * (loss(far, 1.0) - loss(far, 0.0)).item(), rel=1e-3), 'it is a weight'
    extra.backward()
    assert extra.item() > 0 and far.grad.abs().sum() > 0
    with torch.no_grad():
        nearer = far - 1e-2 * far.grad / far.grad.abs().max()
        assert loss(nearer, 2.0) - loss(nearer, 0.0) < extra


def test_the_anchor_counts_the_steps_of_each_label_alone():
    logits, logits_hr = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    columns = torch.randn(2, 4, 6)
    steps = torch.tensor([[True, False, False], [True, True, False]])
    divergence = (logits_hr.softmax(2) * (logits_hr.log_softmax(2) - logits.log_softmax(2))).sum(2)
    expected = (divergence[0, 0] + divergence[1, :2].sum()) / 2
    assert anchor_loss(columns, logits, columns, logits_hr, steps).item() == pytest.approx(expected.item(), rel=1e-4)
    assert anchor_loss(columns + 1, logits, columns, logits, steps).item() == pytest.approx(4, rel=1e-4)


def test_mixed_precision_perturbs_as_float32_does():
    """Half precision would move the points of the grid by up to a pixel."""
    seen = []

    def note(inputs, targets):
        seen.append(inputs)
        return torch.zeros(*targets.shape, 5)

    images, targets = torch.rand(2, 3, 32, 128), torch.zeros(2, 3, dtype=torch.long)
    for amp in (False, True):
        torch.manual_seed(0)
        with torch.autocast('cpu', torch.bfloat16, enabled=amp):
            text_perceptual_loss(note, images, targets, 4, perturbation=1.0)
    assert torch.equal(*seen)
    assert (seen[0] - recognizer_input(images)).abs().mean() > 0.01, 'the perturbed image is what is read'


def test_a_perturbation_shifts_by_three_hundredths_at_most():
    torch.manual_seed(0)
    line = torch.full((32, 3, 64, 256), -1.0)
    line[..., 126:130] = 1  # the middle, which stays where it is when the size changes
    for strength in (1, 0.5):
        shifts = perturb(line, strength).mean((1, 2)).argmax(1) - 127.5
        for furthest in (shifts.max().item(), -shifts.min().item()):  # to the right and to the left
            assert 4 * strength < furthest <= 0.03 * strength * 256 + 2


def test_a_perturbation_blurs_half_of_the_batches_and_adds_different_noise():
    torch.manual_seed(0)
    stripes = (torch.arange(64) // 2 % 2 * 2.0 - 1).expand(8, 3, 16, 64)
    contrasts = torch.stack([perturb(stripes, 1.0).std() for _ in range(40)])
    assert 10 < (contrasts > 0.8).sum() < 30 and contrasts.min() < 0.5
    noise = perturb(torch.zeros(8, 3, 32, 32), 1.0).flatten(1).std(1)
    assert noise.max() < 0.12 and noise.max() > 2 * noise.min()


def test_perturbed_images_differ_by_little_and_pass_gradients():
    torch.manual_seed(0)
    smooth = torch.linspace(-1, 1, 256).expand(4, 3, 64, 256).clone().requires_grad_()
    seen = [perturb(smooth, 0.5) for _ in range(8)]
    for images in seen:
        assert images.shape == smooth.shape and 0 < (images - smooth).abs().mean() < 0.1
    assert len({images.sum().item() for images in seen}) == 8
    seen[0].sum().backward()
    assert smooth.grad.abs().sum() > 0


def test_vgg_loss_compares_features(vgg):
    hr = torch.rand(1, 3, 32, 32)
    sr = (hr + 0.1 * torch.randn_like(hr)).requires_grad_()
    assert vgg(hr, hr).item() == 0
    normalize = Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])  # as the network was trained
    ours, theirs = (vgg.features(normalize(images)) for images in (sr, hr))
    assert vgg(sr, hr).item() == pytest.approx(F.mse_loss(ours, theirs).item(), rel=1e-4)
    assert ours.shape == (1, 512, 2, 2) and ours.min() >= 0, 'behind the activation, before the pooling'
    vgg(sr, hr).backward()
    assert sr.grad.abs().sum() > 0 and not any(parameter.requires_grad for parameter in vgg.parameters())
