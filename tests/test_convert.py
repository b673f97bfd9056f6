import csv
import json
import os
import zlib
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from helpers import largest_file, photo, status_of
from PIL import Image, ImageDraw, ImageFont

import convert
from lib.checkpoint import load_aster
from lib.imaging import read_image, recognizer_input, to_tensor
from lib.inference import conversion
from lib.inference.build import build_enlargers, build_reader
from lib.inference.evaluation import read_words
from lib.inference.files import output_names
from lib.inference.flags import parse_args
from lib.metrics import psnr
from lib.options import ASTER_PATH
from lib.vocabulary import vocabulary_of


@pytest.fixture
def run(tmp_path, generators, tiny_aster, capsys):
    """run(image_path, *flags) -> (exit status, what was printed, what was reported); results are in tmp_path/'out'."""
    def call(image_path, *flags, scale=4):
        argv = ['--image_path', str(image_path), '--out_path', str(tmp_path / 'out'), '--srgan_path', generators[scale],
                '--textsr_path', generators[scale], '--aster_path', tiny_aster, '--beam_width', '1', '--ds_scale', '4',
                *map(str, flags)]
        return (status_of(convert.main, argv), *capsys.readouterr())
    return call


def word(text='HELLO'):
    image = Image.new('RGB', (160, 48), 'white')
    ImageDraw.Draw(image).text((16, 2), text, fill='black', font=ImageFont.load_default(36))
    return image


def names_in(path):
    return sorted(entry.name for entry in path.iterdir())


def table(tmp_path):
    with open(tmp_path / 'out' / 'metrics.tsv', encoding='utf-8', newline='') as file:
        return list(csv.DictReader(file, delimiter='\t'))


def test_the_published_command_in_another_folder(folder, monkeypatch, capsys):
    photo().save(folder / 'word.png')
    (folder / 'README.md').write_text('no image')
    before = (folder / 'word.png').read_bytes()
    flags = ['--image_path=./', '--width=128', '--height=32', '--ds_scale=4']
    monkeypatch.chdir(folder)
    assert convert.main(flags) == 0
    printed, reported = capsys.readouterr()
    assert '| TextSR |' in printed and '1 of 1 images converted' in printed and 'README.md' in reported
    for method in ('bicubic', 'srgan', 'textsr'):
        assert names_in(folder / method) == ['word.png']
        assert Image.open(folder / method / 'word.png').size == (128, 32)
    assert Image.open(folder / 'compare' / 'word.png').width > 4 * 128
    assert (folder / 'word.png').read_bytes() == before
    assert convert.main([*flags, '--methods', 'bicubic', '--no_read']) == 0
    assert '1 of 1 images converted' in capsys.readouterr().out, 'results of the first run are read'


def test_images_of_all_kinds_and_what_is_none(run, folder, tmp_path):
    transparent = photo().convert('RGBA')
    transparent.putalpha(Image.new('L', transparent.size, 100))
    transparent.save(folder / 'alpha.png')
    photo().convert('L').save(folder / 'grey.jpg')
    Image.fromarray(np.asarray(photo().convert('L'), dtype=np.uint16) * 257).save(folder / 'deep.png')
    orientation = Image.Exif()
    orientation[0x112] = 6
    photo().save(folder / 'phone.jpeg', exif=orientation)
    photo().convert('CMYK').save(folder / 'print.JPG')
    photo().save(folder / 'broken.png')
    (folder / 'broken.png').write_bytes((folder / 'broken.png').read_bytes()[:100])
    (folder / 'empty.jpg').touch()
    (folder / 'notes.txt').write_text('no image')
    photo().save(folder / '.hidden.png')
    (folder / 'deeper.png').mkdir()
    photo().save(folder / 'deeper.png' / 'inside.png')
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}

    status, printed, reported = run(folder)

    assert status == 1
    good = ['alpha.png', 'deep.png', 'grey.png', 'phone.png', 'print.png']
    for part in ('bicubic', 'srgan', 'textsr', 'compare/.original'):
        assert names_in(tmp_path / 'out' / part) == good
    assert names_in(tmp_path / 'out' / 'compare') == sorted([*good, 'index.html', '.original'])
    for name in good:
        expected = (16, 36) if name == 'phone.png' else (36, 16)
        assert Image.open(tmp_path / 'out' / 'textsr' / name).size == expected
    for name in ('broken.png', 'empty.jpg', 'notes.txt', '.hidden.png'):
        assert sum(name in line for line in reported.splitlines()) == 1
    assert 'inside.png' not in reported + printed
    assert '5 of 7 images converted' in printed
    assert sorted(json.loads((tmp_path / 'out/metrics.json').read_text())['left_out']) == ['broken.png', 'empty.jpg']
    assert {path: path.read_bytes() for path in before} == before


