"""An alphabet of one's own, from the file of characters to what reads with the weights."""
import json

import pytest
import torch
from helpers import TINY_ASTER
from PIL import Image

import main
from lib.build import build_recognizer
from lib.checkpoint import load_aster, load_checkpoint, load_generator, save_checkpoint
from lib.datasets.samples import encode_labels
from lib.imaging import recognizer_input
from lib.inference.pretrained import Reader
from lib.losses.text_perceptual import sequence_cross_entropy, text_perceptual_loss
from lib.models.aster import Aster
from lib.options import parse_args
from lib.trainers import RecognizerTrainer
from lib.vocabulary import Vocabulary
from utils import export_weights

ALPHABET = '\u03b1\u03b2\u03b3'
WORDS = ('\u03b1\u03b2', '\u0392\u03b3', '\u03b3', '\u03b1\u03b1\u03b2', '\u03b2x', '\u03b3\u03b2', '\u03b1', '\u03b2')


def own_aster(alphabet=ALPHABET):
    torch.manual_seed(0)
    return Aster(len(alphabet) + 3, alphabet=alphabet, **TINY_ASTER)


@pytest.fixture
def train(tmp_path, tiny_lmdb, tiny_aster, capsys):
    """train(*flags) runs main.py on words of the alphabet; returns its exit status and what it printed."""
    alphabet, words, val = tmp_path / 'greek letters.txt', tiny_lmdb('words', WORDS), tiny_lmdb('val', WORDS[:1])
    alphabet.write_text(ALPHABET, encoding='utf-8')

    def run(*flags, aster_path=tiny_aster, voc_type=alphabet):
        flags = [*(['--voc_type', voc_type] if voc_type else []), '--aster_path', aster_path, *flags]
        status = main.main(['--train_data_dir', words, '--val_data_dir', val, '--logs_dir', str(tmp_path / 'logs'),
                            '--batch_size', '4', '--max_steps', '2', '--workers', '0', '--device', 'cpu',
                            '--beam_width', '1', '--width', '32', '--height', '16', '--ds_scale', '2',
                            *map(str, flags)])
        captured = capsys.readouterr()
        return status, captured.out + captured.err

    return run


def test_training_to_an_alphabet_and_from_there_without_a_flag(train, tmp_path):
    status, printed = train('--arch', 'aster', '--ema', '0.9')
    assert status == 0 and '0 of its 3 characters are known to' in printed
    assert '1 with characters outside an alphabet of 3 characters' in printed
    weights = tmp_path / 'greek.pth'
    assert export_weights.main([str(tmp_path / 'logs' / 'last.pth'), str(weights)]) == 0
    reader = Reader(weights)
    assert reader.vocabulary.characters == ALPHABET
    assert set(reader.read(Image.new('RGB', (32, 16)), beam_width=1)) <= set(ALPHABET)

    status, printed = train('--blocks', 1, '--maps', 4, '--disc_maps', 4, aster_path=weights, voc_type=None)
    assert status == 0 and '1 with characters outside an alphabet of 3 characters' in printed
    entry = json.loads((tmp_path / 'logs' / 'log.txt').read_text().splitlines()[-1])
    assert entry['tpl'] > 0 and load_generator(tmp_path / 'logs' / 'last.pth').scale == 2


def test_going_on_needs_the_same_alphabet(train, tmp_path):
    own = tmp_path / 'own.pth'
    save_checkpoint(own, own_aster().state_dict())
    assert train('--arch', 'aster', aster_path=own)[0] == 0
    (tmp_path / 'other.txt').write_text(ALPHABET[::-1], encoding='utf-8')
    status, printed = train('--arch', 'aster', '--resume', aster_path=own, voc_type=tmp_path / 'other.txt')
    assert status == 2 and f'its alphabet is {ALPHABET}, not {ALPHABET[::-1]}' in printed
    assert train('--arch', 'aster', '--resume', '--max_steps', '3', aster_path=own, voc_type=None)[0] == 0


