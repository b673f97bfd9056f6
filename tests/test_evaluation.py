import csv

import pytest
import torch
from helpers import TINY_ASTER, WORDS, word_image, word_records, write_lmdb
from PIL import Image
from torch.utils.data import DataLoader

import convert
import main
from lib.build import build_methods
from lib.checkpoint import save_checkpoint
from lib.datasets.lmdb_dataset import Record
from lib.datasets.samples import EvalSamples, collate
from lib.inference.enlarging import Method
from lib.inference.evaluation import aster_reader, compare_words, evaluate
from lib.models.aster import Aster
from lib.models.generator import Generator
from lib.options import parse_args
from lib.vocabulary import Vocabulary

VOCABULARY = Vocabulary('LOWERCASE')
SIZE = (8, 32)


class BrightnessReader:
    """A recognizer whose string is the mean brightness in tenths; it notes with how many beams it is asked to read."""

    def __init__(self):
        self.beam_widths = set()

    def decode(self, images, beam_width=1):
        self.beam_widths.add(beam_width)
        tenths = ((images.mean((1, 2, 3)) + 1) * 5).round().long()
        return torch.stack([tenths, torch.full_like(tenths, VOCABULARY.eos)], dim=1), -tenths.float()


def record(brightness, size=(100, 40)):
    value = round(255 * brightness / 10)
    return Record(str(brightness), Image.new('RGB', size, (value,) * 3))


RECORDS = [record(2), record(7, (40, 20)), Record(error='c: broken'), record(9, (64, 31))]


def run(methods=None, **options):
    samples = EvalSamples(RECORDS, [SIZE], 4, below=options.get('below'))
    methods = methods or {'bicubic': Method(scale=4), 'black': lambda lr: Method(scale=4)(lr) * 0}
    loader = DataLoader(samples, 2, collate_fn=collate)
    return evaluate(loader, 'set', aster_reader(BrightnessReader(), VOCABULARY), VOCABULARY, methods, 'cpu', **options)


def test_every_word_by_every_method():
    readings, errors = run(with_hr=True)
    assert errors == ['c: broken'] and sorted({r.index for r in readings}) == [0, 1, 3]
    strings = {(r.method, r.index): r.string for r in readings}
    for method in ('none', 'bicubic', 'hr'):
        assert [strings[method, i] for i in (0, 1, 3)] == ['2', '7', '9']
    assert strings['black', 1] == '0'
    assert all(r.correct == (r.method != 'black') for r in readings)


def test_figures_are_those_of_each_image():
    readings, _ = run()
    black = {r.index: r.psnr for r in readings if r.method == 'black'}
    assert black[0] == pytest.approx(-20 * torch.log10(torch.tensor(51 / 255)).item(), abs=1e-3)
    assert black[0] > black[1] > black[3]
    assert all((r.psnr is None) == (r.method == 'none') for r in readings)


def test_second_protocol_enlarges_small_pictures_only():
    readings, _ = run(below=(32, 64))
    strings = {r.index: r.string for r in readings if r.lr_size == 'below 64x32' and r.method == 'black'}
    assert strings == {0: '2', 1: '0', 3: '9'}  # 40x20 is below; 100x40 is not, nor is 64x31


def test_a_result_is_read_as_a_file_would_hold_it():
    """In 8 bits, where 0.0499 is 13 of 255: this reader's 1, and not its 0."""
    readings, _ = run({'dark': lambda lr: Method(scale=4)(lr) * 0 + 0.0499}, below=(32, 64))
    assert {r.string for r in readings if r.method == 'dark' and (r.lr_size == '32x8' or r.index == 1)} == {'1'}


def test_of_two_readings_the_more_certain_one_counts():
    """The darker, as this reader is surest of what is black."""
    methods = {'bicubic': Method(scale=4), 'black': lambda lr: Method(scale=4)(lr) * 0,
               'bright': lambda lr: (Method(scale=4)(lr) + 0.1).clamp(0, 1)}
    readings, _ = run(methods, below=(32, 64), read_both=True)
    strings = {(r.lr_size, r.method, r.index): r.string for r in readings}
    for i, word in ((0, '2'), (1, '7'), (3, '9')):
        assert strings['32x8', 'bicubic+black', i] == '0'
        assert strings['32x8', 'bicubic+bright', i] == word != strings['32x8', 'bright', i]
    assert strings['below 64x32', 'bicubic+black', 0] == '2' and strings['below 64x32', 'bicubic+black', 1] == '0'
    assert {r.method for r in run(methods)[0]} == {'none', *methods}