def test_files_that_are_no_files(run, folder, tmp_path):
    os.mkfifo(folder / 'pipe.png')
    os.symlink(folder / 'nowhere.png', folder / 'dangling.png')
    os.symlink(folder / 'loop.png', folder / 'loop.png')
    photo().save(tmp_path / 'elsewhere.png')
    os.symlink(tmp_path / 'elsewhere.png', folder / 'link.png')
    status, printed, reported = run(folder)
    assert status == 1 and '1 of 4 images' in printed
    assert all(name in reported for name in ('pipe.png', 'dangling.png', 'loop.png'))
    assert names_in(tmp_path / 'out' / 'srgan') == ['link.png']


def test_names_of_any_kind(run, folder, tmp_path):
    names = ['a b.png', 'it\'s "so".png', 'new\nline.png', 'süß 字.png', '-n.png', '%d.png',
             os.fsdecode(b'\xff\xfe.png')]
    for name in [*names, 'x' * 251 + '.png']:
        photo((8, 4)).save(folder / 'plain.png')
        os.rename(folder / 'plain.png', folder / name)
    status, _, reported = run(folder, '--zoom', '99,0,5,5')
    assert status == 0
    assert len(reported.splitlines()) == len(names) + 1  # one each: no name breaks a message
    cut = f'{"x" * 191}-{zlib.crc32(b"x" * 251):08x}.png'
    for part in ('textsr', 'compare/.original'):
        assert names_in(tmp_path / 'out' / part) == sorted([*names, cut])
    assert len(table(tmp_path)) == 4 * (len(names) + 1)


def test_inputs_that_would_share_a_result_get_their_own(run, folder, tmp_path):
    for number, name in enumerate(['a.png', 'A.PNG', 'a.jpg', 'a.jpg.png', 'b.png']):
        photo(seed=number).save(folder / name)
    assert run(folder)[0] == 0
    assert names_in(tmp_path / 'out' / 'bicubic') == ['A.PNG.png', 'a.jpg.png', 'a.jpg_.png', 'a.png_.png', 'b.png']
    assert len({row['result'] for row in table(tmp_path)}) == 5


def test_long_names_that_begin_alike_stay_apart():
    names = output_names([*(Path(f'{"x" * 240}{number}.png') for number in range(99)), Path('ü' * 120 + '.png')])
    assert len(set(names)) == 100
    assert all(len(os.fsencode(name)) <= 204 for name in names)


@pytest.mark.parametrize('part', ['compare', 'compare/.original'])
def test_an_input_is_never_written_over(run, folder, tmp_path, part):
    inputs = tmp_path / 'out' / part
    inputs.mkdir(parents=True)
    photo().save(inputs / 'a.png')
    before = (inputs / 'a.png').read_bytes()
    status, _, reported = run(inputs)
    assert status == 2 and 'among the inputs' in reported
    os.symlink(inputs / 'a.png', folder / 'a.png')  # by another way
    assert run(folder)[0] == 2
    assert (inputs / 'a.png').read_bytes() == before
    (inputs / 'a.png').rename(inputs / 'a.jpg')  # nothing would be replaced, but the next run would read results
    assert run(inputs)[0] == 2
    assert names_in(inputs) == ['a.jpg']


