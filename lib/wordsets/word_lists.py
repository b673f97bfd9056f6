"""Reads the lists in which word images and their labels are published: .odgt, text lists, gt.txt folders, .mat."""
import json
import os
import re
import unicodedata
from collections import Counter, namedtuple
from itertools import islice

from lib.runtime.console import first_five

EXTENSIONS = r'\.(?:jpe?g|png|bmp|gif|tiff?|webp|p[bgnp]m)'
SAMPLE = 1000  # lines from which the style of a text list is detected

# place: 'gt.txt:17'; paths: {'image': path} or {'image_hr': path, 'image_lr': path}; problem: why it is unusable
Entry = namedtuple('Entry', 'place label paths problem', defaults=(None, None, None))
Style = namedtuple('Style', 'separator quoted pairs mjsynth')
MJSYNTH = re.compile(r'\d+_(.+)_(\d+)\.jpe?g', re.I)  # 17_Hotel_37021.jpg: the word, and its number in lexicon.txt


def open_list(path):
    """Returns the entries of the list at `path`, their number (about, for a progress bar) and the image folders.

    Args:
        path: a .odgt (one JSON object a line with `im_path` and `label`), a .mat of IIIT5K, a text list, or a folder
            that holds a text list named gt.txt.

    Returns:
        An iterator of `Entry` in the order of the list, made as it is read; the number of lines; and the folders that
        relative image paths refer to, in the order in which they are tried.

    Raises:
        OSError: the list is missing or cannot be read.
        ValueError: it is none of the above.
    """
    if os.path.isdir(path):
        folder, path = path, os.path.join(path, 'gt.txt')
        if not os.path.isfile(path):
            raise FileNotFoundError(f'{folder} has no gt.txt; give the list itself, or a folder with gt.txt and images')
    if not os.path.isfile(path):
        raise FileNotFoundError(f'{path} does not exist; give a .odgt, .txt or .mat list or a folder with gt.txt')
    folders = [os.path.dirname(path) or '.']
    extension = os.path.splitext(path)[1].lower()
    if extension == '.mat':
        names, labels = read_iiit5k(path)
        return mat_entries(path, names, labels), len(names), folders
    if extension == '.odgt':
        # The published list was written for the folder in which the commands are run.
        return odgt_entries(path), count_lines(path), folders + ['.']
    return text_entries(path, sniff(path)), count_lines(path), folders


def find_image(path, folders):
    """Looks for `path` in the folders; returns the first file found, None without one, and the names tried."""
    tried = list(dict.fromkeys(os.path.normpath(os.path.join(folder, name)) for name in spellings(path)
                               for folder in folders))
    return next((name for name in tried if os.path.isfile(name)), None), tried


def portable(path):
    """One spelling of a path for all systems: slashes, as not on Windows, and composed letters, as not on macOS."""
    return unicodedata.normalize('NFC', path.replace('\\', '/'))


def spellings(path):
    """A path as it is and as other systems may write it, see `portable`; without repetition."""
    return list(dict.fromkeys([path, portable(path), unicodedata.normalize('NFD', portable(path))]))


def check_label(entry):
    """Returns `entry`, or in its place one with a problem where its label cannot be used."""
    try:
        entry.label.encode('utf-8')
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell
        return Entry(entry.place, problem='label is not valid Unicode')
    if has_control(entry.label):
        return Entry(entry.place, problem='label holds a control character')
    return entry if entry.label.strip() else Entry(entry.place, problem='empty label')


def has_control(label):
    """Whether there is a control character in it, as a wrong line end or a damaged file leaves: no font draws one."""
    return any(unicodedata.category(character) == 'Cc' for character in label)


