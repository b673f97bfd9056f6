"""The words in a photograph as corners: cut out, enlarged with a margin, put back."""
import math

from PIL import Image, ImageDraw, ImageFilter

SCENE = 192  # pixels: an image with both sides longer, or with known words, is a photograph; not read as a whole
MARGIN = 0.25  # of a word's height: the surroundings that are enlarged with it, over which it fades into the ground


def corners_of(numbers):
    """4 numbers x, y, w, h or 6 and more x1, y1, x2, y2, ... -> a list of corners (x, y); ValueError for others."""
    if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in numbers):
        raise ValueError(f'{numbers}: not all are numbers')
    if len(numbers) == 4:
        x, y, width, height = numbers
        if width <= 0 or height <= 0:
            raise ValueError(f'{numbers}: x,y,w,h with w and h above zero are needed')
        if width < 1 and height < 1:
            raise ValueError(f'{numbers}: pixels are needed, not shares of the picture as YOLO has them')
        return [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
    if len(numbers) < 6 or len(numbers) % 2:
        raise ValueError(f'{numbers}: give x,y,w,h or the corners x1,y1,x2,y2,x3,y3,... of a polygon')
    return list(zip(numbers[::2], numbers[1::2]))


def normalize_corners(pixels, width, height):
    """The corners in normalized coordinates (x, y), 0 to 1, for an image of width x height pixels; None where the
    whole polygon lies outside."""
    xs, ys = zip(*pixels)
    if max(xs) <= 0 or max(ys) <= 0 or min(xs) >= width or min(ys) >= height:
        return None
    return [(min(1, max(0, x / width)), min(1, max(0, y / height))) for x, y in pixels]


def text_of(corners):
    """Corners as one writes them: 'x,y,w,h' of an upright rectangle, else 'x1,y1,x2,y2,...'."""
    left, top, right, bottom = bounds(corners)
    upright = list(corners) == [(left, top), (right, top), (right, bottom), (left, bottom)]
    numbers = (left, top, right - left, bottom - top) if upright else [value for corner in corners for value in corner]
    return ','.join(f'{number:g}' for number in numbers)


def bounds(corners):
    """(left, top, right, bottom) of corners."""
    xs, ys = zip(*corners)
    return min(xs), min(ys), max(xs), max(ys)


def window(corners, width, height):
    """What to enlarge for a word of an image of width x height pixels: (left, top, right, bottom) with a margin, and
    this margin, in pixels."""
    left, top, right, bottom = (bound * side for bound, side in zip(bounds(corners), (width, height) * 2))
    margin = max(4, math.ceil(MARGIN * min(right - left, bottom - top)))
    return (max(0, math.floor(left) - margin), max(0, math.floor(top) - margin), min(width, math.ceil(right) + margin),
            min(height, math.ceil(bottom) + margin)), margin


def blend(ground, part, corners, corner, margin):
    """Put the enlarged part of a picture into `ground`, an enlargement of the whole, in place.

    The word at these normalized `corners` is covered in full; outside of it the part fades over `margin` pixels.
    corner: (left, top) of the part. Both in pixels of the ground.
    """
    pixels = [(x * ground.width - corner[0], y * ground.height - corner[1]) for x, y in corners]
    # wider than the part, so that nothing fades at the edges of the picture
    mask = Image.new('L', (part.width + 2 * margin, part.height + 2 * margin))
    pixels = [(x + margin, y + margin) for x, y in pixels]
    draw = ImageDraw.Draw(mask)
    draw.polygon(pixels, fill=255)
    # 0.55 of the margin around the word, then blurred by 0.35: the word keeps its full weight, corners included
    draw.line([*pixels, *pixels[:2]], fill=255, width=round(1.1 * margin), joint='curve')
    mask = mask.filter(ImageFilter.BoxBlur(0.35 * margin))
    ground.paste(part, corner, mask.crop((margin, margin, margin + part.width, margin + part.height)))


def cut(picture, corners):
    """The word at these normalized corners of a picture, upright, at least one pixel; four corners in the order of the
    text, from its top left on, are straightened."""
    pixels = [(x * picture.width, y * picture.height) for x, y in corners]
    left, top, right, bottom = map(round, bounds(pixels))
    if len(pixels) == 4:
        area = sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in zip(pixels, pixels[1:] + pixels[:1]))
        if area < 0:  # anticlockwise
            pixels = [pixels[0], *pixels[:0:-1]]
        one, two, three, four = pixels
        width = round((math.dist(one, two) + math.dist(four, three)) / 2)
        height = round((math.dist(one, four) + math.dist(two, three)) / 2)
        slanted = abs(width - (right - left)) > 1 or abs(height - (bottom - top)) > 1 or one[0] > three[0]
        if slanted and min(width, height) >= 1:
            data = [value for corner in (one, four, three, two) for value in corner]
            return picture.transform((width, height), Image.Transform.QUAD, data, Image.Resampling.BICUBIC)
    left, top = min(left, picture.width - 1), min(top, picture.height - 1)
    return picture.crop((left, top, max(left + 1, right), max(top + 1, bottom)))
