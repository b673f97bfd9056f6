"""The boxes of words in the files that text detectors and annotators write, and the images that they belong to."""
import json
import os
import re
from pathlib import Path

from lib.inference.boxes import corners_of
from lib.inference.files import SUFFIXES
from lib.runtime.console import first_five, printable
from lib.wordsets.word_lists import portable, spellings

KEYS = ('points', 'polygon', 'poly', 'quad', 'bbox', 'box', 'det_polygons', 'dt_polys', 'boxes', 'words', 'annotations',
        'shapes', 'predictions', 'res')
NUMBER = r'[-+]?\d+(\.\d*)?'
FOUR = rf'\s*{NUMBER}([\s,]+{NUMBER}){{3}}(?![^\s,])'
NAMED = re.compile(rf'((?P<tab>[^\t]+)\t|(?P<suffix>.+?({"|".join(map(re.escape, SUFFIXES))}))[\s,])[\s,]*'
                   rf'(?P<boxes>(?={FOUR}|[\[{{]).+)', re.IGNORECASE)


def image_of(entry):
    """The name of its image in a JSON object, ('image_id', number) where it has only that, '' where it has neither."""
    names = (entry[key] for key in ('file_name', 'imagePath', 'input_path', 'image', 'name')
             if isinstance(entry.get(key), str)
             and (key != 'name' or entry[key].lower().endswith(SUFFIXES)))  # it may be that of a class
    number = entry.get('image_id')
    return next(names, '') or (('image_id', number) if isinstance(number, (int, str)) else '')


def find_polygons(value, image=''):
    """[(image, corners), ...] of a JSON value: lists of numbers or of corners, and objects with them under a usual key.

    image: that of the value; where it is '', what the objects say, see `image_of`. corners: None where there are none.
    """
    if isinstance(value, dict):
        if value.keys().isdisjoint(KEYS):
            raise ValueError(f'no boxes under the keys {", ".join(value)}: give them under one of {", ".join(KEYS)}')
        if value.get('shape_type') in ('circle', 'line', 'linestrip', 'point', 'points'):
            raise ValueError(f'shape_type {value["shape_type"]}: give rectangles or polygons')
        key = next((key for key in KEYS if value.get(key)), None)
        return find_polygons(value[key] if key else [], image or image_of(value))
    if value is None or value == []:
        return [(image, None)]
    if not isinstance(value, list):
        raise ValueError(f'{json.dumps(value)[:60]} in the place of boxes: give lists of numbers or of corners, or '
                         'objects with them')
    if all(isinstance(entry, (int, float)) for entry in value):
        return [(image, corners_of(value))]
    if all(isinstance(entry, list) and len(entry) == 2 and not isinstance(entry[0], list) for entry in value):
        numbers = [number for corner in value for number in corner]
        if len(value) == 2 and all(isinstance(number, (int, float)) for number in numbers):
            (left, right), (top, bottom) = map(sorted, zip(*value))  # opposite corners of a rectangle
            return [(image, corners_of([left, top, right - left, bottom - top]))]
        return [(image, corners_of(numbers))]
    return [found for entry in value for found in find_polygons(entry, image)]


def fields_of(line):
    """The fields of 'x,y,w,h' or 'x1,y1,...,x4,y4,text', a list, and how many of the first are numbers."""
    separator = r'[,\t]' if re.match(rf'\s*{NUMBER}\s*[,\t]', line) else r'\s+'  # the string may hold others
    fields = [field.strip() for field in re.split(separator, line.strip())]
    return fields, next((n for n, field in enumerate(fields) if not re.fullmatch(NUMBER, field)), len(fields))


def corners_of_line(line, before_texts=()):
    """The corners at the start of such a line; ValueError where there are none.

    before_texts: how many numbers stand before a string in the lines of the file. They tell whether more than eight are
    further corners or, as in '1,000', a string.
    """
    fields, count = fields_of(line)
    if count < 4:
        raise ValueError(f'{line[:60]!r}: give x,y,w,h or x1,y1,x2,y2,..., alone or after an image name and a tab; '
                         'no line of column names, no quotes around names or numbers, no ;')
    has_score = '.' in fields[count - 1] and 0 <= float(fields[count - 1]) <= 1
    if count > 8 and (any(re.match(r'[-+]?0\d', field) for field in fields[8:count])
                      or count % 2 and not has_score and min(before_texts, default=8) == 8
                      or count == len(fields) and 8 in before_texts):
        count = 8
    count -= count % 2  # a score, or a string that begins with a number, stands behind the corners
    return corners_of([float(field) for field in fields[:count]])


