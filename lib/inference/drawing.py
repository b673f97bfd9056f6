"""Labelled pictures: versions of an image side by side, what was read in each, details enlarged."""
import os
import subprocess
from contextlib import suppress
from difflib import SequenceMatcher
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont, ImageOps

from lib.vocabulary import normalize

PAPER, INK, GREY, RED = (255, 255, 255), (20, 20, 20), (120, 120, 120), (205, 20, 20)
FRAMES = [(214, 39, 40), (31, 119, 180), (44, 160, 44), (255, 127, 14), (148, 103, 189), (140, 86, 75), (227, 119, 194),
          (23, 190, 207)]  # of zoomed details and of curves, in turn
ENLARGE_TO, MAX_ENLARGING, REDUCE_TO = 384, 8, 960  # longest side of a drawn image, pixels
GAP = 10


class Column(NamedTuple):
    """One column of a comparison.

    title and note (figures, for example) stand above the image, the string read below it; text None: nothing was read.
    details: cut-outs of the image; detail_texts: what was read in each, or nothing at all.
    """

    title: str
    image: Image.Image
    text: str = None
    note: str = ''
    details: tuple = ()
    detail_texts: tuple = ()


@lru_cache(maxsize=256)
def font(size, others=''):
    """Pillow's own font, which has no characters but ASCII; for `others` the font that fontconfig finds to have them.

    Where there is no fontconfig, as on Windows, or no such font, they are drawn as boxes.
    """
    if others:
        pattern = ':scalable=true:charset=' + ' '.join(f'{ord(character):x}' for character in 'Aa0' + others)
        with suppress(OSError, ValueError, subprocess.CalledProcessError):
            found = subprocess.run(['fc-match', '--format', '%{file}\t%{index}', pattern], stdout=subprocess.PIPE,
                                   stderr=subprocess.DEVNULL, check=True).stdout
            path, index = os.fsdecode(found).split('\t')
            return ImageFont.truetype(path, size, int(index) & 0xffff)  # the upper bits are of variable fonts
    return ImageFont.load_default(size)


def mark_letters(text, label, normalize=normalize):
    """The letters of a string that was read, each with whether it is right: [(character, True or False), ...].

    Only what `normalize` leaves of a word counts, letters and digits in either case; other characters are right. A
    letter of the label that is missing is ('_', False) in its place. With label None everything is right.
    """
    if label is None:
        return [(character, True) for character in text]
    counted = [(place, letter) for place, character in enumerate(text) for letter in normalize(character)]  # ß: s, s
    places, read = [place for place, _ in counted], [letter for _, letter in counted]
    wrong, missing = set(), {}
    for kind, i1, i2, j1, j2 in SequenceMatcher(None, read, list(normalize(label)), autojunk=False).get_opcodes():
        if kind != 'equal':
            wrong.update(places[i1:i2])
            missing[places[i2] if i2 < len(places) else len(text)] = max(0, (j2 - j1) - (i2 - i1))
    marked = []
    for place in range(len(text) + 1):
        marked += [('_', False)] * missing.get(place, 0)
        if place < len(text):
            marked.append((text[place], place not in wrong))
    return marked


