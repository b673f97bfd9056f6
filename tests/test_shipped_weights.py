"""Every file in weights/ reads or enlarges the demo words as it did when it was put there.

After a change of weights/ or of demo_pics/words that is meant, record anew and look at the difference:

    python3 -m tests.test_shipped_weights
"""
import json
from pathlib import Path

import pytest
import torch

from lib.checkpoint import load_aster, load_generator
from lib.datasets.degradation import degrade
from lib.imaging import quantize, read_image, recognizer_input, resize, to_tensor
from lib.inference.evaluation import read_words
from lib.metrics import checkerboard, psnr
from lib.options import ASTER_PATH
from lib.runtime.device import pick_device
from lib.vocabulary import vocabulary_of

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / 'tests' / 'data' / 'shipped_weights.json'
WEIGHTS = sorted((ROOT / 'weights').glob('*.pth'))
WORDS = sorted((ROOT / 'demo_pics' / 'words').glob('*.jpg'))


@torch.no_grad()
def figures(path, device='cpu'):
    """{word picture: [string, number]}: what a recognizer reads and its log probability; for a generator, what the
    default recognizer reads after reduction to a quarter and enlargement, and the PSNR in dB."""
    is_recognizer = path.name.startswith('aster')
    recognizer = load_aster(path if is_recognizer else ASTER_PATH).freeze().to(device)
    vocabulary = vocabulary_of(recognizer.num_classes, recognizer.alphabet)
    pictures = [to_tensor(read_image(word))[None].to(device) for word in WORDS]
    if is_recognizer:
        inputs = torch.cat([recognizer_input(picture) for picture in pictures])
        numbers = [score for _, score in read_words(recognizer, vocabulary, inputs, beam_width=5)]
    else:
        generator = load_generator(path).eval().to(device)
        hr = torch.cat([quantize(resize(picture, (32, 128))) for picture in pictures])
        sr = quantize(generator(degrade(hr, generator.scale)))
        inputs, numbers = recognizer_input(sr), psnr(sr, hr).tolist()
    strings = [string for string, _ in read_words(recognizer, vocabulary, inputs, beam_width=5)]
    return {word.name: [string, round(number, 3)] for word, string, number in zip(WORDS, strings, numbers)}


@pytest.mark.parametrize('path', WEIGHTS, ids=lambda path: path.name)
def test_weights_do_what_they_did(path, device):
    pick_device(device.type)  # no TF32
    recorded = json.loads(RECORD.read_text())
    assert path.name in recorded, f'weights/{path.name} is new: python3 -m tests.test_shipped_weights'
    found = figures(path, device)
    assert {word: string for word, (string, _) in found.items()} == {
        word: string for word, (string, _) in recorded[path.name].items()}
    for word, (_, number) in recorded[path.name].items():
        assert found[word][1] == pytest.approx(number, abs=0.01), word


@pytest.mark.parametrize('name', ['textsr', 'textsr_x2', 'textsr_32x8', 'srgan', 'srresnet'])
@torch.no_grad()
def test_no_checkerboard_on_plain_ground(name):
    """Grey levels, on a flat colour and on faint noise as a camera's; above 0.5 a checkerboard can be seen."""
    generator = load_generator(ROOT / 'weights' / f'{name}.pth').eval()
    noise = torch.randn(1, 3, 60, 80, generator=torch.Generator().manual_seed(0))
    for strength in (0, 1):
        ground = torch.tensor([128, 120, 140]).view(1, 3, 1, 1) + strength * noise
        assert checkerboard(generator(quantize(ground / 255)), generator.scale).item() <= 0.5


def test_no_record_is_left_of_weights_that_went():
    assert set(json.loads(RECORD.read_text())) == {path.name for path in WEIGHTS}


if __name__ == '__main__':
    lines = [f'{json.dumps(path.name)}: {json.dumps(figures(path))}' for path in WEIGHTS]
    RECORD.write_text('{\n' + ',\n'.join(lines).replace('], ', '],\n  ').replace(': {', ': {\n  ') + '\n}\n')
