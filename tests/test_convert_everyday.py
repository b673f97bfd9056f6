"""convert.py without --ds_scale: pictures as arguments, TextSR alone, words of photographs."""
import json
import os
import re
import subprocess
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import files, photo
from PIL import Image, ImageCms, ImageDraw, features

import convert
from lib.imaging import read_image
from lib.inference import conversion
from lib.inference.files import find_images
from lib.inference.flags import parse_args
from lib.vocabulary import Vocabulary

ROOT = Path(convert.__file__).resolve().parent


@pytest.mark.parametrize(('scale', 'methods', 'file'), [
    ('2', ['bicubic', 'textsr'], 'textsr_x2.pth'), ('4', ['bicubic', 'srgan', 'textsr'], 'textsr_32x8.pth')])
def test_measuring_takes_the_shipped_generators_of_the_scale(scale, methods, file, tmp_path):
    assert Path(parse_args(['--ds_scale', scale]).paths['textsr']).name == file
    Image.effect_noise((64, 32), 60).save(tmp_path / 'word.png')
    assert convert.main(['-i', str(tmp_path / 'word.png'), '-o', str(tmp_path / 'out'), '--ds_scale', scale,
                         '--no_read', '--no_compare']) == 0
    assert sorted(path.parent.name for path in (tmp_path / 'out').glob('*/word.png')) == methods


def test_a_picture_from_a_folder_with_a_blank_in_its_name(tmp_path, monkeypatch, capsys):
    folder = tmp_path / 'my pictures'
    folder.mkdir()
    (folder / 'the word.jpg').write_bytes((ROOT / 'demo_pics/words/07_pharmacy.jpg').read_bytes())
    monkeypatch.chdir(folder)
    assert (convert.main(['the word.jpg']), capsys.readouterr().out) == (0, 'the word.jpg\tPharmacy\n')
    assert files(folder) == ['enlarged/the word.png', 'the word.jpg']
    size = Image.open(folder / 'the word.jpg').size
    assert Image.open(folder / 'enlarged/the word.png').size == (4 * size[0], 4 * size[1])