def test_sub_folders_of_any_name_and_what_is_made_beside_them(run, folder, tmp_path):
    for number, name in enumerate(['x.jpg', 'original/x.jpg', 'x.png/y.jpg', 'Y.JPG', 'y.PNG/x.jpg']):
        (folder / name).parent.mkdir(exist_ok=True)
        photo(seed=number).save(folder / name)
    assert run(folder, '--recursive')[0] == 0
    rows = table(tmp_path)
    assert {row['image']: row['result'] for row in rows} == {
        'x.jpg': 'x_.png', 'original/x.jpg': 'original/x.png', 'x.png/y.jpg': 'x.png/y.png', 'Y.JPG': 'Y_.png',
        'y.PNG/x.jpg': 'y.PNG/x.png'}
    for result in {row['result'] for row in rows}:
        assert Image.open(tmp_path / 'out/compare/.original' / result).size == (36, 16)
        assert Image.open(tmp_path / 'out/compare' / result).width > 4 * 36


@pytest.mark.parametrize('ds_scale, size, expected', [
    (4, (38, 19), (36, 16)), (4, (1, 1), (4, 4)), (4, (3, 50), (4, 48)), (1, (5, 3), (20, 12)), (1, (1, 1), (4, 4)),
])
def test_an_image_keeps_its_size_but_for_what_cannot_be_reduced(run, folder, tmp_path, ds_scale, size, expected):
    photo(size).save(folder / 'a.png')
    assert run(folder / 'a.png', '--ds_scale', ds_scale)[0] == 0
    for method in ('bicubic', 'srgan', 'textsr'):
        assert Image.open(tmp_path / 'out' / method / 'a.png').size == expected


def test_a_side_too_short_to_be_reduced_is_stretched(run, folder, tmp_path):
    Image.new('RGB', (1, 6), 'yellow').save(folder / 'a.png')
    assert run(folder)[0] == 0
    assert Image.open(tmp_path / 'out' / 'bicubic' / 'a.png').getcolors() == [(16, (255, 255, 0))]


def test_a_generator_of_scale_two(run, folder, tmp_path):
    photo((21, 9)).save(folder / 'a.png')
    assert run(folder, '--ds_scale', 2, scale=2)[0] == 0
    assert Image.open(tmp_path / 'out' / 'textsr' / 'a.png').size == (20, 8)
    assert run(folder, '--ds_scale', 1, scale=2)[0] == 0
    assert Image.open(tmp_path / 'out' / 'textsr' / 'a.png').size == (42, 18)


def test_figures_are_those_of_the_saved_images(run, folder, tmp_path):
    for number, size in enumerate([(40, 20), (39, 23), (64, 16)]):
        photo(size, number).save(folder / f'{number}.png')
    assert run(folder)[0] == 0
    rows = table(tmp_path)
    assert len(rows) == 12
    for row in rows:
        if row['method'] == 'original':
            assert row['psnr'] == row['ssim'] == ''
            continue
        sr = read_image(tmp_path / 'out' / row['method'] / row['result'])
        hr = read_image(folder / row['image']).crop((0, 0, *sr.size))
        assert float(row['psnr']) == pytest.approx(psnr(to_tensor(sr)[None], to_tensor(hr)[None]).item(), abs=1e-3)
    means = json.loads((tmp_path / 'out' / 'metrics.json').read_text())['methods']
    assert means['srgan']['psnr'] == pytest.approx(
        np.mean([float(row['psnr']) for row in rows if row['method'] == 'srgan']), abs=1e-3)


def test_without_reduction_there_is_nothing_to_measure(run, folder, tmp_path):
    photo().save(folder / 'a.png')
    status, printed, _ = run(folder, '--ds_scale', 1)
    assert status == 0 and 'PSNR' not in printed and 'a.png' not in printed
    assert [row['method'] for row in table(tmp_path)] == ['bicubic', 'srgan', 'textsr']


@pytest.mark.parametrize('amp', ['off', 'bf16'])
def test_batches_give_what_one_by_one_gives(run, folder, tmp_path, amp):
    for number in range(6):
        photo((20 + 5 * number, 12 + number % 4), number).save(folder / f'{number}.png')
    assert run(folder, '--amp', amp)[0] == 0
    together = {path: np.asarray(Image.open(path)).astype(int) for path in (tmp_path / 'out').glob('*[cnr]/*.png')}
    assert run(folder, '--amp', amp, '--batch_size', 1)[0] == 0
    assert len(together) == 6 * 3 and 'srgan' in str(list(together))
    assert max(np.abs(np.asarray(Image.open(path)) - image).max() for path, image in together.items()) <= 1