def numbered_lines(path):
    """Yields ('gt.txt:17', text) for each line that is not blank; text is None where the bytes are not UTF-8."""
    with open(path, 'rb') as file:  # as bytes: a text file would also be cut at other line ends inside labels
        for number, line in enumerate(file.read().split(b'\r') if has_old_line_ends(path) else file, 1):
            if number == 1:
                if line.startswith((b'\xff\xfe', b'\xfe\xff')):
                    raise ValueError(f'{path} is UTF-16; save it as UTF-8')
                line = line.removeprefix(b'\xef\xbb\xbf')
            line = line.rstrip(b'\r\n')
            if not line.strip():
                continue
            try:
                text = line.decode('utf-8')
            except UnicodeDecodeError:
                text = None
            yield f'{path}:{number}', text


def has_old_line_ends(path):
    """Whether lines end with a carriage return alone, as on the Macintosh of old and in some exports for it."""
    with open(path, 'rb') as file:
        start = file.read(1 << 20)
    return b'\r' in start and b'\n' not in start


def count_lines(path):
    end = b'\r' if has_old_line_ends(path) else b'\n'
    with open(path, 'rb') as file:
        return sum(block.count(end) for block in iter(lambda: file.read(1 << 20), b''))


def odgt_entries(path):
    """Yields the entries of a .odgt."""
    for place, line in numbered_lines(path):
        try:
            record = json.loads(line)
            label, image = record['label'], record['im_path']
        except (TypeError, ValueError, KeyError, RecursionError):
            yield Entry(place, problem='not a JSON object with im_path and label')
            continue
        if isinstance(label, str) and isinstance(image, str) and image:
            yield check_label(Entry(place, label, {'image': image}))
        else:
            yield Entry(place, problem='im_path or label is not a text')


def sniff(path):
    """Detects the style of a text list from its first lines.

    The separator is the one of tab, comma and blank after which most lines fall into an image name and the rest; so a
    label may hold any of them. Labels are unquoted if all are in double quotes or, in comma lists, each that is.
    """
    lines = [line for _, line in islice(numbered_lines(path), SAMPLE) if line]

    def fitting(separator):
        parts = [split(line, separator) for line in lines]
        named = sum(bool(part and re.search(EXTENSIONS + '$', part[0], re.I)) for part in parts)
        return named, sum(part is not None for part in parts)

    separator = max('\t, ', key=fitting)  # the first of equals
    parts = list(filter(None, (split(line, separator) for line in lines)))
    labels = [label for _, label in parts]
    pairs = separator == '\t' and sum(bool(re.match(f'[^\t]+{EXTENSIONS}"?\t', label, re.I)) for label in labels)
    quoted = separator == ',' or all(is_quoted(label) for label in labels)
    mjsynth = sum(mjsynth_word(part) is not None for part in parts)
    return Style(separator, quoted, pairs > len(labels) / 2, mjsynth > len(labels) / 2)


def mjsynth_word(parts):
    """The word in the name of an image of MJSynth whose label is its number, else None."""
    match = MJSYNTH.fullmatch(parts[0].rpartition('/')[2])
    return match[1] if match and match[2] == parts[1] else None


def split(line, separator):
    """Splits 'path<separator>label' after the image's extension, else at the first separator; None without one.

    The path may be in double quotes, as all fields of some CSV files are.
    """
    quoted = re.match(f'"((?:[^"]|"")+)" *{separator} *(.*)', line.strip(' '), re.S)
    if quoted:
        return quoted[1].replace('""', '"'), quoted[2].strip()
    if separator != '\t':
        match = re.match(f'(.+?{EXTENSIONS}){" ?, ?" if separator == "," else " "}(.*)', line, re.I | re.S)
        if match:
            return match[1], match[2].strip()
    path, found, label = line.partition(separator)
    return (path.strip(), label.strip()) if found and path.strip() else None


def is_quoted(label):
    return len(label) >= 2 and label[0] == label[-1] == '"'


def unquote(label):
    """Takes the quotes off a label, with ICDAR's backslashes or the doubled quotes of CSV inside."""
    if not is_quoted(label):
        return label
    label = label[1:-1]
    return re.sub(r'\\(["\\])', r'\1', label) if '\\' in label else label.replace('""', '"')