def parse_json(content):
    """{name of the image, '' where there is none, ('image_id', number) where that is all: corners of each box} of a
    JSON file."""
    names = {}
    if isinstance(content, dict) and isinstance(content.get('images'), list):  # COCO
        try:
            names = {image['id']: image['file_name'] for image in content['images']}
            content = [{**entry, 'file_name': names[entry['image_id']]} for entry in content.get('annotations', [])]
        except KeyError as error:
            raise ValueError(f'no {error}: give each of "images" an id and a file_name, each of "annotations" the '
                             'image_id of one of them') from error
        except TypeError as error:
            raise ValueError('"images" and "annotations": give lists of objects, each id a number') from error
        if not all(isinstance(name, str) for name in names.values()):
            raise ValueError('"images": give each file_name as a text')
    if not isinstance(content, (dict, list)):
        raise ValueError(f'{json.dumps(content)[:60]}: give a list of boxes, or an object with them')
    if isinstance(content, dict) and content.keys().isdisjoint(KEYS):
        pairs = [pair for name, value in content.items() for pair in find_polygons(value, name)]
    else:
        pairs = find_polygons(content)
    found = {name: [] for name in names.values()}
    for image, corners in pairs:
        if corners or isinstance(image, str) and image:
            found.setdefault(image, []).extend([corners] if corners else [])
    if len(found) > 1 and not all(isinstance(image, str) and image for image in found):
        raise ValueError('boxes of several images without their names: give each object a file_name, or COCO\'s file '
                         'with "images"')
    return found


def parse_text(text):
    """The same of a text file: a line for each box, or for each image its name and its boxes.

    What begins with four numbers has no name; a name ends at a tab, else behind the suffix of an image.
    """
    lines, found = [], {}
    for number, line in enumerate(text.split('\n'), 1):  # splitlines would cut inside of strings too
        named = None if re.match(FOUR, line) else NAMED.match(line)
        name, rest = ((named['tab'] or named['suffix']).strip(), named['boxes']) if named else ('', line.strip())
        if rest:
            lines.append((number, name, rest, name and rest[0] in '[{'))
    split = [fields_of(rest) for _, _, rest, in_json in lines if not in_json]
    before_texts = {count - count % 2 for fields, count in split if 4 <= count < len(fields)}
    for number, name, rest, in_json in lines:
        try:
            boxes = [box for _, box in find_polygons(json.loads(rest)) if box] if in_json else \
                [corners_of_line(rest, before_texts)]
            found.setdefault(name, []).extend(boxes)
        except (ValueError, RecursionError) as error:
            raise ValueError(f'line {number}: {error}') from error
    return found


def read_box_file(path):
    """{image, see `parse_json`: corners of each box}; ValueError that names both the file and the line."""
    try:
        text = Path(path).read_text(encoding='utf-8-sig')
        return parse_json(json.loads(text)) if Path(path).suffix.lower() == '.json' else parse_text(text)
    except OSError as error:
        raise OSError(f'--boxes {path}: {error.strerror}') from error
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f'--boxes {path}: {error}') from error


def ends(path):
    """The ends of a path, the longest first: a/b/c.png, b/c.png, c.png."""
    parts = Path(path).parts
    return ['/'.join(parts[start:]) for start in range(len(parts))]


def match_names(images, names):
    """Which of the names, paths in a list, belongs to which of the images, a list of paths.

    A name belongs to the image that has the longest end in common with it, at least that behind the folders.

    Returns:
        ({image: name}, images for which several names, or with which others, are as good, and these names).
    """
    by_end, candidates, ambiguous, shared, unclear = {}, {}, [], set(), set()
    names = set(names)
    for name in sorted(names):
        for end in ends(name):
            by_end.setdefault(end, []).append(name)
    for image in dict.fromkeys(images):
        end = next((end for end in ends(portable(os.path.abspath(image))) if end in by_end), None)
        fitting = [end] if end in names else by_end.get(end, [])
        if len(fitting) > 1:
            ambiguous.append(image)
            shared.add(end)
        elif fitting:
            candidates.setdefault(fitting[0], []).append((len(end), image))
    matched = {}
    for name, fitting in candidates.items():
        longest = max(fitting)[0]
        best = [image for length, image in fitting if length == longest]
        if len(best) > 1:
            ambiguous += best
            unclear.add(name)
        else:
            matched[best[0]] = name
    return matched, ambiguous, unclear.union(*(by_end[end] for end in shared))