def test_mixed_precision_reaches_both_generators(generators, monkeypatch):
    monkeypatch.setattr('torch.cpu._is_avx512_bf16_supported', lambda: True, raising=False)
    for flags, amp in (([], 'bf16'), (['--amp', 'off'], 'off')):
        args = parse_args(['--srgan_path', generators[4], '--textsr_path', generators[4], '--ds_scale=4', *flags])
        enlargers, _ = build_enlargers(args, torch.device('cpu'))
        assert [enlargers[method].amp for method in ('srgan', 'textsr')] == [amp, amp]


def test_the_string_is_read_from_the_saved_image(run, folder, tmp_path):
    word().save(folder / 'a.png')
    photo().save(folder / 'b.png')
    word().save(folder / 'c.png')
    (folder / 'gt.txt').write_text('a.png\thello!\nc.png\tanother\n')
    status, printed, _ = run(folder, '--aster_path', ASTER_PATH, '--labels', folder / 'gt.txt')
    assert status == 0
    recognizer = load_aster(ASTER_PATH).eval()
    rows = {(row['image'], row['method']): row for row in table(tmp_path)}
    for method in ('bicubic', 'srgan', 'textsr'):
        image = to_tensor(read_image(tmp_path / 'out' / method / 'a.png'))[None]
        (string, score), = read_words(recognizer, vocabulary_of(97), recognizer_input(image))
        assert rows['a.png', method]['string'] == string
        assert float(rows['a.png', method]['score']) == pytest.approx(score, abs=0.01)
        assert rows['b.png', method]['right'] == rows['b.png', method]['label'] == ''
    assert rows['a.png', 'original']['right'] == '1'
    assert '| original | - | - | 2 | 50.0 |' in printed
    assert 'failed.png' in names_in(tmp_path / 'out' / 'sheets')


def test_the_batch_norm_of_the_recognizer_is_folded_once(tiny_aster, monkeypatch):
    args = parse_args(['--aster_path', tiny_aster, '--image_path', '.', '--ds_scale', '4'])
    recognizer = load_aster(tiny_aster).eval()
    expected = read_words(recognizer, vocabulary_of(97), recognizer_input(to_tensor(word())[None]), args.beam_width)
    read, _ = build_reader(args, torch.device('cpu'))
    monkeypatch.setattr('lib.models.conv_bn.folded', None)
    assert read([word()]) == [(expected[0][0], pytest.approx(expected[0][1], abs=1e-4))]


@pytest.mark.parametrize('flags, named', [
    (['--width', 128], '--height'), (['--width', 0, '--height', 32], '--width'),
    (['--width', 128, '--height', -4], '--height'),
    (['--width', 128, '--height', 30], '--height 30'), (['--width', 126, '--height', 32], '--width 126'),
    (['--ds_scale', 3], '--ds_scale'), (['--ds_scale', 2], '--srgan_path'), (['--zoom', '1,2,3'], '--zoom'),
    (['--zoom', '1,2,0,3'], '--zoom'), (['--zoom=-1,2,3,3'], '--zoom'), (['--beam_width', 0], '--beam_width'),
    (['--beam_width', 98], '--beam_width'), (['--batch_size', 0], '--batch_size'), (['--device', 'abacus'], '--device'),
    (['--srgan_path', 'missing.pth'], '--srgan_path'), (['--textsr_path', 'missing.pth'], '--textsr_path'),
    (['--aster_path', 'missing.pth'], '--aster_path'), (['--labels', 'missing.txt'], 'missing.txt'),
    (['--image_path', 'missing'], 'missing: no such'),
])
def test_flags_that_cannot_be_end_before_any_work(run, folder, tmp_path, flags, named):
    photo().save(folder / 'a.png')
    status, printed, reported = run(folder, *flags)
    assert status == 2
    assert named in reported.splitlines()[-1] and printed == ''
    assert not (tmp_path / 'out').exists()


def test_checkpoints_of_other_things_and_scales(run, folder, generators, tiny_aster, tmp_path):
    photo().save(folder / 'a.png')
    assert '--textsr_path' in run(folder, '--textsr_path', tiny_aster)[2]
    status, _, reported = run(folder, '--ds_scale', 1, '--textsr_path', generators[2])
    assert status == 2 and 'enlarges 2 times' in reported
    assert not (tmp_path / 'out').exists()


