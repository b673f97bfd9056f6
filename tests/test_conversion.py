import numpy as np
import pytest
from PIL import Image

from lib.inference import conversion


@pytest.mark.parametrize('size', [None, (64, 16)])
def test_a_zoom_means_pixels_of_the_original(tmp_path, size):
    image = Image.new('RGB', (82, 41), 'white')
    image.paste('red', (20, 10, 40, 30))
    image.save(tmp_path / 'a.png')
    job = conversion.prepare(tmp_path / 'a.png', 'a.png', 4, 4, size, [(20, 10, 20, 20)])
    cut = np.asarray(conversion.cut(job.hr, job.boxes[0])).astype(int)
    assert (np.abs(cut[2:-2, 2:-2] - [255, 0, 0]) < 60).all()
    assert cut.shape[:2] == ((20, 20) if size is None else (8, 15))