def test_a_new_recognizer_of_an_alphabet(tmp_path):
    (tmp_path / 'digits.txt').write_text('0 1 2 3 4 5 6 7 8 9')
    args = parse_args(['--arch', 'aster', '--aster_path', 'none', '--voc_type', str(tmp_path / 'digits.txt')])
    recognizer, vocabulary = build_recognizer(args, torch.device('cpu'))
    assert recognizer.num_classes == len(vocabulary) == 13 and recognizer.alphabet == '0123456789'


def test_an_alphabet_is_trained_not_read_into_a_recognizer(train, tmp_path, tiny_aster):
    status, printed = train('--arch', 'textsr')
    assert status == 2 and 'has the classes of ALLCASES_SYMBOLS; --arch aster trains it to others' in printed
    assert not (tmp_path / 'logs').exists()


def test_known_characters_go_on_where_they_were(tiny_aster):
    """Digits out of 97 classes: what the classes that stay score does not change."""
    old, new, known = load_aster(tiny_aster).eval(), load_aster(tiny_aster).eval(), Vocabulary()
    digits = Vocabulary(alphabet='3210')
    rows = [known.ids[character] for character in digits.characters] + [known.eos, known.padding, known.unknown]
    new.with_classes(rows, digits.alphabet)
    images = 2 * torch.rand(2, 3, 64, 256) - 1
    targets = [encode_labels(['12', '0'], vocabulary) for vocabulary in (known, digits)]
    with torch.no_grad():
        assert torch.allclose(new(images, targets[1]), old(images, targets[0])[:, :, rows], atol=1e-5)
        assert new.decode(images)[0].max() < len(digits)
    assert digits.same(digits.decode(digits.encode('120')), '120')


def test_the_loss_speaks_of_the_alphabet():
    recognizer, vocabulary = own_aster().freeze(), Vocabulary(alphabet=ALPHABET)
    images = torch.rand(2, 3, 16, 32, requires_grad=True)
    labels = [ALPHABET[:2], ALPHABET[2]]
    loss = text_perceptual_loss(recognizer, images, encode_labels(labels, vocabulary), vocabulary.padding)
    targets = torch.tensor([[0, 1, 3], [2, 3, 4]])
    expected = sequence_cross_entropy(recognizer(recognizer_input(images), targets), targets, padding=4)
    assert torch.equal(loss, expected)
    loss.backward()
    assert images.grad.abs().sum() > 0


def test_averages_and_halves_leave_the_characters_alone(tmp_path):
    """An integer 97 times 0.999 plus 97 times 0.001 may round down to another character."""
    trainer = RecognizerTrainer({'recognizer': own_aster('abc')}, {}, torch.device('cpu'), None, ema=0.999)
    for _ in range(3):
        trainer.update_averages()
    save_checkpoint(tmp_path / 'last.pth', {'arch': 'aster', 'progress': {'iteration': 1}, **trainer.state_dict()})
    assert export_weights.main([str(tmp_path / 'last.pth'), str(tmp_path / 'out.pth')]) == 0
    assert load_aster(tmp_path / 'out.pth').alphabet == 'abc'


@pytest.mark.parametrize('codes', [torch.tensor([97, 98]), torch.tensor([97, 98, 2 ** 40]), torch.ones(3, 2), 'abc'])
def test_files_with_another_kind_of_alphabet_are_named(tmp_path, codes):
    save_checkpoint(tmp_path / 'own.pth', own_aster().state_dict())
    save_checkpoint(tmp_path / 'own.pth', {**load_checkpoint(tmp_path / 'own.pth'), 'alphabet': codes})
    with pytest.raises(ValueError, match='own.pth: .*alphabet'):
        load_aster(tmp_path / 'own.pth')


def test_case_and_symbols_count_on_demand(train, tmp_path, tiny_lmdb, tiny_aster):
    words = tiny_lmdb('symbols', ('!', '?'))  # labels of which nothing else would count
    told = {(): 'symbols: 2 more without a letter', ('--case_sensitive',): '| symbols | 2 | none | 0.0 |'}
    for flags, row in told.items():
        status, printed = train('--test', '--methods', 'bicubic', '--test_data_dir', words, *flags, voc_type=None)
        assert status == 0 and row in printed
        assert ('case and symbols counted' in printed) == bool(flags)
