"""Split lists of words into training and validation lists, without pictures that a test set has too.

    python3 -m utils.split_words --input ./iiit5k_train/gt.txt ./svt_train/gt.txt --apart ./iiit5k_3000/gt.txt

writes `train.odgt` and `val.odgt`, for utils/create_lmdb.py. A word is a near duplicate of another where both have the
same letters and digits, of any script, and the cosine of their pictures, grey at 32x16 less their means, is above
`--cosine`. A word near one of the lists of `--apart` is left out; of the others a share, drawn by `--seed`, goes to
validation, and words near one of those are left out of training. Of pairs the high-resolution picture is taken.
"""
import contextlib
import json
import os
import random
import sys
from collections import defaultdict
from itertools import product

import numpy as np
from PIL import Image
from tqdm import tqdm

if not __package__:  # run as a file, Python looks for modules beside it; they are in the project's root
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from lib.options import CheckedParser, HelpFormatter
from lib.runtime.console import first_five, open_output, run_command
from lib.runtime.files import same_file, written_beside
from lib.vocabulary import composed, is_letter
from lib.wordsets.word_lists import find_image, open_list


def parse_args(argv=None):
    parser = CheckedParser(description='Split lists of words into training and validation.',
                           formatter_class=HelpFormatter)
    parser.add_argument('--input', nargs='+', required=True, help='lists or folders with gt.txt, as for create_lmdb.py')
    parser.add_argument('--apart', nargs='*', default=[], help='lists of test words that nothing may be near to')
    parser.add_argument('--out', default='./dataset/lists', help='folder of train.odgt and val.odgt')
    parser.add_argument('--val_share', type=float, default=0.1, help='share of the words that go to validation, 0 to 1')
    parser.add_argument('--cosine', type=float, default=0.93, help='pictures more alike than this are near duplicates')
    parser.add_argument('--seed', type=int, default=1, help='seed of the draw of validation words')
    args = parser.parse_args(argv)
    for name in ('val_share', 'cosine'):
        if not 0 <= getattr(args, name) <= 1:
            parser.error(f'--{name} {getattr(args, name)}: must lie in 0 to 1')
    return args


if __name__ == '__main__':
    open_output()
    parse_args()  # --help and wrong flags are answered here, before the seconds that it takes to import torch

from lib.imaging import read_image


def descriptor(path):
    """The vector that pictures are compared by: grey values at 32x16, less their mean, of length 1; (512,)."""
    grey = np.asarray(read_image(path).convert('L').resize((32, 16), Image.BICUBIC), dtype=np.float32).ravel()
    grey = grey - grey.mean()
    return grey / max(1e-6, float(np.linalg.norm(grey)))


def read_list(path, skipped):
    """[(picture, label, descriptor)] of a list in its order; `skipped`, {reason: [name, ...]}, takes the unusable."""
    entries, count, folders = open_list(path)
    words = []
    for entry in tqdm(entries, total=count, desc=str(path), leave=False, disable=None):
        if entry.problem:
            skipped[entry.problem].append(entry.place)
            continue
        image = entry.paths.get('image_hr') or entry.paths['image']
        found, tried = find_image(image, folders)
        if found is None:
            skipped['image not found'].append(' nor '.join(tried))
            continue
        try:
            words.append((found, entry.label, descriptor(found)))
        except ValueError as error:
            skipped['image unusable'].append(f'{found} ({error})')
    return words


def compared(label):
    """The part of a label that is compared: letters and digits, case ignored; all of one that has none."""
    label = composed(label).casefold()
    return ''.join(filter(is_letter, label)) or label


def without_near_duplicates(words, others, cosine):
    """The `words` that are not a near duplicate of one of `others`; both [(picture, label, descriptor)]."""
    by_label = defaultdict(list)
    for _, label, vector in others:
        by_label[compared(label)].append(vector)
    by_label = {label: np.stack(descriptors) for label, descriptors in by_label.items()}

    def near(label, vector):
        descriptors = by_label.get(compared(label))
        return descriptors is not None and float((descriptors @ vector).max()) > cosine

    return [word for word in words if not near(*word[1:])]


def split(words, tests, val_share, cosine, seed):
    """(training words, validation words), both in their order, near duplicates left out as the module says."""
    words = without_near_duplicates(words, tests, cosine)
    chosen = set(random.Random(seed).sample(range(len(words)), round(val_share * len(words))))
    val = [word for index, word in enumerate(words) if index in chosen]
    train = [word for index, word in enumerate(words) if index not in chosen]
    return without_near_duplicates(train, val, cosine), val


def write_odgt(path, words):
    """Write a list; image paths are relative to its folder."""
    folder = os.path.dirname(os.path.abspath(path))
    with open(path, 'w', encoding='utf-8', errors='backslashreplace') as file:  # of names not in UTF-8, as JSON does
        for picture, label, _ in words:
            record = {'im_path': os.path.relpath(picture, folder), 'label': label}
            file.write(json.dumps(record, ensure_ascii=False) + '\n')


def main(argv=None):
    """Split; returns the exit status: 0, 1 where a list would be empty, 2 for a list that cannot be read."""
    args = parse_args(argv)
    skipped = defaultdict(list)
    outputs = [os.path.join(args.out, f'{name}.odgt') for name in ('train', 'val')]
    try:
        for source, output in product((*args.input, *args.apart), outputs):
            if same_file(source, output):
                raise ValueError(f'{source}: would be overwritten; name another folder with --out')
        words, tests = ([word for path in paths for word in read_list(path, skipped)]
                        for paths in (args.input, args.apart))
        train, val = split(words, tests, args.val_share, args.cosine, args.seed)
        print(f'{len(words)} words: {len(train)} to train on, {len(val)} to validate on, '
              f'{len(words) - len(train) - len(val)} left out as near duplicates')
        for reason, names in sorted(skipped.items()):
            print(f'  skipped: {len(names)} {reason}: {first_five(names)}')
        if not train or (args.val_share and not val):
            print('split_words.py: too few words to split', file=sys.stderr)
            return 1
        with written_beside(outputs[0]) as new_train, written_beside(outputs[1]) as new_val:
            write_odgt(new_train, train)
            write_odgt(new_val, val)
            # The lists get their names one after the other, first that for validation: where that is all that is done,
            # no training list of an earlier run, with words of this one, may be there.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(outputs[0])
    except (OSError, ValueError) as error:
        print(f'split_words.py: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(run_command(main))
