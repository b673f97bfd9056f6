from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib.inference import boxes
from lib.inference.conversion import Converter
from lib.inference.enlarging import Method
from lib.vocabulary import Vocabulary


@pytest.mark.parametrize('size', [None, (64, 16)])
def test_a_zoom_means_pixels_of_the_original(tmp_path, size):
    image = Image.new('RGB', (82, 41), 'white')
    image.paste('red', (20, 10, 40, 30))
    image.save(tmp_path / 'a.png')
    corners = boxes.polygon([20, 10, 20, 20])
    converter = Converter({'bicubic': Method(scale=4)}, None, Vocabulary(), {}, ds_scale=4, size=size,
                          words_of=lambda *_: [corners])
    job = converter.prepare(tmp_path / 'a.png', Path('a.png'), Path('a.png'))
    cut = np.asarray(boxes.cut(job.hr, job.words['20,10,20,20'])).astype(int)
    assert (np.abs(cut[2:-2, 2:-2] - [255, 0, 0]) < 60).all()
    assert cut.shape[:2] == ((20, 20) if size is None else (8, 15))
