"""The networks as other programs use them: `textsr.py`, `hubconf.py`."""
import io
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import textsr
from lib.checkpoint import save_checkpoint
from lib.imaging import recognizer_input, to_pil, to_tensor
from lib.inference import pretrained
from lib.inference.pretrained import Enlarger, Reader, shipped
from lib.models.generator import Generator

ROOT = Path(__file__).resolve().parent.parent
WORD = ROOT / 'demo_pics' / 'words' / '14_pharmacy.jpg'


@pytest.fixture(scope='module')
def enlarger(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('a folder') / 'run.pth'
    save_checkpoint(path, {'generator': Generator(2, 1, 4).state_dict()})
    return Enlarger(path)


@pytest.fixture(scope='module')
def reader():
    return Reader('aster')


def test_torch_hub_gives_each_network_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    word = Image.open(WORD).resize((128, 32))
    small = word.resize((32, 8))
    for name in ('textsr', 'textsr_x2', 'srgan'):
        assert torch.hub.load(str(ROOT), name, source='local').enlarge(small) == Enlarger(name).enlarge(small)
    assert torch.hub.load(str(ROOT), 'aster', source='local').read(word).lower() == 'pharmacy'


def test_a_generator_of_ones_own_by_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generator = Generator(2, 1, 4)
    save_checkpoint('mine.pth', {'generator': generator.state_dict()})
    model = torch.hub.load(str(ROOT), 'textsr_x2', source='local', weights='mine.pth')
    images = torch.rand(2, 3, 5, 7)
    assert model.scale == 2 and torch.equal(model(images), generator.eval()(images).clamp(0, 1))


def test_every_shipped_file_has_a_name():
    for path in (ROOT / 'weights').glob('*.pth'):
        assert shipped(path.stem) == path
    assert shipped('aster') == ROOT / 'weights' / 'aster_half.pth'
    assert shipped('textsr.pth') == 'textsr.pth' and shipped('./textsr') == './textsr'


@pytest.mark.parametrize(('load', 'name', 'told'), [
    (Enlarger, 'textsrr', 'textsrr: no shipped network; there are .*textsr'),
    (Enlarger, 'aster', 'aster_half.pth: not the state dict of a generator'),
    (Reader, 'textsr', 'textsr.pth: not the state dict of an ASTER'),
    (Reader, 'none/none.pth', 'none.pth: no such checkpoint')])
def test_what_cannot_be_loaded_is_named(load, name, told):
    with pytest.raises((ValueError, OSError), match=told):
        load(name)


def test_a_picture_is_what_the_batch_holds(enlarger):
    pictures = [to_pil(torch.rand(3, 6, 9)), to_pil(torch.rand(3, 8, 5))]
    results = enlarger.enlarge(pictures)
    for picture, result in zip(pictures, results):
        expected = to_tensor(to_pil(enlarger(to_tensor(picture)[None])[0]))
        assert (to_tensor(result) - expected).abs().max() < 1.5 / 255  # a batch of unlike sizes may round otherwise
    assert enlarger.enlarge(pictures[0]).size == (18, 12) and enlarger.enlarge([]) == []


def test_pictures_need_float32_and_batches_of_something(tiny_aster, generators):
    picture, half = to_pil(torch.rand(3, 6, 9)), Enlarger(generators[2]).to(torch.bfloat16)
    reader = Reader(tiny_aster)
    for use in (half.enlarge, Reader(tiny_aster).double().read):
        with pytest.raises(ValueError, match='torch.float32 is needed'):
            use(picture)
    for use in (half.float().enlarge, reader.read):
        for pictures in (picture, [picture]):
            with pytest.raises(ValueError, match='batch_size 0'):
                use(pictures, batch_size=0)


def test_two_threads_get_what_one_gets(enlarger, monkeypatch):
    """Each with pictures of unlike sizes, in batches of two, at the same moment."""
    pictures = [[to_pil(torch.rand(3, 6 + number % 3, 20 - shift * number)) for number in range(6)] for shift in (1, 2)]
    alone = [enlarger.enlarge(some, batch_size=2) for some in pictures]
    together, detail = Barrier(2), enlarger.generator.detail
    monkeypatch.setattr(enlarger.generator, 'detail', lambda batch: (together.wait(20), detail(batch))[1])
    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(lambda some: enlarger.enlarge(some, batch_size=2), pictures))
    assert results == alone


@pytest.mark.parametrize('mode', ['L', 'RGBA', 'P', 'CMYK', '1', 'La', 'I;16'])
def test_pictures_of_all_modes(enlarger, reader, mode):
    picture = Image.new(mode, (12, 8))
    assert enlarger.enlarge(picture).mode == 'RGB'
    assert isinstance(reader.read(picture, beam_width=1), str)