def test_a_folder_without_images_says_what_was_looked_for(run, folder, tmp_path):
    (folder / 'main.py').touch()
    status, _, reported = run(folder)
    assert status == 1 and '.jpeg' in reported and 'main.py' in reported and str(folder) in reported
    assert 'not in its sub-folders (--recursive)' in reported
    assert not (tmp_path / 'out').exists()


def test_a_result_too_large_for_memory_is_named(run, folder, monkeypatch):
    monkeypatch.setattr(conversion, 'MAX_PIXELS', 36 * 16 * 16 - 1)
    photo((36, 16)).save(folder / 'a.png')
    status, _, reported = run(folder, '--ds_scale', 1)
    assert status == 1 and 'a.png' in reported and 'pixels' in reported
    assert run(folder)[0] == 0


def test_large_results_are_in_memory_with_few_others(monkeypatch):
    monkeypatch.setattr(convert, 'WINDOW_PIXELS', 100)
    converter = SimpleNamespace(batch_size=64, prepare=lambda pixels, *_: SimpleNamespace(pixels=pixels))
    images = [(pixels, 'name', 'result') for pixels in (30, 80, 150, 10, 20)]
    windows = [[job.pixels for job in jobs] for jobs in convert.windows(images, converter, {}, None)]
    assert windows == [[30, 80], [150], [10, 20]]


def test_zooms_are_drawn_and_those_outside_named(run, folder, tmp_path):
    photo((40, 20)).save(folder / 'a.png')
    photo((100, 60)).save(folder / 'b.png')
    assert run(folder)[0] == 0
    plain = Image.open(tmp_path / 'out' / 'compare' / 'a.png').size
    status, _, reported = run(folder, '--zoom', '30,10,200,20', '--zoom', '50,5,10,10')
    assert status == 0
    assert '50,5,10,10' in reported and 'a.png' in reported and 'b.png' not in reported
    assert Image.open(tmp_path / 'out' / 'compare' / 'a.png').height > plain[1] + 50


def test_a_full_disk_leaves_no_half_image(run, folder, tmp_path):
    Image.effect_noise((200, 100), 99).save(folder / 'noise.png')
    old = tmp_path / 'out' / 'bicubic' / 'noise.png'
    old.parent.mkdir(parents=True)
    old.write_bytes(b'the old one')
    with largest_file(4096):
        status, printed, reported = run(folder)
    assert status == 1 and reported.count('could not be written') == 1 and '0 of 1' in printed
    assert [path for path in (tmp_path / 'out').rglob('*') if path.is_file()] == [old]
    assert old.read_bytes() == b'the old one'


@pytest.mark.parametrize(('how', 'expected'), [(KeyboardInterrupt, 130), (SystemExit(143), 143)])
def test_an_interruption_keeps_what_is_done(run, folder, tmp_path, interrupt_at, how, expected):
    for number in range(3):
        photo().save(folder / f'{number}.png')
    interrupt_at('1.png', how)
    status, printed, _ = run(folder, '--batch_size', 1)
    assert status == expected and '1 of 3 images' in printed
    assert {row['image'] for row in table(tmp_path)} == {'0.png'}


def test_too_little_memory_keeps_what_is_done(run, folder, interrupt_at):
    for number in range(3):
        photo().save(folder / f'{number}.png')
    interrupt_at('1.png', RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    status, printed, reported = run(folder, '--batch_size', 1)
    assert status == 1 and '1 of 3 images' in printed
    assert 'convert.py: error: out of memory; a smaller --batch_size needs less\n' in reported
    interrupt_at('0.png', RuntimeError('a fault'))
    with pytest.raises(RuntimeError, match='a fault'):
        run(folder)


def test_a_device_whose_memory_others_fill_is_named(run, folder, monkeypatch):
    full = mock.Mock(side_effect=RuntimeError('CUDA error: out of memory'))
    monkeypatch.setattr('lib.inference.build.load_generator', full)
    assert '--device cpu: has no memory left for --srgan_path' in run(folder)[2]
