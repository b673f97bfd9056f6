import json
import math

import pytest

from lib.inference.evaluation import Reading
from lib.inference.tables import markdown, save_tables, summarize

READINGS = [Reading('ic13', 'original', i, 'a', 'none', s, -1.0, correct=s == 'a') for i, s in enumerate('aab')]
READINGS += [Reading('ic13', '32x8', i, 'a', 'textsr', s, -1.5, 20.0 + i, 0.5, s == 'a') for i, s in enumerate('abb')]
READINGS += [Reading('svt', '32x8', 0, 'a', 'textsr', 'A', -1.5, math.inf, 1.0, True)]


def row(rows, name, method):
    return next(row for row in rows if (row['set'], row['method']) == (name, method))


def test_summary_by_set_and_pooled():
    rows = summarize(READINGS)
    assert row(rows, 'ic13', 'none')['accuracy'] == pytest.approx(200 / 3)
    assert row(rows, 'ic13', 'none')['psnr'] is None
    assert row(rows, 'ic13', 'textsr')['psnr'] == 21
    combined = row(rows, 'combined', 'textsr')
    assert combined['words'] == 4 and combined['accuracy'] == 50  # by words, not the mean of 33.3 and 100
    assert combined['ssim'] == pytest.approx(0.625)


def test_psnr_is_of_the_same_pictures_for_all_methods():
    """One that a method restores exactly counts for none."""
    psnr = {'bicubic': [16.0, math.inf, 20.0, math.inf], 'textsr': [20.0, 40.0, 22.0, math.inf]}
    rows = summarize([Reading('svt', '32x8', i, 'a', method, 'a', -1.0, value, 0.5, True)
                      for method, values in psnr.items() for i, value in enumerate(values)])
    assert [row['psnr'] for row in rows] == [18, 21] and rows[0]['images'] == 4
    assert math.isnan(summarize(READINGS[-1:])[0]['psnr'])


def test_labels_without_a_letter_or_digit_are_counted_apart():
    rows = summarize([*READINGS, READINGS[0]._replace(label='&', string='', correct=None)])
    assert [row(rows, 'ic13', 'none')[key] for key in ('images', 'words', 'accuracy')] == [4, 3, pytest.approx(200 / 3)]
    text = markdown(rows, ['ic13', 'svt'])
    assert '| ic13 | 3 | none | 66.7 |' in text and 'ic13: 1 more without a letter or digit' in text
    alone = [READINGS[0]._replace(label='&', string='', correct=None)]
    assert summarize(alone)[0]['accuracy'] is None and 'ic13: 1 more without' in markdown(summarize(alone))


def test_differences_are_paired_by_word():
    strings = {'bicubic': 'aabbbbba', 'textsr': 'aaaabbbb'}
    readings = [Reading('svt', '32x8', i, 'a', method, s, -1.0, correct=s == 'a')
                for method, text in strings.items() for i, s in enumerate(text)]
    rows = summarize(readings)
    first, second = row(rows, 'svt', 'bicubic'), row(rows, 'svt', 'textsr')
    assert first['difference'] is None and second['difference'] == pytest.approx(100 / 8)
    by_word = [0, 0, 100, 100, 0, 0, 0, -100]
    variance = sum((value - 100 / 8) ** 2 for value in by_word) / 7
    assert second['standard_error'] == pytest.approx(math.sqrt(variance / 8))
    text = markdown(rows, differences=True)
    assert 'Difference to bicubic in points' in text and '| svt | 8 | textsr | +12.5 ± 22.7 |' in text
    assert 'Difference' not in markdown(rows)
    assert summarize(readings[:1] + readings[8:9])[1]['standard_error'] is None  # one word has none


def test_one_set_needs_no_combined_row():
    assert {row['set'] for row in summarize(READINGS[:3])} == {'ic13'}


def test_markdown_keeps_the_order_and_shows_gaps():
    text = markdown(summarize(READINGS), ['svt', 'cute', 'ic13'])
    accuracy = text.split('\n\n')[1].splitlines()
    names = [line.split('|')[1].strip() for line in accuracy[2:]]
    assert list(dict.fromkeys(names)) == ['svt', 'cute', 'ic13', 'combined']
    assert '| cute | - |' in text
    assert len({line.count('|') for line in accuracy}) == 1
    assert '| ic13 | 3 | textsr | - | 33.3 |' in text
    assert '21.00 / 0.5000' in text


def test_names_do_not_make_columns():
    text = markdown(summarize([reading._replace(set='a|b', method='x|y') for reading in READINGS[:3]]))
    assert r'| a\|b | 3 | x\|y | 66.7 |' in text


def test_saved_files(tmp_path):
    rows = summarize(READINGS)
    save_tables(tmp_path, rows, [READINGS[0]._replace(label='a\tb\n"c"'), READINGS[4]], 'table')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['predictions.tsv', 'results.json', 'results.md']
    lines = (tmp_path / 'predictions.tsv').read_text().splitlines()
    assert lines[0].split('\t') == ['set', 'lr_size', 'index', 'label', 'method', 'string', 'score', 'correct', 'psnr',
                                    'ssim']
    assert lines[1].split('\t') == ['ic13', 'original', '0', 'a b "c"', 'none', 'a', '-1.0000', '1', '', '']
    assert lines[2].split('\t')[5:] == ['b', '-1.5000', '0', '21.0000', '0.5000']
    cells = json.loads((tmp_path / 'results.json').read_text(), parse_constant=pytest.fail)
    assert row(cells, 'svt', 'textsr')['psnr'] is None and row(cells, 'svt', 'textsr')['accuracy'] == 100