def test_gradients_reach_the_image_and_not_the_weights(enlarger):
    images = torch.rand(1, 3, 4, 6, requires_grad=True)
    enlarger(images).sum().backward()
    assert images.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in enlarger.parameters())


def test_one_word_many_words_and_batches_read_alike(reader):
    pictures = [Image.open(path).convert('RGB') for path in sorted(WORD.parent.glob('*.jpg'))[:3]]
    strings = reader.read(pictures, batch_size=2)
    assert strings == [reader.read(picture) for picture in pictures] and len(set(strings)) > 1
    images = torch.cat([(recognizer_input(to_tensor(picture)[None]) + 1) / 2 for picture in pictures])
    assert reader.read(images) == strings and reader.read([]) == []
    scored = reader.read(pictures, with_scores=True)
    assert [string for string, _ in scored] == strings and reader.read(pictures[1], with_scores=True) == scored[1]
    pictures = [picture.resize((24, 6)) for picture in pictures]
    blurred = reader.read(pictures, with_scores=True)
    assert all(score < sharp <= 0 for (_, score), (_, sharp) in zip(blurred, scored))
    greedy = reader.read(pictures, beam_width=1)
    assert [reader.read(picture, beam_width=1) for picture in pictures] == greedy != [string for string, _ in blurred]


@pytest.mark.parametrize('words', [[Image.new('RGB', (9, 9 + i)) for i in range(6)], torch.rand(6, 3, 9, 9)])
def test_words_are_prepared_batch_by_batch(reader, monkeypatch, words):
    """A recognizer's input is many times as large as a small word."""
    prepared, read = [], []

    def prepare(images):
        prepared.extend(images)
        return recognizer_input(images)

    def read_words(recognizer, vocabulary, images, beam_width):
        read.extend(images)
        assert len(prepared) == len(read)
        return [('', 0.0)] * len(images)

    monkeypatch.setattr(pretrained, 'recognizer_input', prepare)
    monkeypatch.setattr(pretrained, 'read_words', read_words)
    assert len(reader.read(words, batch_size=2)) == len(read) == 6


@pytest.mark.parametrize('images', [torch.rand(3, 8, 8), torch.rand(1, 1, 8, 8), torch.rand(0, 3, 8, 8),
                                    torch.full((1, 3, 8, 8), 255.0), torch.full((1, 3, 8, 8), float('nan')),
                                    torch.zeros(1, 3, 8, 8, dtype=torch.uint8), -torch.ones(1, 3, 8, 8),
                                    torch.rand(1, 3, 8, 8).double(), torch.rand(1, 3, 8, 8).half(),
                                    np.zeros((1, 3, 8, 8), np.float32), 'word.png', Path('word.png'), None])
def test_batches_that_are_no_images_are_refused(enlarger, reader, images):
    for use in (enlarger, reader.read):
        with pytest.raises(ValueError, match=r'a tensor \(N, 3, H, W\), .*float32.* is needed'):
            use(images)


@pytest.mark.parametrize(('pictures', 'told'), [
    (Path('word.png'), 'pictures as .*Path'), ('word.png', 'pictures as str'), (['word.png'], r'pictures\[0\] as str'),
    (np.zeros((8, 8, 3), np.uint8), 'pictures as ndarray'), ([np.zeros((8, 8, 3))], r'pictures\[0\] as ndarray'),
    (Image.new('RGB', (0, 5)), r'pictures\[0\] of 0x5 pixels'), (None, 'pictures as NoneType'),
    ([Image.new('L', (5, 5)), Image.new('L', (5, 0))], r'pictures\[1\] of 5x0 pixels'),
    ([torch.rand(3, 8, 8)], r'pictures\[0\] as Tensor')])
def test_what_is_no_picture_is_refused(enlarger, reader, pictures, told):
    for use in (enlarger.enlarge, reader.read):
        with pytest.raises(ValueError, match=f'{told}.*: a PIL image of at least one pixel, .* is needed'):
            use(pictures)


def test_a_picture_that_cannot_be_decoded_is_named(enlarger, reader):
    for use in (enlarger.enlarge, reader.read):
        cut, dark = Image.open(io.BytesIO(WORD.read_bytes()[:900])), Image.new('F', (4, 4), -1e6)
        for picture, told in ((cut, 'image file is truncated'), (dark, 'its values, from -1e')):
            with pytest.raises(ValueError, match=rf'pictures\[1\]: {told}'):
                use([Image.new('L', (4, 4)), picture])


@pytest.mark.parametrize('other', [{'__path__': ['/elsewhere/lib']}, {'__file__': '/elsewhere/lib.py'}])
def test_a_foreign_module_lib_is_named(monkeypatch, other):
    monkeypatch.setitem(sys.modules, 'lib', SimpleNamespace(**other))
    with pytest.raises(ImportError, match='another module called lib is in use, from /elsewhere/lib'):
        _ = textsr.Enlarger