def test_help_and_wrong_flags_come_before_torch(tmp_path):
    code = """
import sys, convert
for flags in (['--help'], ['word.png', '--boxes', 'missing.txt'], [], ['missing.png']):
    try:
        status = convert.main(flags)
    except SystemExit as error:
        status = error.code
    print(status, {'torch', 'numpy'} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True, timeout=60,
                          env={**os.environ, 'PYTHONPATH': str(ROOT)})
    assert done.stdout.splitlines()[-4:] == ['0 set()', '2 set()', '2 set()', '2 set()'], done.stderr


def test_without_figures_no_rows_are_kept(run, tmp_path, read_as_sale, monkeypatch):
    """A folder may have millions of pictures."""
    rows, convert_window = [], conversion.Converter.convert

    def watched(self, jobs):
        assert not any(row() for row in rows[:-1])  # of the windows before the last one
        made = convert_window(self, jobs)
        rows.extend(map(weakref.ref, made))
        return made

    monkeypatch.setattr(conversion.Converter, 'convert', watched)
    for name in ('a.png', 'b.png', 'c.png'):
        photo((16, 8)).save(tmp_path / name)
    status, printed, reported = run('a.png', 'b.png', 'c.png', '--batch_size', 1)
    assert (status, len(rows)) == (0, 3) and '3 of 3 images' in reported


def test_strings_stand_beside_the_names(run, tmp_path, read_as_sale, generators):
    for name in ('a.png', 'b c.png'):
        photo().save(tmp_path / name)
    status, printed, reported = run('b c.png', tmp_path / 'a.png', '-o', 'large')
    assert (status, printed) == (0, 'b c.png\tSALE\na.png\tSALE\n')
    assert '2 of 2 images' in reported and files(tmp_path / 'large') == ['a.png', 'b c.png']
    assert run('-i', 'a.png', '--no_read')[1] == '' and len(read_as_sale) == 4, 'each by bicubic interpolation too'
    for flags, count in (((), 2), (('--read_both',), 3)):  # methods that are compared have their own strings
        read_as_sale.clear()
        printed = run('a.png', '--methods', 'bicubic', 'textsr', '-o', 'both', *flags)[1]
        assert printed == 'a.png\tbicubic: SALE\tTextSR: SALE\n' and len(read_as_sale) == count
    read_as_sale.clear()
    run('a.png', '--methods', 'textsr', f'mine={generators[4]}', '-o', 'two', '--read_both')
    assert len(read_as_sale) == 3, 'by bicubic interpolation once for both'


def test_methods_choose_what_is_done(run, tmp_path, generators):
    photo().save(tmp_path / 'a.png')
    assert run('a.png', '--methods', 'bicubic', f'mine={generators[4]}', '--no_compare')[0] == 0
    assert files(tmp_path / 'enlarged') == ['bicubic/a.png', 'mine/a.png']
    status, _, reported = run('a.png', '--methods', f'mine={generators[2]}', '-o', 'small.png')
    assert status == 0 and 'converted into small.png' in reported
    assert Image.open(tmp_path / 'small.png').size == (74, 36), 'twice, as the file enlarges'
    assert run('a.png', '--methods', 'bicubic', '-o', 'plain')[0] == 0
    assert files(tmp_path / 'plain') == ['a.png']


@pytest.mark.parametrize('flags, told', [
    (['a.png', '--methods', 'textsrr'], r'--methods textsrr: give bicubic, .*srgan.*, textsr.* or NAME=FILE'),
    (['--methods', 'textsr', 'a.png'], 'give an image .*; images stand before --methods'),
    (['a.png', '--methods', 'x=missing.pth'], 'missing.pth'),
    (['--methods', 'textsr', 'a.png', '-i', 'a.png'], 'images stand before --methods'),
    (['a.png', '--methods', 'Compare=x.pth'], "folder 'Compare'"),
    (['a.png', '--methods', 'metrics.tsv=x.pth'], "folder 'metrics.tsv'"),
    (['a.png', '--methods', 'TextSR=x.pth', 'textsr'], 'another name'), (['a.png', '--methods', 'a/b=x.pth'], 'a/b'),
    (['a.png', '--methods', 'textsr', 'textsr'], 'another name'), (['a.png', '-o', '.'], 'among the inputs'),
    (['a.png', '-o', 'a.png'], 'take the place of an input'),
    (['a.png', '--no_read', '--labels', 'gt.txt'], '--labels gt.txt: .* with --no_read'),
    (['a.png', '--no_read', '--read_both'], '--read_both: .* with --no_read'),
    (['a.png', '-o', 'b.jpg'], 'NAME.png'), (['a.png', '-o', 'b.tif'], 'b.tif: results are PNG; give NAME.png'),
    (['a.png', 'a.png', '-o', 'b.png'], 'give a folder'),
    (['a.png', '--boxes', 'missing'], 'missing'), (['a.png', '--background', 'sky'], '--background sky'),
    ([''], 'images: its value is empty'), (['a.png', '-o', ''], '--out_path: its value is empty'),
    (['a.png', '--methods', 'bicubic', ''], '--methods: its value is empty'),
    (['a.png', '--methods', 'textsr='], '--methods textsr=: a FILE is missing'),
])
def test_flags_that_cannot_be(run, tmp_path, flags, told):
    photo().save(tmp_path / 'a.png')
    status, printed, reported = run(*flags)
    assert status == 2 and printed == '' and re.search(told, reported.splitlines()[-1])
    assert files(tmp_path) == ['a.png']


def test_sub_folders_are_kept(run, tmp_path):
    for name in ('a.png', 'x/a.png', 'x/y/b.jpg', 'x/.hidden/c.png'):
        (tmp_path / 'in' / name).parent.mkdir(parents=True, exist_ok=True)
        photo().save(tmp_path / 'in' / name)
    for _ in range(2):  # the second time its own results lie in the folder
        assert run('in', '--recursive', '-o', 'in/large')[0] == 0
        assert files(tmp_path / 'in/large') == ['a.png', 'x/a.png', 'x/y/b.png']
    assert run('in', '-o', 'flat')[0] == 0 and files(tmp_path / 'flat') == ['a.png']
    assert run('in', '--recursive', '-o', 'two', '--methods', 'bicubic', 'textsr')[0] == 0
    for part in ('bicubic', 'textsr'):
        assert {f'{part}/a.png', f'{part}/x/a.png', f'{part}/x/y/b.png'} <= set(files(tmp_path / 'two'))


def test_earlier_results_below_a_source_are_no_inputs(run, tmp_path, generators):
    for name in ('a.png', 'x/original/b.png'):  # original: of figures alone, no folder of results
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        photo().save(tmp_path / name)
    for flags in ([], ['--methods', 'bicubic', 'textsr'], ['--methods', f'mine={generators[4]}', '--no_compare']):
        assert '2 of 2 images' in run('.', '--recursive', *flags)[2]
    for methods in (['bicubic', 'textsr'], ['bicubic', '--no_compare'], [f'mine={generators[4]}'], ['bicubic']):
        assert '2 of 2 images' in run('x', 'a.png', '--recursive', '-o', 'x', '--ds_scale=4', '--methods', *methods)[1]
    assert [str(name) for _, name in find_images(['.'], True)[0]][:2] == ['a.png', 'enlarged/a.png'], 'asked for'


def test_a_picture_beside_the_input_is_not_written_over(run, tmp_path):
    photo().save(tmp_path / 'scan.jpg')
    photo(seed=1).save(tmp_path / 'scan.png')
    before = (tmp_path / 'scan.png').read_bytes()
    for source in ('scan.jpg', tmp_path / 'scan.jpg'):
        status, _, reported = run(source, '-o', tmp_path)
        assert status == 2 and 'results would go among the inputs' in reported
    assert (tmp_path / 'scan.png').read_bytes() == before and files(tmp_path) == ['scan.jpg', 'scan.png']
    assert run('scan.jpg', '-o', 'large.png')[0] == 0 and files(tmp_path) == ['large.png', 'scan.jpg', 'scan.png']


def test_boxes_and_labels_without_effect(run, tmp_path, read_as_sale):
    for name in ('a/img.png', 'b/img.png'):
        (tmp_path / name).parent.mkdir()
        photo((300, 90)).save(tmp_path / name)
    (tmp_path / 'boxes.txt').write_text('a/img.png\t40,30,80,20\nc.png\t0,0,9,9\n')
    status, printed, reported = run('a', 'b', '--boxes', 'boxes.txt')
    assert (status, printed) == (0, 'a/img.png\t40,30,80,20\tSALE\nb/img.png\tSALE\n')
    assert reported.splitlines()[0] == \
        '--boxes boxes.txt: 1 of 2 images without boxes: b/img.png; 1 names in it of no image: c.png'
    (tmp_path / 'boxes.txt').write_text('c.png\t0,0,9,9\n')
    status, printed, reported = run('a', '--boxes', 'boxes.txt', '-o', 'none')
    assert (status, printed) == (2, '') and len(reported.splitlines()) == 1 and 'error: --boxes boxes.txt' in reported
    (tmp_path / 'gt.txt').write_text('img.png\tx\n')
    flags = ['a', '--no_read', '--labels', 'gt.txt', '-o', 'none', '--methods', 'bicubic', 'textsr']
    assert run(*flags, '--no_compare')[0] == 2 and not (tmp_path / 'none').exists()
    assert run(*flags)[0] == 0, 'drawings show the labels'
    assert not (tmp_path / 'none/sheets').exists() and not (tmp_path / 'none/compare/.original').exists()


def test_transparency_is_kept(run, tmp_path):
    image = Image.new('RGBA', (40, 20), (0, 255, 0, 0))  # green where nothing is seen of it
    ImageDraw.Draw(image).rectangle((10, 5, 29, 14), fill=(200, 0, 0, 255))
    image.save(tmp_path / 'a.png')
    image.quantize(8).save(tmp_path / 'palette.png')
    image.putalpha(255)
    image.save(tmp_path / 'opaque.png')
    assert run('a.png', 'palette.png', 'opaque.png', '--methods', 'bicubic')[0] == 0
    for name in ('a', 'palette'):
        result = Image.open(tmp_path / f'enlarged/{name}.png')
        assert (result.mode, result.size) == ('RGBA', (160, 80))
        pixels = np.asarray(result).astype(int)
        assert (pixels[..., 3] > 250).sum() == pytest.approx(80 * 40, rel=0.2) and pixels[:10, :, 3].max() == 0
        assert np.abs(pixels[..., :3] - [200, 0, 0]).max() < 12, 'the colour of what is clear is seen at the edges'
    assert Image.open(tmp_path / 'enlarged/opaque.png').mode == 'RGB'
    assert run('a.png', '--ds_scale=1', '--methods', 'bicubic', '-o', 'measured')[0] == 0
    assert Image.open(tmp_path / 'measured/bicubic/a.png').mode == 'RGB', 'measured on white, as ever'


def test_light_words_on_nothing_are_read_and_drawn_on_black(run, tmp_path, monkeypatch):
    image = Image.new('RGBA', (40, 20), (255, 255, 255, 0))
    ImageDraw.Draw(image).rectangle((10, 5, 29, 14), fill='white')
    image.save(tmp_path / 'a.png')
    seen = []

    def build_reader(args, device):
        return lambda pictures: [seen.append(picture) or ('SALE', 0.0) for picture in pictures], Vocabulary()
    monkeypatch.setattr('lib.inference.build.build_reader', build_reader)
    monkeypatch.setattr('lib.inference.build.Detector', lambda: SimpleNamespace(
        of=lambda path, picture: seen.append(picture) or []))
    assert run('a.png', '--boxes', 'auto', '--methods', 'bicubic', 'textsr')[0] == 0
    for picture in seen:
        corner, middle = (np.asarray(picture.resize((40, 20)))[place].astype(int) for place in ((2, 2), (10, 20)))
        assert picture.mode == 'RGB' and corner.max() < 20 and middle.min() > 235
    assert len(seen) == 3 and Image.open(tmp_path / 'enlarged/bicubic/a.png').mode == 'RGBA'
    drawing = np.asarray(Image.open(tmp_path / 'enlarged/compare/a.png').convert('L'))
    assert (drawing < 20).mean() > 0.3


@pytest.mark.parametrize('flags', [['--methods', 'bicubic'], ['--methods', 'textsr', '--background', 'textsr']])
def test_transparency_is_kept_where_the_method_is_the_background(run, tmp_path, flags):
    image = photo((200, 100))
    image.putalpha(Image.linear_gradient('L').resize(image.size))
    image.save(tmp_path / 'a.png')
    for folder, words in (('whole', []), ('zoom', ['--zoom', '40,30,80,20'])):
        assert run('a.png', '--no_read', '-o', folder, *words, *flags)[0] == 0
    whole, zoom = (np.asarray(Image.open(tmp_path / folder / 'a.png')) for folder in ('whole', 'zoom'))
    assert zoom.shape == (400, 800, 4) and (zoom == whole).all()


def test_all_of_a_photograph_and_no_string(run, tmp_path, read_as_sale):
    photo((400, 300)).save(tmp_path / 'a.png')
    status, printed, _ = run('a.png')
    assert (status, printed, read_as_sale) == (0, '', [])
    assert Image.open(tmp_path / 'enlarged/a.png').size == (1600, 1200)
    photo((200, 192)).save(tmp_path / 'a.png')
    assert run('a.png')[1] == 'a.png\tSALE\n', 'a word, however large'


def test_a_picture_of_any_size_is_read_where_its_words_are_marked(run, tmp_path, read_as_sale):
    photo((300, 90)).save(tmp_path / 'a.png')
    assert run('a.png', '--zoom', '40,30,80,20')[1] == 'a.png\t40,30,80,20\tSALE\n' and read_as_sale == 2 * [(320, 80)]
    (tmp_path / 'boxes.txt').write_text('a.png\t200,50,60,20\n')
    assert run('a.png', '--boxes', 'boxes.txt')[1] == 'a.png\t200,50,60,20\tSALE\n'


def test_words_of_a_photograph_are_put_into_its_ground(run, tmp_path, read_as_sale):
    photo((400, 300)).save(tmp_path / 'a.png')
    (tmp_path / 'boxes.txt').write_text('a.png\t200,150,60,20\nb.png\t0,0,9,9\n')
    status, printed, reported = run('a.png', '--zoom', '40,30,80,20', '--boxes', 'boxes.txt', '--zoom', '999,0,5,5')
    assert status == 0 and printed == 'a.png\t40,30,80,20\tSALE\na.png\t200,150,60,20\tSALE\n'
    assert read_as_sale == 2 * [(320, 80), (240, 80)] and '999,0,5,5 lies outside' in reported
    assert run('a.png', '-o', 'ground', '--methods', 'bicubic')[0] == 0
    assert run('a.png', '-o', 'whole')[0] == 0
    result, ground, whole = (np.asarray(read_image(tmp_path / folder / 'a.png')).astype(int)
                             for folder in ('enlarged', 'ground', 'whole'))
    untouched = np.ones(result.shape[:2], dtype=bool)
    for x, y, width, height in ((40, 30, 80, 20), (200, 150, 60, 20)):
        untouched[4 * (y - 5):4 * (y + height + 5), 4 * (x - 5):4 * (x + width + 5)] = False
        inner = (slice(4 * y, 4 * (y + height)), slice(4 * x, 4 * (x + width)))
        assert np.abs(result[inner] - whole[inner]).mean() < 0.2 * np.abs(ground[inner] - whole[inner]).mean()
    assert (result == ground)[untouched].all()
    assert run('a.png', '--zoom', '40,30,80,20', '--background', 'textsr', '-o', 'own')[0] == 0
    assert np.abs(np.asarray(read_image(tmp_path / 'own/a.png')) - whole).max() <= 1


def test_measured_with_words_each_method_enlarges_the_whole(run, tmp_path):
    photo((200, 100)).save(tmp_path / 'a.png')
    flags = ('a.png', '--ds_scale', 4, '--methods', 'bicubic', 'textsr', '--no_read')
    for folder, words in (('whole', ()), ('words', ('--zoom', '40,30,80,20'))):
        assert run(*flags, '-o', folder, *words)[0] == 0
    whole, words = (np.asarray(Image.open(tmp_path / folder / 'textsr/a.png')) for folder in ('whole', 'words'))
    assert (whole == words).all()


def test_a_background_is_a_network_of_its_own(run, tmp_path, generators):
    photo((100, 60)).save(tmp_path / 'a.png')
    flags = ('a.png', '--no_read', '--zoom', '20,15,40,20')
    for folder, background in (('textsr', f'textsr={ROOT / "weights/srgan.pth"}'), ('srgan', 'srgan')):
        assert run(*flags, '--background', background, '-o', folder)[0] == 0
    assert (tmp_path / 'textsr/a.png').read_bytes() == (tmp_path / 'srgan/a.png').read_bytes()
    assert run(*flags, '--methods', f'a={generators[4]}', '--background', 'a', '-o', 'method')[0] == 0
    status, _, reported = run(*flags, '--background', f'textsr={generators[2]}')
    assert status == 2 and f'--background textsr: {generators[2]}: enlarges 2 times' in reported


def test_a_photograph_whose_words_all_lie_outside_is_left_out(run, tmp_path):
    photo((400, 300)).save(tmp_path / 'a.png')
    status, _, reported = run('a.png', '--zoom', '999,0,5,5')
    assert status == 1 and 'a.png: left out: none of its boxes lies inside' in reported and not files(tmp_path)[1:]


def test_a_result_larger_than_pillow_opens_is_on_the_page(run, tmp_path, monkeypatch):
    photo((40, 20)).save(tmp_path / 'a.png')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1000)  # the result has 12,800
    assert run('a.png', '--methods', 'bicubic', 'textsr', '--no_read', '-o', 'out')[0] == 0
    assert '"width":160,"height":80' in (tmp_path / 'out/compare/index.html').read_text()


def test_the_colour_profile_stays_and_further_frames_are_told(run, tmp_path, monkeypatch):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    photo().save(tmp_path / 'a.png', icc_profile=profile)
    photo().convert('CMYK').save(tmp_path / 'b.jpg', icc_profile=profile.replace(b'RGB ', b'CMYK', 1))
    photo().save(tmp_path / 'c.tif', save_all=True, append_images=[photo(seed=1)])
    clear = photo().convert('RGBA')
    clear.putpixel((0, 0), (0, 0, 0, 0))
    clear.save(tmp_path / 'd.png', icc_profile=profile)
    photo().convert('RGBA').save(tmp_path / 'e.png', icc_profile=profile)
    status, _, reported = run('a.png', 'b.jpg', 'c.tif', 'd.png', 'e.png', '--no_read')
    assert status == 0 and reported.count('frames') == 1 and 'c.tif: the first of its 2 frames or pages' in reported
    kept = [Image.open(tmp_path / f'enlarged/{name}.png').info.get('icc_profile') for name in 'abcde']
    assert kept == [profile, None, None, profile, profile]
    monkeypatch.setattr(conversion, 'KEPT_PIXELS', 100)
    assert run('a.png', '--ds_scale=4', '--methods', 'bicubic', '-o', 'measured')[0] == 0
    for name in ('bicubic/a.png', 'compare/.original/a.png'):
        assert Image.open(tmp_path / 'measured' / name).info.get('icc_profile') == profile


def test_an_image_given_twice_is_converted_once(run, tmp_path):
    photo().save(tmp_path / 'a.png')
    status, printed, _ = run('a.png', tmp_path / 'a.png', '--no_read')
    assert status == 0 and files(tmp_path / 'enlarged') == ['a.png']
    os.link(tmp_path / 'a.png', tmp_path / 'b.png')  # a name of its own, and so a result of its own
    assert run('a.png', 'b.png', '--no_read')[0] == 0 and files(tmp_path / 'enlarged') == ['a.png', 'b.png']


def test_an_image_counts_as_done_when_its_result_is_there(run, tmp_path, monkeypatch):
    photo().save(tmp_path / 'a.png')
    there = []
    save = conversion.Converter._save

    def watched(converter, job):
        converter.done = lambda: there.append(files(tmp_path / 'enlarged'))
        save(converter, job)
    monkeypatch.setattr(conversion.Converter, '_save', watched)
    assert run('a.png')[0] == 0 and there == [['a.png']]


@pytest.mark.skipif('avif' not in features.get_supported(), reason='this Pillow has no AVIF')
def test_avif(run, tmp_path):
    photo().save(tmp_path / 'a.avif')
    assert [str(name) for _, name in find_images([tmp_path])[0]] == ['a.avif']
    assert run(tmp_path)[0] == 0 and files(tmp_path / 'enlarged') == ['a.png']


def test_the_page_shows_every_image(run, tmp_path, read_as_sale):
    for name in ('a.png', '50%25 "süß" <script>.png'):
        photo().save(tmp_path / name)
    photo((300, 220)).save(tmp_path / 'photo.png')
    (tmp_path / 'gt.txt').write_text('a.png\tSOLE\n')
    status, _, reported = run('a.png', '50%25 "süß" <script>.png', 'photo.png', '--zoom', '20,20,60,20', '--labels',
                              'gt.txt', '--methods', 'bicubic', 'textsr')
    assert status == 0 and '--labels gt.txt: 2 of 3 images without a label' in reported
    page = (tmp_path / 'enlarged/compare/index.html').read_text(encoding='utf-8')
    assert not re.search(r'(src|href)=|https?:|@import|url\(', page), 'something is fetched'
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])
    assert data['methods'] == {'bicubic': 'bicubic', 'textsr': 'TextSR'}
    first, strange, scene = data['images']
    assert (first['label'], first['width'], first['height']) == ('SOLE', 148, 72)
    version = first['versions']['textsr']
    assert version['string'] == [['S', True], ['A', False], ['LE', True]] and version['errors'] == 1
    from urllib.parse import unquote
    for image in data['images']:
        for version in image['versions'].values():
            assert (tmp_path / 'enlarged/compare' / unquote(version['src'])).is_file()
    assert strange['name'] == '50%25 "süß" <script>.png' and page.count('<script>') == 1
    assert scene['versions']['textsr']['string'] is None
    assert scene['words'] == [{'box': '20,20,60,20', 'strings': {name: [['SALE', True]] for name in data['methods']}}]
