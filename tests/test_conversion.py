from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import photo
from PIL import Image

from lib.datasets.samples import make_pair
from lib.imaging import to_pil, to_tensor
from lib.inference import boxes
from lib.inference.conversion import Converter
from lib.inference.enlarging import Method
from lib.vocabulary import Vocabulary


class Darkening(Method):
    """Makes black what is darker than middle grey, and white what is lighter."""

    def pictures(self, images, *options):
        for index, picture in super().pictures(images, *options):
            yield index, picture.point(lambda level: 255 * (level > 127))


def strings_of(path, picture, **options):
    """{method: strings} of the words at the left and right of a picture, by a reader whose string is the brightness and
    that is surest of what is dark."""
    def read(pictures):
        levels = [float(np.asarray(picture).mean()) for picture in pictures]
        return [(f'{level:.0f}', -level) for level in levels]

    picture.save(path / 'a.png')
    methods = {'bicubic': Method(scale=4), 'dark': Darkening(scale=4)}
    converter = Converter(methods, read, Vocabulary(), dict.fromkeys(methods, path / 'out'), **options)
    rows = converter.convert([converter.prepare(path / 'a.png', Path('a.png'), Path('a.png'))])
    return {method: [row.string for row in rows if row.method == method and row.string] for method in methods}


def test_of_two_readings_the_more_certain_one_is_kept(tmp_path):
    photograph = Image.new('RGB', (400, 300), (200,) * 3)
    photograph.paste((100,) * 3, (0, 0, 200, 300))
    words = {'ground': Method(scale=4),
             'words_of': lambda *_: [boxes.corners_of([x, 100, 60, 30]) for x in (40, 300)]}
    assert strings_of(tmp_path, photograph, **words) == {'bicubic': ['100', '200'], 'dark': ['0', '255']}
    both = strings_of(tmp_path, photograph, **words, read_both=True)
    assert both == {'bicubic': ['100', '200'], 'dark': ['0', '200']}
    light = Image.new('RGBA', (40, 20), (160, 160, 160, 255))
    assert strings_of(tmp_path, light, read_both=True) == {'bicubic': ['160'], 'dark': ['160']}
    light.putalpha(0)  # what is transparent is read on white
    assert strings_of(tmp_path, light, read_both=True, keep_alpha=True) == {'bicubic': ['255'], 'dark': ['255']}
    light.paste((200, 200, 200, 255), (0, 0, 20, 20))  # on black, where it is the lighter
    strings = strings_of(tmp_path, light, read_both=True, keep_alpha=True)
    assert strings['bicubic'] == strings['dark'] and 90 < int(strings['dark'][0]) < 110


def test_a_drawing_marks_wrong_letters_of_the_recognizers_alphabet(tmp_path):
    photo((40, 20)).convert('L').save(tmp_path / 'a.png')
    converter = Converter({'bicubic': Method(scale=4)}, lambda pictures: [('ж', 0.0)], Vocabulary(alphabet='жя'),
                          {'bicubic': tmp_path / 'out'}, tmp_path / 'drawn', labels={tmp_path / 'a.png': 'я'})
    converter.convert([converter.prepare(tmp_path / 'a.png', Path('a.png'), Path('a.png'))])
    red, green, _ = np.moveaxis(np.asarray(Image.open(tmp_path / 'drawn/a.png')).astype(int), 2, 0)
    assert (red - green > 100).sum() > 20


def test_what_is_restored_is_what_a_test_of_main_restores(tmp_path):
    photo((150, 41)).save(tmp_path / 'a.png')
    converter = Converter({'bicubic': Method(scale=4)}, None, Vocabulary(), {}, ds_scale=4, size=(128, 32))
    job = converter.prepare(tmp_path / 'a.png', Path('a.png'), Path('a.png'))
    hr, lr = make_pair(to_tensor(photo((150, 41)))[None], None, (32, 128), 4, 'bicubic', seed=0)
    assert torch.equal(job.lr, lr) and np.array_equal(job.hr, to_pil(hr))


@pytest.mark.parametrize('size', [None, (64, 16)])
def test_a_zoom_means_pixels_of_the_original(tmp_path, size):
    image = Image.new('RGB', (82, 41), 'white')
    image.paste('red', (20, 10, 40, 30))
    image.save(tmp_path / 'a.png')
    corners = boxes.corners_of([20, 10, 20, 20])
    converter = Converter({'bicubic': Method(scale=4)}, None, Vocabulary(), {}, ds_scale=4, size=size,
                          words_of=lambda *_: [corners])
    job = converter.prepare(tmp_path / 'a.png', Path('a.png'), Path('a.png'))
    cut = np.asarray(boxes.cut(job.hr, job.words['20,10,20,20'])).astype(int)
    assert (np.abs(cut[2:-2, 2:-2] - [255, 0, 0]) < 60).all()
    assert cut.shape[:2] == ((20, 20) if size is None else (8, 15))
