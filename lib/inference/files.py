"""Which images a conversion takes, and the names and places of its results. Needs no torch."""
import json
import os
import zlib
from collections import Counter
from pathlib import Path

from lib.formats import READABLE
from lib.options import WEIGHTS
from lib.runtime.console import printable
from lib.runtime.files import remove_abandoned

SUFFIXES = ('.png', '.jpg', '.jpeg', '.jpe', '.jfif', '.bmp', '.gif', '.tif', '.tiff', '.webp', '.ppm', '.pgm', '.pbm',
            '.pnm') + (('.avif',) if 'AVIF' in READABLE else ())
MAX_NAME = 200  # bytes of a result's name without .png; file systems take 255, and the unfinished file's is longer
BICUBIC, ORIGINAL = 'bicubic', 'original'
COMPARE, SHEETS = 'compare', 'sheets'  # folders beside those of the methods
ORIGINALS = f'.{ORIGINAL}'  # among the drawings, where no sub-folder of images has this name: hidden ones are left out
METRICS_TSV, METRICS_JSON = 'metrics.tsv', 'metrics.json'


def method_paths(entries, own=None, flag='--methods'):
    """{name: path of its generator, None for bicubic} of the entries of --methods.

    An entry is bicubic, a key of `own` ({name: path}), the name of a file in weights/ without .pth, or NAME=FILE.
    ValueError, which names the flag, where it is none of them.
    """
    paths = {}
    for entry in entries:
        name, equals, path = entry.partition('=')
        if equals and not path:
            raise ValueError(f'{flag} {printable(entry)}: a FILE is missing after the =')
        path = path or (own or {}).get(name)
        if not path and name != BICUBIC:
            path = WEIGHTS / f'{name}.pth'
            if not path.is_file():
                there = sorted(path.stem for path in WEIGHTS.glob('*.pth') if not path.stem.startswith('aster'))
                is_source = os.path.isdir(entry) or entry.lower().endswith(SUFFIXES)
                hint = '; images stand before --methods' if is_source else ''
                raise ValueError(f'{flag} {printable(entry)}: give {", ".join([BICUBIC, *there])} or NAME=FILE{hint}')
        taken = (ORIGINAL, COMPARE, SHEETS, METRICS_TSV, METRICS_JSON, *map(str.casefold, paths))
        if name.casefold() in taken or name in ('', '.', '..') or Path(name).name != name:
            raise ValueError(f'{flag} {printable(entry)}: its results would go into the folder {printable(name)!r}; '
                             'give each method another name')
        paths[name] = path or None
    return paths


def identity(path):
    """Equal for two paths of one file; None where there is no file."""
    return (os.stat(path).st_dev, os.stat(path).st_ino) if os.path.exists(path) else None


def earlier_results(out_path):
    """The folders into which earlier runs wrote where out_path has a metrics.json: those of the methods in it and of
    the shipped ones, which it may no longer name; none without such a file."""
    try:
        methods = json.loads(Path(out_path, METRICS_JSON).read_text(encoding='utf-8'))['methods']
        names = {*methods, BICUBIC, *(path.stem for path in WEIGHTS.glob('*.pth')), COMPARE, SHEETS} - {ORIGINAL}
        return [Path(out_path, name) for name in names]
    except (OSError, ValueError, KeyError, TypeError):  # none, or that of another program
        return []


def find_images(sources, recursive=False, results=()):
    """([(image, name of it)], names of other files, {sub-folder that cannot be read: why}) of files and folders.

    An image's name is its path below the folder that was given, or its file name if it was given itself; where those
    are several folders, its path below the innermost one that holds them all. Of a folder the files with the suffix of
    an image are taken, with `recursive` those of its sub-folders too, except the folders `results`; links to folders
    are not followed. ValueError where a source does not exist or cannot be read.
    """
    images, others, unread, left_out = {}, {}, {}, {identity(folder) for folder in results} - {None}
    sources, places = [Path(source) for source in sources], []
    for source in sources:
        if not os.path.lexists(source):
            raise ValueError(f'{printable(source)}: no such file or folder')
        places.append(Path(os.path.abspath(source if os.path.isdir(source) else source.parent)).parts[1:])
    shared = len(os.path.commonprefix(places))

    def refuse(error):
        if Path(error.filename) in sources:
            raise ValueError(f'{printable(error.filename)}: {error.strerror}')
        unread[error.filename] = error.strerror

    for source, place in zip(sources, places):
        below = Path(*(part.lstrip('.') for part in place[shared:]))  # results are not hidden
        if not os.path.isdir(source):
            images.setdefault(os.path.abspath(source), (source, below / source.name))
            continue
        for folder, folders, names in os.walk(source, onerror=refuse):
            folders[:] = sorted(name for name in folders if recursive and not name.startswith('.')
                                and identity(Path(folder, name)) not in left_out)
            for path in (Path(folder, name) for name in sorted(names)):
                if not os.path.isdir(path):  # a link to one
                    name = below / path.relative_to(source)
                    taken = path.suffix.lower() in SUFFIXES and not path.name.startswith('.')
                    (images if taken else others).setdefault(os.path.abspath(path), (path, name))
    return list(images.values()), [name for _, name in others.values()], unread


def output_names(names):
    """The names of the results, a list: each image's own with .png; images that would share one keep their suffix.

    Told apart, also from the folders of others, as file systems do that ignore case. Long names are cut, and end with a
    checksum of the whole, so that nothing beside them gets too long.
    """
    def key(name):
        return str(name.with_suffix('')).casefold()

    sharing, results = Counter(map(key, names)), {}
    used = {key(folder) for name in names for folder in name.parents if folder.suffix.lower() == '.png'}
    for place, name in sorted(enumerate(names), key=lambda entry: sharing[key(entry[1])]):  # those with their own first
        stem = name.stem if sharing[key(name)] == 1 else name.name
        whole = os.fsencode(stem)
        if len(whole) > MAX_NAME:  # the checksum tells apart those that begin alike
            stem = f"{whole[:MAX_NAME - 9].decode('utf-8', 'ignore')}-{zlib.crc32(whole):08x}"
        while str(name.parent / stem).casefold() in used:
            stem += '_'
        used.add(str(name.parent / stem).casefold())
        results[place] = name.parent / f'{stem}.png'
    return [results[place] for place in range(len(names))]


def check_outputs(out_path, folders, images, results, sources):
    """Make the folders and remove what killed runs left there unfinished. ValueError, before that, where a result would
    replace an input, or be one of the next run.

    images: their paths. results: their names in each of the `folders`, which are out_path or in it. sources: what was
    searched, or given as files: what else lies beside these is no result either.
    """
    inputs = {identity(path) for path in images} - {None}
    searched = {*map(Path, filter(os.path.isdir, sources)), *(path.parent for path in images if sources)}
    searched = {identity(folder) for folder in searched} - {None}
    for folder in folders:
        for place in dict.fromkeys(folder / parent for name in results for parent in name.parents):
            if identity(place) in searched:
                raise ValueError(f'{printable(out_path)}: results would go among the inputs, into {printable(place)}; '
                                 'choose another folder')
        for target in (folder / name for name in results):
            if identity(target) in inputs:
                raise ValueError(f'the result {printable(target)} would take the place of an input; choose another '
                                 '--out_path')
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f'{printable(out_path)}: {error.strerror}: {printable(folder)}') from error
    for place in {Path(out_path), *folders, *(folder / name.parent for folder in folders for name in results)}:
        remove_abandoned(place)
