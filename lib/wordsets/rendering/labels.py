"""Labels of rendered words: words of a list in several cases, numbers, prices, codes, addresses, made-up names."""
import os
import string
from functools import partial

import numpy as np

from lib.wordsets.rendering.fonts import PRINTABLE

DEFAULT_WORDS = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'words.txt')
MAX_LENGTH = 20  # characters of a label


def read_words(path):
    """Words of a list, one a line, and the number of lines left out: too long or not printable ASCII."""
    with open(path, encoding='utf-8', errors='replace') as lines:
        words = [line.strip() for line in lines]
    good = [w for w in words if 0 < len(w) <= MAX_LENGTH and set(w) <= set(PRINTABLE)]
    return good, sum(map(bool, words)) - len(good)


def make_label(words, rng):
    """A text as found on signs: mostly words, else numbers, prices, codes, addresses, made-up names, random letters."""
    kind = rng.random()
    if kind < 0.66:
        label = change_case(words[rng.integers(len(words))], rng)
        if rng.random() < 0.09:
            label = punctuate(label, rng)
    elif kind < 0.72:
        label = change_case(made_up_name(rng), rng)
    elif kind < 0.86:
        label = number(rng)
    elif kind < 0.90:
        label = code(rng)
    elif kind < 0.925:
        label = change_case(pick(string.ascii_lowercase, rng.integers(1, 9), rng), rng)
    elif kind < 0.93:
        label = pick(PRINTABLE, rng.integers(1, 6), rng)
    elif kind < 0.945:
        label = '-'.join(change_case(words[rng.integers(len(words))], rng) for _ in range(2))
    elif kind < 0.96:
        label = ''.join(words[rng.integers(len(words))].capitalize() for _ in range(2))
    else:
        label = address(words[rng.integers(len(words))].lower(), rng)
    return label[:MAX_LENGTH]


def pick(chars, count, rng):
    return ''.join(chars[i] for i in rng.integers(len(chars), size=count))


def change_case(word, rng):
    kind = rng.random()
    if kind < 0.42:
        return word.upper()
    if kind < 0.70:
        return word[:1].upper() + word[1:]
    if kind < 0.98:
        return word.lower() if kind < 0.9 else word
    return ''.join(c.upper() if rng.random() < 0.5 else c.lower() for c in word)


def punctuate(word, rng):
    forms = ('{}!', '{},', '{}.', "{}'s", '{}:', '{}?', '"{}"', '({})', "{}'", '{})', '({}', '-{}', '{}-', '&{}', '{}*',
             '#{}', '@{}', '{}...', '{};', '{}/', '[{}]', '{}+', '{}_', '~{}~', '<{}>', '{}%', '={}', '{}|', '{{{}}}',
             '{}^', '{}\\', '${}', '`{}')
    weights = np.array([8] * 4 + [4] * 4 + [2] * 10 + [1] * (len(forms) - 18))
    return forms[rng.choice(len(forms), p=weights / weights.sum())].format(word)


def made_up_name(rng):
    """A pronounceable name such as brands and families have."""
    starts = [*'bcdfghjklmnprstvwyz', 'br', 'ch', 'cl', 'dr', 'fl', 'gr', 'kr', 'pl', 'qu', 'sh', 'st', 'th', 'tr']
    ends = ['', '', 'n', 'r', 's', 'l', 'x', 'm', 'nd', 'ck', 't']
    return ''.join(starts[rng.integers(len(starts))] + 'aeiou'[rng.integers(5)] + ends[rng.integers(len(ends))]
                   for _ in range(rng.integers(1, 4)))


def number(rng):
    """Numbers, prices, times, dates, phone numbers, measures, shares."""
    digits = partial(pick, string.digits, rng=rng)
    units = ('%', 'g', 'kg', 'ml', 'km', 'm', 'cm', 'mm', 'L', 'oz', 'lb', 'mph', 'am', 'pm', 'th', 'W', 'V', '+', 'x',
             'st', 'nd', 'rd', 'c', 'F', 'B', 'A', '"', "'")
    lead = str(rng.integers(1, 10))
    few = lead + digits(rng.integers(0, 3))
    forms = (lambda: lead + digits(rng.integers(0, 6)),
             lambda: '$' + few + ('.' + digits(2) if rng.random() < 0.7 else ''),
             lambda: few + pick('..,', 1, rng) + digits(2),
             lambda: f'{rng.integers(1, 25)}:{rng.integers(60):02d}',
             lambda: f'{rng.integers(1, 13)}/{rng.integers(1, 32)}',
             lambda: f'{rng.integers(1, 13)}/{rng.integers(1, 32)}/{rng.integers(1950, 2030)}',
             lambda: f'{digits(3)}-{digits(4)}',
             lambda: f'({digits(3)}){digits(3)}-{digits(4)}',
             lambda: few + units[rng.integers(len(units))],
             lambda: str(rng.integers(1850, 2030)),
             lambda: lead + ',' + digits(3),
             lambda: '+' + digits(rng.integers(8, 12)),
             lambda: '#' + few,
             lambda: f'{rng.integers(1, 100)}-{rng.integers(1, 100)}',
             lambda: f'-{rng.integers(5, 91)}%')
    return forms[rng.integers(len(forms))]()


def code(rng):
    """Letters with digits: plates, rooms, models, postcodes."""
    groups = [pick(string.ascii_uppercase if rng.random() < 0.5 else string.digits, rng.integers(1, 5), rng)
              for _ in range(rng.integers(2, 4))]
    label = str(rng.choice(['', '', '', '-', '-', '.', '/'])).join(groups)
    return label.lower() if rng.random() < 0.1 else label


def address(word, rng):
    forms = ('www.{}.com', '{}.com', '{}.org', '{}.net', 'www.{}.co.uk', '@{}', '#{}', 'info@{}.com', 'http://{}',
             '{}.de', '{}&Co', '{}&Sons', '{}.biz', "{}'n'")
    label = forms[rng.integers(len(forms))].format(word[:8])
    return label.upper() if rng.random() < 0.2 else label