class Boxes:
    """The boxes of a file for all images, or of a folder with a file for each: NAME, gt_NAME or res_NAME .txt or .json.

    OSError or ValueError, which names the flag, where they cannot be read.
    """

    def __init__(self, path):
        self.path, self.is_folder = path, os.path.isdir(path)
        self.found, self.keys = {}, {}  # keys: {path of an image: its name in `found`, or its file in the folder}
        for name, boxes in ({} if self.is_folder else read_box_file(path)).items():
            name = os.path.normpath(portable(name)) if name and isinstance(name, str) else name
            self.found.setdefault(name, []).extend(boxes)

    def match(self, images):
        """Find the boxes of each image, (path, name below the folder that was given), for `of`.

        Returns:
            A line about images and names without the other, '' where there is none.

        Raises:
            ValueError: no image has boxes, or it cannot be told which has.
        """
        for kind, number in [name for name in self.found if isinstance(name, tuple)]:
            if len(images) > 1:
                raise ValueError(f'--boxes {printable(self.path)}: which of {len(images)} images is {kind} {number}? '
                                 'give each object a file_name, or COCO\'s file with "images"')
            self.found[''] = self.found.pop((kind, number))
        names, ambiguous, unclear = [name for name in self.found if name], [], set()
        if self.is_folder:
            self.keys, ambiguous = self._match_files(images)
        else:
            self.keys, ambiguous, unclear = match_names([path for path, _ in images], names)
        told_of, used = {*self.keys, *ambiguous}, {*self.keys.values(), *unclear}
        without = [] if '' in self.found else [path for path, _ in images if path not in told_of]
        strangers = [name for name in names if name not in used]
        told = '; '.join(f'{text}: {first_five(members)}' for text, members in (
            (f'{len(ambiguous)} images with several names or sharing one, none used', ambiguous),
            (f'{len(without)} of {len(images)} images without boxes', without),
            (f'{len(strangers)} names in it of no image', strangers)) if members)
        if (names or self.is_folder) and not self.keys and '' not in self.found:
            needed = 'files called NAME, gt_NAME or res_NAME .txt or .json, or NAME_res.json' if self.is_folder else \
                'names that end like the paths of the images'
            raise ValueError(f'--boxes {printable(self.path)}: {told}; give {needed}')
        return f'--boxes {printable(self.path)}: {told}' if told else ''

    def _match_files(self, images):
        """({path of an image: its file}, images that share one): the file at the end of an image's name; of several
        images that of the one whose name it has in full."""
        fitting, matched, ambiguous = {}, {}, []
        for path, name in images:
            file, end = next(((file, end) for end in ends(name) if (file := self._file(Path(end)))), (None, None))
            if file:
                fitting.setdefault(file, []).append((Path(end) == name, path))
        for file, members in fitting.items():
            named_in_full = any(in_full for in_full, _ in members)
            best = [path for in_full, path in members if in_full == named_in_full]
            if len(best) > 1:
                ambiguous += best
            else:
                matched[best[0]] = file
        return matched, ambiguous

    def _file(self, name):
        """The file in the folder for the image of this name, or None."""
        paths = (Path(self.path, name.parent, f'{start}{stem}{end}') for name in map(Path, spellings(str(name)))
                 for start in ('', 'gt_', 'res_') for stem in (name.stem, name.name)
                 for end in ('.txt', '.json', '_res.json'))
        return next((path for path in paths if path.is_file()), None)

    def of(self, path, _image=None):
        """The corners of each box of one of the images that were matched, maybe none."""
        if self.is_folder:
            found = read_box_file(self.keys[path]) if path in self.keys else {}
            return [box for boxes in found.values() for box in boxes]
        return self.found.get(self.keys.get(path, ''), [])