def test_pictures_of_words():
    samples, methods, recognizer = EvalSamples(RECORDS, [SIZE]), {'bicubic': Method(scale=4)}, BrightnessReader()
    sheet = compare_words(samples, aster_reader(recognizer, VOCABULARY, 3), VOCABULARY, methods, 'cpu', SIZE)
    assert recognizer.beam_widths == {3}
    assert sheet.mode == 'RGB' and sheet.width > 256 and sheet.height > 3 * 64
    samples = EvalSamples([RECORDS[0]._replace(label='2!')], [SIZE])
    strict, other = (compare_words(samples, aster_reader(recognizer, VOCABULARY), vocabulary, methods, 'cpu', SIZE)
                     for vocabulary in (Vocabulary(case_sensitive=True), VOCABULARY))
    assert strict != other, 'the ! that is missing counts, and is marked, in one of them'


@pytest.mark.parametrize(('amp', 'flags', 'method'), [('off', [], 'textsr'), ('bf16', [], 'textsr'),
                                                      ('off', ['--read_both'], 'bicubic+textsr')])
def test_conversion_and_test_read_the_same(tmp_path, amp, flags, method):
    """The default beam width and precision of both; a recognizer that is not sure, so that they matter."""
    torch.manual_seed(0)
    deep = {**TINY_ASTER, 'blocks': (3, 4, 6, 6, 3)}  # else it reads the same in all pictures
    aster, generator = Aster(**deep), Generator(4, 1, 8)
    aster.decoder.decoder.fc.weight.data *= 20
    generator.tail.weight.data *= 30
    aster.decoder.decoder.fc.bias.data[94] = 3  # EOS
    save_checkpoint(tmp_path / 'aster.pth', {'state_dict': aster.state_dict()})
    save_checkpoint(tmp_path / 'textsr.pth', {'state_dict': generator.state_dict()})
    (tmp_path / 'words').mkdir()
    for word in WORDS[:4]:
        (tmp_path / 'words' / f'{word}.png').write_bytes(word_image(word))
    words = write_lmdb(tmp_path / 'lmdb', word_records(WORDS[:4]))
    networks = ['--aster_path', str(tmp_path / 'aster.pth'), '--methods', 'bicubic',
                f'textsr={tmp_path / "textsr.pth"}', '--width=128', '--height=32', '--ds_scale=4', f'--amp={amp}',
                *flags]
    assert convert.main(['--image_path', str(tmp_path / 'words'), '--out_path', str(tmp_path / 'out'), *networks]) == 0
    assert main.main(['--test', '--test_data_dir', words, '--logs_dir', str(tmp_path / 'logs'), '-j', '0',
                      *networks]) == 0

    def readings(path, name, method):
        with open(path) as file:
            return {row[name].removesuffix('.png'): row['string']
                    for row in csv.DictReader(file, delimiter='\t') if row['method'] == method}

    metrics, predictions = tmp_path / 'out' / 'metrics.tsv', tmp_path / 'logs' / 'predictions.tsv'
    converted, bicubic = readings(metrics, 'image', 'textsr'), readings(metrics, 'image', 'bicubic')
    assert len({*converted.values(), *bicubic.values()}) > 2
    assert readings(predictions, 'label', method) == converted and readings(predictions, 'label', 'bicubic') == bicubic
    if flags:  # some words are read by each of the two
        assert converted not in (bicubic, readings(predictions, 'label', 'textsr'))
    testing = parse_args(['--test', '--test_data_dir', words, *networks])
    assert {method.amp for method in build_methods(testing, torch.device('cpu')).values()} == {amp}


def test_the_commands_compute_products_of_float32_as_such():
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    assert main.main(['--test', '--test_data_dir', 'missing']) == 2
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
