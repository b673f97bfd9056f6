import json
import time
from pathlib import Path

import pytest

from lib.inference.box_files import Boxes

WORD = [(10, 20), (40, 20), (40, 30), (10, 30)]
SLANTED = [(1, 2), (31, 4), (30, 14), (0, 12)]
QUAD = '10,20,40,20,40,30,10,30'


def found(path, *names):
    """The boxes that a file or folder gives to images of these names, a list for each."""
    names, words = list(map(Path, names)), Boxes(path)
    words.match([(name, name) for name in names])
    return list(map(words.of, names))


@pytest.mark.parametrize('line, corners', [
    ('10,20,30,10', WORD), ('10 20 30 10', WORD), ('10, 20, 30, 10, SALE', WORD), ('10\t20\t30\t10', WORD),
    ('10,20,30,10,0.98', WORD),  # a score
    ('10,20,40,20,40,30,10,30', WORD), ('1,2,31,4,30,14,0,12,Joe\'s, since 1905', SLANTED),
    ('1.0,2.0,31.0,4.0,30.0,14.0,0.0,12.0,1905', SLANTED),  # the string is a number
    *((f'10,20,40,20,40,30,10,30,{text}', WORD) for text in (
        'Hotel No.12 Main', '$1.50 each', 'St.John, Hall', 'info@shop.com, 12', 'a.jpg 1,2,3,4', 'a.jpg\t1,2,3,4')),
    ('10,20,30,10,Vol.12 1 2 30 40', WORD), ('10\t20\t30\t10\t12 34', WORD), ('10 20 30 10 Joe, 12', WORD),
    ('0,0,9,0,9,5,5,9,0,5,###', [(0, 0), (9, 0), (9, 5), (5, 9), (0, 5)]),
    ('-3,0,5,5', [(-3, 0), (2, 0), (2, 5), (-3, 5)]), ('\ufeff10,20,30,10', WORD),  # a byte order mark
])
def test_lines_as_detectors_write_them(tmp_path, line, corners):
    (tmp_path / 'boxes.txt').write_text(f'{line}\n\n', encoding='utf-8')
    assert found(tmp_path / 'boxes.txt', 'any.jpg') == [[corners]]


@pytest.mark.parametrize('end', ['\n', '\r\n', '\r'])
def test_no_character_of_a_string_ends_a_line(tmp_path, end):
    for string in ('SA\u2028LE', 'SA\x85LE'):
        for line in (f'{QUAD},{string}', f'a.jpg\t[{{"transcription": "{string}", "points": {WORD}}}]'):
            line = line.replace('(', '[').replace(')', ']')
            (tmp_path / 'boxes.txt').write_bytes(f'{line}{end}{line}{end}'.encode())
            assert found(tmp_path / 'boxes.txt', 'a.jpg') == [[WORD, WORD]]


@pytest.mark.parametrize('text, others', [
    ('1,000', ''), ('007', ''), ('1,000,000', ''), ('1,234,567', ''), ('1,234', f'{QUAD},SALE'),
    ('12,50', f'{QUAD},###'), ('1,234,567.50', ''),
])
def test_a_string_of_numbers_is_no_corner(tmp_path, text, others):
    for name in ('', 'a.jpg\t'):
        (tmp_path / 'boxes.txt').write_text(''.join(f'{name}{line}\n' for line in (f'{QUAD},{text}', others) if line))
        assert found(tmp_path / 'boxes.txt', 'a.jpg') == [[WORD] * (2 if others else 1)]


@pytest.mark.parametrize('others', ['', QUAD, '0,0,9,0,9,5,5,9,0,5,Main St'])
def test_more_than_four_corners_stay(tmp_path, others):
    lines = ['0,0,9,0,9,5,5,9,0,5', '0,0,9,0,9,5,5,9,0,5,0.98', *filter(None, [others])]
    (tmp_path / 'boxes.txt').write_text('\n'.join(lines))
    five = [(0, 0), (9, 0), (9, 5), (5, 9), (0, 5)]
    assert found(tmp_path / 'boxes.txt', 'a.jpg')[0][:2] == [five, five]


