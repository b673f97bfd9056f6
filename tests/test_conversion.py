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