def text_entries(path, style):
    """Yields the entries of a text list, which may be one of pairs: high resolution, low resolution, label."""
    for place, line in numbered_lines(path):
        if line is None:
            yield Entry(place, problem='line is not UTF-8')
            continue
        parts = split(line, style.separator)
        if parts and style.pairs:
            rest = split(parts[1], '\t')
            parts = (parts[0], *rest) if rest else None
        if not parts:
            yield Entry(place, problem='line is not "image, separator, label"')
            continue
        label = unquote(parts[-1]) if style.quoted else parts[-1]
        if style.mjsynth:
            label = mjsynth_word((parts[0], label))
            if label is None:
                yield Entry(place, problem="label is a number in MJSynth's lexicon; the image's name holds no word")
                continue
        kinds = ('image_hr', 'image_lr') if style.pairs else ('image',)
        yield check_label(Entry(place, label, dict(zip(kinds, parts))))


def read_iiit5k(path):
    """Returns the image names and labels of a .mat of IIIT5K: (train|test)data.mat or (train|test)CharBound.mat."""
    from scipy.io import loadmat  # slow to import and needed for this format only
    try:
        variables = loadmat(path)
    except Exception as error:  # scipy raises many kinds of exceptions for damaged files
        raise ValueError(f'{path} cannot be read as a .mat file: {error}') from error
    for value in variables.values():
        fields = getattr(getattr(value, 'dtype', None), 'names', None) or ()
        text = next((field for field in ('GroundTruth', 'chars') if field in fields), None)
        if text and 'ImgName' in fields:
            records = value.ravel()
            return [[''.join(map(str, record[field].ravel())) for record in records] for field in ('ImgName', text)]
    raise ValueError(f'{path} holds no struct with ImgName and GroundTruth (or chars), as the files of IIIT5K do')


def mat_entries(path, names, labels):
    for number, (name, label) in enumerate(zip(names, labels), 1):
        yield check_label(Entry(f'{path}:{number}', label, {'image': name}))


def match_labels(path, images):
    """Labels for images from the list at `path`, and a report of the images and entries without a counterpart.

    An entry belongs to the file that it names, seen from the list's folder; else to the image of its base name, where
    the list has one label for that name and `images`, a list of paths, one file.

    Returns:
        ({image: label}, list of lines of text).

    Raises:
        OSError, ValueError: as `open_list`.
    """
    entries, _, folders = open_list(path)
    by_file, by_name, problems, count = {}, {}, [], 0
    for entry in entries:
        count += 1
        if entry.problem:
            problems.append(f'{entry.place} ({entry.problem})')
            continue
        for name in entry.paths.values():
            found, _ = find_image(name, folders)
            if found:
                by_file[os.path.realpath(found)] = entry.label
            by_name.setdefault(os.path.basename(portable(name)), set()).add(entry.label)
    names = [portable(os.path.basename(image)) for image in images]
    counts = Counter(names)
    strangers = [name for name in by_name if name not in counts]
    labels, ambiguous, unlabelled = {}, [], []
    for image, name in zip(images, names):
        candidates = by_name.get(name, ())
        if os.path.realpath(image) in by_file:
            labels[image] = by_file[os.path.realpath(image)]
        elif len(candidates) == 1 and counts[name] == 1:
            labels[image] = next(iter(candidates))
        else:
            (ambiguous if candidates else unlabelled).append(str(image))
    told = ((f'{len(problems)} of {count} lines not used', problems),
            (f'{len(ambiguous)} images with several labels, none used', ambiguous),
            (f'{len(unlabelled)} of {len(names)} images without a label', unlabelled),
            (f'{len(strangers)} names in it of no image', strangers))
    return labels, [f'{path}: {text}: {first_five(members)}' for text, members in told if members]