@pytest.mark.parametrize('name, content', [
    ('gt.txt', 'a.jpg\t10,20,30,10\nsub/b.png\t1,2,31,4,30,14,0,12,x\na.jpg\t1,2,31,4,30,14,0,12\n'),
    ('gt.txt', 'a.jpg 10 20 30 10\nsub/b.png 1 2 31 4 30 14 0 12\na.jpg 1 2 31 4 30 14 0 12\n'),
    ('windows.txt', 'C:\\in\\a.jpg\t10,20,30,10\n..\\sub\\b.png\t1,2,31,4,30,14,0,12\n'
                    'C:\\in\\a.jpg\t1,2,31,4,30,14,0,12\n'),
    ('paddle.txt', f'a.jpg\t{json.dumps([{"transcription": "x", "points": WORD}, {"points": SLANTED}])}\n'
                   f'sub/b.png\t{json.dumps([SLANTED])}\n'),
    ('map.json', json.dumps({'a.jpg': [[10, 20, 30, 10], [n for xy in SLANTED for n in xy]], 'sub/b.png': [SLANTED]})),
    ('coco.json', json.dumps({'images': [{'id': 5, 'file_name': 'a.jpg'}, {'id': 7, 'file_name': 'sub/b.png'}],
                              'annotations': [{'id': 1, 'image_id': 5, 'bbox': [10, 20, 30, 10], 'area': 300},
                                              {'id': 2, 'image_id': 5, 'polygon': SLANTED},
                                              {'id': 3, 'image_id': 7, 'points': SLANTED}]})),
    ('list.json', json.dumps([{'file_name': 'a.jpg', 'boxes': [[10, 20, 30, 10], SLANTED]},
                              {'image': 'sub/b.png', 'image_id': 1, 'words': [{'name': 'text', 'quad': SLANTED}]}])),
    ('results.json', json.dumps({'annotations': [{'name': 'a.jpg', 'bbox': [10, 20, 30, 10]},
                                                 {'name': 'a.jpg', 'poly': SLANTED},
                                                 {'name': 'sub/b.png', 'poly': SLANTED}]})),
    ('labelme.json', json.dumps([{'imagePath': 'a.jpg', 'shapes': [{'points': [[10, 20], [40, 30]]},
                                                                   {'points': SLANTED}]},
                                 {'imagePath': 'sub/b.png', 'shapes': [{'points': SLANTED}]}])),
])
def test_files_of_many_images(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert found(tmp_path / name, 'a.jpg', 'sub/b.png', 'c.jpg') == [[WORD, SLANTED], [SLANTED], []]
    assert found(tmp_path / name, 'elsewhere/b.png') == [[SLANTED]]


@pytest.fixture
def two_of_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path('boxes.txt')
    path.write_text('a/img.png\t10,20,30,10\nb/img.png\t1,2,31,4,30,14,0,12\n')
    return path


def test_a_name_belongs_to_the_path_that_ends_most_like_it(two_of_a_name):
    assert found(two_of_a_name, 'b/a/img.png') == [[WORD]]
    assert found(two_of_a_name, 'img.png', 'x/b/img.png', 'a/img.png') == [[], [SLANTED], [WORD]]
    two_of_a_name.write_text('img.png\t10,20,30,10\na/img.png\t1,2,31,4,30,14,0,12\n./img.png\t10,20,30,10')
    assert found(two_of_a_name, 'img.png', 'a/img.png') == [[WORD, WORD], [SLANTED]]


def test_names_without_an_image_and_images_without_boxes_are_told(two_of_a_name):
    def told(*names):
        return Boxes(two_of_a_name).match([(Path(name), Path(name)) for name in names])

    assert told('a/img.png', 'b/img.png') == ''
    assert told('a/img.png', 'c.png') == ('--boxes boxes.txt: 1 of 2 images without boxes: c.png; 1 names in it of no '
                                          'image: b/img.png')
    with pytest.raises(ValueError, match='boxes.txt: 1 of 1 images without boxes: c.png; 2 names .* give names'):
        told('c.png')
    with pytest.raises(ValueError, match='1 images with several names or sharing one, none used: c/img.png; give'):
        told('c/img.png')
    two_of_a_name.write_text('img.png\t10,20,30,10\nd.png\t[]\n')
    assert told('a/img.png', 'b/img.png', 'd.png') == (
        '--boxes boxes.txt: 2 images with several names or sharing one, none used: a/img.png, b/img.png')
    two_of_a_name.write_text('1,2,3,4\n')
    assert told('a/img.png', 'c.png') == '', 'boxes without a name are of all'


@pytest.mark.parametrize('content', [
    {'a.jpg': [], 'b.jpg': [[1, 2, 3, 4]]},
    [{'file_name': 'a.jpg', 'words': []}, {'file_name': 'b.jpg', 'bbox': [1, 2, 3, 4]}],
    {'images': [{'id': 1, 'file_name': 'a.jpg'}, {'id': 2, 'file_name': 'b.jpg'}],
     'annotations': [{'image_id': 2, 'bbox': [1, 2, 3, 4]}]}])
def test_an_image_in_which_no_word_was_found_is_known(tmp_path, content):
    (tmp_path / 'boxes.json').write_text(json.dumps(content))
    assert found(tmp_path / 'boxes.json', 'a.jpg') == [[]]


@pytest.mark.parametrize('name, line', [
    ('my photo.v2 final.jpg', 'my photo.v2 final.jpg\t10,20,30,10'), ('a b.JPEG', 'a b.JPEG 10,20,30,10,x.png 1,2,3,4'),
    ('12.5,30 (2).webp', '12.5,30 (2).webp, 10, 20, 30, 10'), ('a.png b.png', 'a.png b.png 10 20 30 10 No.12 x'),
    ('no suffix', 'no suffix\t10\t20\t30\t10'), ('1 2 3 4.jpg', f'1 2 3 4.jpg {json.dumps([WORD])}'),
])
def test_names_end_at_a_tab_or_a_suffix(tmp_path, name, line):
    (tmp_path / 'boxes.txt').write_text(line)
    assert found(tmp_path / 'boxes.txt', name, 'other.jpg') == [[WORD], []]


@pytest.mark.parametrize('name, content', [
    ('res_a.txt', '1,2,31,4,30,14,0,12\n'),  # CRAFT
    ('gt_a.txt', '1,2,31,4,30,14,0,12,Sale\n'),  # ICDAR
    ('a.json', json.dumps({'det_polygons': [[n for xy in SLANTED for n in xy]], 'det_scores': [0.9]})),  # MMOCR
    ('a.json', json.dumps({'predictions': [{'det_polygons': [[n for xy in SLANTED for n in xy]]}]})),
    ('a_res.json', json.dumps({'input_path': '/data/a.jpg', 'dt_polys': [SLANTED], 'rec_boxes': [[1, 2, 31, 14]]})),
    ('a.json', json.dumps({'imagePath': 'a.jpg', 'shapes': [{'label': 'x', 'points': SLANTED}]})),  # labelme
])
def test_folders_with_a_file_for_each_image(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert found(tmp_path, 'a.jpg', 'b.jpg') == [[SLANTED], []]
    with pytest.raises(ValueError, match='1 of 1 images without boxes: b.jpg; give files called NAME, gt_NAME'):
        found(tmp_path, 'b.jpg')


def test_a_result_of_paddleocr_names_its_image(tmp_path):
    path = tmp_path / 'a_res.json'
    one = {'input_path': '/data/x/a.jpg', 'page_index': None, 'model_settings': {'n': 1}, 'dt_polys': [SLANTED],
           'dt_scores': [0.9]}
    for result in one, [one], {'res': one}:
        path.write_text(json.dumps(result))
        assert found(path, 'a.jpg', 'b.jpg') == [[SLANTED], []]


@pytest.mark.parametrize('is_folder, count', [(True, 3000), (False, 12_000)])
def test_many_images_that_share_a_name(tmp_path, is_folder, count):
    """Frames of videos: the time must not grow with the square of their number."""
    images = [(Path(f'/v{number}/1.png'), Path(f'v{number}/1.png')) for number in range(count)]
    (tmp_path / '1.txt').write_text('10,20,30,10')
    (tmp_path / 'all.txt').write_text(''.join(f'w{number}/1.png\t10,20,30,10\n' for number in range(count)))
    boxes, started = Boxes(tmp_path if is_folder else tmp_path / 'all.txt'), time.process_time()
    with pytest.raises(ValueError, match=f'{count} images with several names or sharing one'):
        boxes.match(images)
    assert time.process_time() - started < 3


@pytest.mark.parametrize('points', [[[10, 20], [40, 30]], [[40, 30], [10, 20]], [[10, 30], [40, 20]]])
def test_two_opposite_corners_are_a_rectangle(tmp_path, points):
    shape = {'label': 'x', 'points': points, 'shape_type': 'rectangle'}
    (tmp_path / 'a.json').write_text(json.dumps({'imagePath': 'a.jpg', 'shapes': [shape]}))
    assert found(tmp_path, 'a.jpg') == [[WORD]]


def test_results_of_one_image_need_no_name(tmp_path):
    (tmp_path / 'a.json').write_text(json.dumps([{'image_id': 3, 'bbox': [10, 20, 30, 10]}]))
    assert found(tmp_path / 'a.json', 'any.jpg') == found(tmp_path, 'a.jpg') == [[WORD]]
    with pytest.raises(ValueError, match='a.json: which of 2 images is image_id 3.* file_name'):
        found(tmp_path / 'a.json', 'any.jpg', 'other.jpg')


@pytest.mark.parametrize('name, content, told', [
    ('x.txt', '1,2,3,4\n1,2,3\n', 'line 2'), ('x.txt', '1,2,0,4', 'above zero'),
    ('x.txt', '0 0.51 0.42 0.2 0.1', 'line 1: .*pixels are needed, not shares'), ('x.txt', 'no boxes here', 'line 1'),
    ('x.txt', 'a.jpg 1,2,3', 'line 1: .a.jpg 1,2,3.: give'),
    ('x.json', '{', 'x.json'), ('x.json', '{"a.jpg": [[1, 2, 3]]}', 'polygon'),
    ('x.json', '[{"image_id": 1, "bbox": [1, 2, 3, 4]}, {"image_id": 2, "bbox": [1, 2, 3, 4]}]', 'give .*file_name'),
    ('x.json', '[{"file_name": "a.jpg", "bbox": [1, 2, 3, 4]}, {"bbox": [1, 2, 3, 4]}]', 'give .*file_name'),
    ('x.json', '[{"rect": [1, 2, 3, 4]}]', 'no boxes under the keys rect'),
    ('x.json', '{"shapes": [{"points": [[5, 5], [9, 9]], "shape_type": "circle"}]}', 'circle: give rectangles'),
    ('x.json', f'[[{10 ** 400}, 1, 2, 2]]', 'x.json: .*too large'),
    ('x.json', '[' * 100_000, 'x.json: .*JSON array'), ('x.txt', 'a.jpg\t' + '[' * 100_000, 'line 1: .*JSON array'),
    *(('x.json', text, f'x.json: {text}: give a list') for text in ('null', '5', '"10,20,30,10"')),
    *(('x.csv', f'{line}\n', 'line 1: .*no line of column names, no quotes .*, no ;') for line in (
        'image,x,y,w,h', '"a.jpg","1","2","3","4"', '"1","2","3","4"', '1;2;3;4', 'a.jpg;1;2;3;4')),
    *(('x.json', text, f'x.json: {value} in the place of boxes: give lists') for text, value in (
        ('{"a.jpg": 5}', 5), ('{"shapes": 5}', 5), ('[[1, 2, 3, 4], true, []]', 'true'), ('["a", "b"]', '"a"'),
        ('[{"words": [{"points": [[[1, 2], [3, 4]], 7]}]}]', 7))),
    ('x.txt', 'a.jpg\t{"points": 5}', 'line 1: 5 in the place of boxes'),
    ('x.json', '[[[1, 2], ["3", 4]]]', "x.json: .1, 2, '3', 4.: not all are numbers"),
    *(('x.json', text, 'x.json: "images" and "annotations": give lists of objects') for text in (
        '{"images": [5]}', '{"images": [], "annotations": 5}', '{"images": [{"id": [1], "file_name": "a"}]}')),
    ('x.json', '{"images": [{"id": 1, "file_name": 7}]}', 'x.json: "images": give each file_name as a text'),
    ('x.json', '{"images": [{"id": 1}]}', "no 'file_name': give each"),
    ('x.json', '{"images": [], "annotations": [{"image_id": 7, "bbox": [1, 2, 3, 4]}]}', 'no 7: give .* image_id'),
])
def test_what_cannot_be_read_is_named(tmp_path, name, content, told):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=told):
        Boxes(tmp_path / name)
