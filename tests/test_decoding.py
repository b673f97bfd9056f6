"""Greedy decoding and beam search of the attention decoder."""
import pytest
import torch

from lib.models.aster import Aster
from lib.models.aster.attention_head import AttentionHead

SMALL = {'num_classes': 39, 'width': 4, 'decoder_dim': 24, 'attention_dim': 16, 'lstm_dim': 12, 'stn_width': 2,
         'stn_dim': 20, 'blocks': (2, 1, 1, 1, 1)}
EOS = 94


def close(actual, expected, atol):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


def up_to_eos(row, eos=EOS):
    row = row.tolist()
    return row[:row.index(eos)] if eos in row else row


def random_head(seed, eos_bias):
    """A decoder that is sure enough for distinct beams and ends its strings after a few to many characters."""
    torch.manual_seed(seed)
    head = AttentionHead(num_classes=12, in_planes=10, state_dim=16, attention_dim=8)
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            parameter.mul_(8 if 'fc' in name else 3)
        head.decoder.fc.bias[head.eos] += eos_bias
    return head, torch.randn(12, 7, 10)


def step_log_probabilities(head, columns, prefixes):
    """log p(next symbol | prefix) by teacher forcing, for one sample and some prefixes of one length."""
    targets = torch.tensor([[*prefix, 0] for prefix in prefixes])
    return head(columns.expand(len(prefixes), -1, -1), targets)[:, -1].log_softmax(1)


def plain_beam_search(head, columns, width, max_len):
    """All max_len steps of one sample, without stopping early; hypotheses are lists of ids."""
    beams, ended = [((), 0.0)], []
    for _ in range(max_len):
        grown = []
        log_probabilities = step_log_probabilities(head, columns, [ids for ids, _ in beams]).tolist() if beams else []
        for (ids, score), row in zip(beams, log_probabilities):
            grown += [((*ids, i), score + p) for i, p in enumerate(row)]
        grown = sorted(grown, key=lambda beam: -beam[1])[:width]
        ended += [beam for beam in grown if beam[0][-1] == head.eos]
        beams = [beam for beam in grown if beam[0][-1] != head.eos]
    pool = (ended + beams)[:width]  # the earliest to end, then the best unfinished
    ids, score = max(pool, key=lambda beam: beam[1])
    return [i for i in ids if i != head.eos], score


@pytest.mark.parametrize(('seed', 'eos_bias'), [(0, 5), (1, 5), (2, -3)])
@torch.no_grad()
def test_early_stop_equals_full_beam_search(seed, eos_bias):
    head, columns = random_head(seed, eos_bias)
    ids, scores = head.beam_search(columns, width=3, max_len=10)
    for i, one in enumerate(columns):
        expected_ids, expected_score = plain_beam_search(head, one, width=3, max_len=10)
        assert up_to_eos(ids[i], head.eos) == expected_ids
        assert scores[i].item() == pytest.approx(expected_score, abs=1e-3)


@torch.no_grad()
def test_early_stop_equals_full_greedy_search():
    head, columns = random_head(0, 2)
    ids, scores = head.greedy(columns, max_len=10)
    for i, one in enumerate(columns):
        prefix, score = [], 0.0
        for _ in range(10):
            best = step_log_probabilities(head, one, [prefix])[0].max(0)
            prefix.append(best.indices.item())
            score += best.values.item() if head.eos not in prefix[:-1] else 0
        assert up_to_eos(ids[i], head.eos) == up_to_eos(torch.tensor(prefix), head.eos)
        assert scores[i].item() == pytest.approx(score, abs=1e-3)


@torch.no_grad()
def test_beam_of_one_equals_greedy():
    for seed, eos_bias in ((0, 2), (2, -3)):
        head, columns = random_head(seed, eos_bias)
        greedy_ids, greedy_scores = head.greedy(columns, 20)
        ids, scores = head.beam_search(columns, 1, 20)
        assert torch.equal(ids, greedy_ids)
        close(scores, greedy_scores, 1e-4)


def test_reading_and_training_attend_alike():
    """They write the attention differently; embeddings may be too large for the exponential of reading."""
    head, columns = random_head(1, 5)
    targets = torch.arange(12).remainder(head.eos).expand(len(columns), -1)
    for scale in (1, 1000):
        with torch.no_grad():
            head.decoder.attention_unit.xEmbed.weight.mul_(scale)
            reading = head(columns, targets)
        assert reading.isfinite().all()
        close(reading, head(columns, targets), 1e-4)
    with torch.no_grad():
        head.decoder.attention_unit.sEmbed.weight.mul_(1000)
        assert head(columns, targets).isfinite().all()


def test_withheld_characters_are_not_told():
    """With all of them withheld each step but the first is given unknown, the last class."""
    head, columns = random_head(1, 5)
    one, other = (torch.full((len(columns), 4), label) for label in (1, 2))
    with torch.no_grad():
        told, unknown = head(columns, one), head(columns, torch.full_like(one, 11))
        assert not torch.equal(told[:, 1:], head(columns, other)[:, 1:])
        head.teacher_dropout = 1.0
        close(head(columns, one), unknown, 1e-6)
        close(head(columns, other), unknown, 1e-6)
        head.teacher_dropout = 0.5
        different = (head(columns, one) - told).abs().amax(2) > 1e-6
    assert 0.2 < different[:, 1].float().mean() < 0.8


def test_decode_refuses_impossible_settings():
    model = Aster(**SMALL).freeze()
    images = torch.zeros(1, 3, 64, 256)
    for settings in ({'beam_width': 0}, {'beam_width': 40}, {'max_len': 0}):
        with pytest.raises(ValueError, match='beam_width'):
            model.decode(images, **settings)