def fit(image):
    """The image as it is drawn: small ones enlarged by a whole number, very large ones reduced, others untouched."""
    longest = max(image.size)
    if longest > REDUCE_TO:
        size = [max(1, round(side * REDUCE_TO / longest)) for side in image.size]
        return image.resize(size, Image.Resampling.BOX if longest > 4 * REDUCE_TO else Image.Resampling.LANCZOS)
    factor = min(MAX_ENLARGING, ENLARGE_TO // longest)
    return image.resize([side * factor for side in image.size], Image.Resampling.BICUBIC) if factor > 1 else image


def draw_text(text, size, width=None, color=INK):
    """One line of text as a picture; smaller letters where it would be wider than `width`. See `draw_marked`."""
    return draw_marked([(character, True) for character in ' '.join(text.split())], size, width, color)


def draw_marked(marked, size, width=None, color=INK):
    """A line of (character, right) pairs as a picture, wrong ones red and underlined."""
    string = ''.join(character for character, _ in marked)
    others = ''.join(sorted({character for character in string if not character.isascii()}))
    if width and font(size, others).getlength(string) > width:
        size = max(9, int(size * width / font(size, others).getlength(string)))
    face = font(size, others)
    ascent, descent = face.getmetrics()
    picture = Image.new('RGB', (max(1, round(face.getlength(string))) + 2, ascent + descent + 2), PAPER)
    draw = ImageDraw.Draw(picture)
    left = 0.0
    for (right, missing), run in groupby(marked, key=lambda letter: (letter[1], letter == ('_', False))):
        part = ''.join(character for character, _ in run)
        end = left + face.getlength(part)
        draw.text((left, 0), part, fill=color if right else RED, font=face)
        if not right and not missing:  # a missing letter's mark is a line already
            draw.line((left + 1, ascent + descent, end - 1, ascent + descent), fill=RED, width=max(2, size // 12))
        left = end
    return picture


def grid(rows, gap=GAP):
    """Pictures in rows and columns, each centred in its cell, on white; None leaves a cell empty."""
    columns = max(map(len, rows))
    rows = [list(row) + [None] * (columns - len(row)) for row in rows]
    widths = [max((row[c].width for row in rows if row[c]), default=0) for c in range(columns)]
    heights = [max((cell.height for cell in row if cell), default=0) for row in rows]
    sheet = Image.new('RGB', (sum(widths) + gap * (columns + 1), sum(heights) + gap * (len(rows) + 1)), PAPER)
    top = gap
    for row, height in zip(rows, heights):
        left = gap
        for cell, width in zip(row, widths):
            if cell:
                sheet.paste(cell, (left + (width - cell.width) // 2, top + (height - cell.height) // 2))
            left += width + gap
        top += height + gap
    return sheet


def with_boxes(image, boxes):
    """A copy with frames around `boxes`, (left, top, right, bottom) in normalized coordinates."""
    image = image.copy()
    draw = ImageDraw.Draw(image)
    for number, (left, top, right, bottom) in enumerate(boxes):
        left, right = left * (image.width - 1), right * (image.width - 1)
        top, bottom = top * (image.height - 1), bottom * (image.height - 1)
        thick = max(2, image.width // 240)
        draw.rectangle((left, top, right, bottom), outline=FRAMES[number % len(FRAMES)], width=thick)
    return image


def enlarge_detail(image, width):
    """A cut-out enlarged (never reduced) towards `width` pixels, or to three quarters of that in height."""
    factor = max(1.0, min(width / image.width, 0.75 * width / image.height))
    return image.resize([max(1, round(side * factor)) for side in image.size], Image.Resampling.BICUBIC)


def compare(columns, label=None, boxes=(), normalize=normalize):
    """Versions of one image side by side: title, note, image, string read; below them the details, enlarged.

    label: the true string, if known, stands at the bottom, and letters that differ from it are marked (see
    `mark_letters`). boxes: where the details lie, normalized (see `with_boxes`). All columns are enlarged alike for the
    eye, by bicubic interpolation.
    """
    views = [fit(column.image) for column in columns]
    width = max(view.width for view in views)
    size = max(18, width // 20)

    def string(text, label=None):
        if text is None:
            return None
        return draw_marked(mark_letters(text, label, normalize), round(1.3 * size), width) if text else \
            draw_text('(nothing read)', size, width, RED if label else GREY)

    rows = [[draw_text(column.title, size, width) for column in columns]]
    if any(column.note for column in columns):
        rows.append([draw_text(column.note, round(0.8 * size), width, GREY) for column in columns])
    rows += [[with_boxes(view, boxes) for view in views], [string(column.text, label) for column in columns]]
    for number in range(max(len(column.details) for column in columns)):
        color = FRAMES[number % len(FRAMES)]
        rows.append([ImageOps.expand(enlarge_detail(column.details[number], width - 6), 3, color)
                     for column in columns])
        rows.append([string(column.detail_texts[number]) if column.detail_texts else None for column in columns])
    rows = [row for row in rows if any(row)]
    picture = grid(rows)
    if label is not None:
        picture = grid([[picture], [draw_text(f'label: {label}', size, picture.width)]], gap=4)
    return picture


def stack(pictures):
    """Pictures one below the other, for a sheet of several comparisons."""
    return grid([[picture] for picture in pictures])
