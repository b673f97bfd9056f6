"""What a conversion leaves beside its pictures."""
import json
import math

import numpy as np
import pytest
from helpers import photo
from PIL import Image

from lib.imaging import read_image
from lib.inference import page, report
from lib.inference.conversion import Row
from lib.inference.report import save_metrics, save_sheets
from lib.inference.tables import summarize


def test_sheets_of_gains_and_failures(tmp_path, monkeypatch):
    colors = {'gain.png': (9, 0, 0), 'lost.png': (0, 9, 0), 'unread.png': (0, 0, 9), 'both.png': (9, 9, 0),
              'seen.png': (9, 0, 9)}
    right = dict(zip(colors, [(False, True), (True, False), (False, False), (True, True), (False, False)]))
    (tmp_path / 'compare').mkdir()
    for name in colors:
        Image.new('RGB', (20, 10), colors[name]).save(tmp_path / 'compare' / name)
    rows = [Row(name, name, method, correct=value) for name in sorted(colors, reverse=True)
            for method, value in zip(('bicubic', 'textsr'), right[name])]
    rows.append(Row('seen.png', 'seen.png', 'original', correct=True))
    save_sheets([*rows, Row('no label.png', 'no label.png', 'textsr')], tmp_path)

    def drawn(sheet):
        """Names of the drawings on it, from the top."""
        column = [tuple(pixel) for pixel in np.asarray(read_image(tmp_path / 'sheets' / sheet))[:, 15]]
        order = [color for color in dict.fromkeys(column) if color != (255, 255, 255)]
        return [name for color in order for name in colors if colors[name] == color]

    assert drawn('gained.png') == ['gain.png']
    assert drawn('failed.png') == ['lost.png', 'seen.png', 'unread.png'], 'what bicubic reads comes first'
    monkeypatch.setattr(report, 'SHEET', 2)
    save_sheets(rows, tmp_path)
    assert drawn('failed.png') == ['lost.png', 'seen.png']
    save_sheets([row for row in rows if row.result == 'lost.png'], tmp_path)
    assert sorted(path.name for path in (tmp_path / 'sheets').iterdir()) == ['failed.png'], 'gained.png was of before'


def test_pictures_that_are_restored_exactly_have_no_psnr_in_json(tmp_path):
    rows = [Row('a.png', 'a.png', 'textsr', psnr=math.inf, ssim=1.0)]
    save_metrics(rows, summarize(rows), {}, {}, tmp_path)
    content = json.loads((tmp_path / 'metrics.json').read_text(), parse_constant=pytest.fail)
    assert content['methods'] == {'textsr': {'images': 1, 'psnr': None, 'ssim': 1.0}}
    version = page.entry(rows, {'textsr': 'a.png'}, str)['versions']['textsr']
    assert (version['psnr'], version['ssim']) == (None, '1.0000')


def test_figures_that_cannot_be_written_are_named_and_the_pictures_stay(run, tmp_path):
    photo((8, 4)).save(tmp_path / 'a.png')
    (tmp_path / 'enlarged/metrics.tsv').mkdir(parents=True)
    status, _, reported = run('a.png', '--methods', 'bicubic', 'textsr', '--no_read')
    assert status == 1 and 'metrics.tsv' in reported and '1 of 1 images' in reported
    assert (tmp_path / 'enlarged/textsr/a.png').is_file()
