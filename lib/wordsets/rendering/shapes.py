"""Shapes of rendered words: lettering, outlines, shadows, arcs, waves, perspective, and the crop around them."""
import math

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from lib.wordsets.rendering.fonts import load_font

MAX_ASPECT = 14  # width over height of a crop


def letter(text, font, rng, crop_height):
    """Layers of the flat word, ink 255: red the letters, green letters with outline, blue the shadow; or grey."""
    size = int(crop_height * rng.uniform(0.72, 0.92))
    face = load_font(font.path, font.index, size // 4 * 4)
    kind, spacing = rng.random(), 0
    if kind < 0.07:  # letters set wide apart, as over shops
        spacing = size * rng.uniform(0.2, 1)
    elif kind < 0.35:
        spacing = size * (rng.uniform(-0.03, 0) if rng.random() < 0.25 else rng.exponential(0.08))
    stroke = round(size * rng.uniform(0.025, 0.075)) if rng.random() < 0.16 else 0
    pad = size // 2 + stroke
    left, top, right, bottom = face.getbbox(text, anchor='ls')
    wide = int(right - left + abs(spacing) * len(text)) + 2 * pad
    origin = (pad - left, pad - top)
    flat = Image.new('L', (wide, bottom - top + 2 * pad))
    write(flat, origin, text, face, spacing, 0)
    outlined = flat
    if stroke:
        outlined = Image.new('L', flat.size)
        write(outlined, origin, text, face, spacing, stroke)
    shadow = cast(outlined, size, rng)
    if not stroke and shadow is None:
        return flat
    return Image.merge('RGB', (flat, outlined, shadow or Image.new('L', flat.size)))


def write(canvas, origin, text, face, spacing, stroke):
    draw = ImageDraw.Draw(canvas)
    x, y = origin
    if not spacing:
        draw.text((x, y), text, font=face, fill=255, anchor='ls', stroke_width=stroke)
        return
    for i, char in enumerate(text):
        left = x + face.getlength(text[:i]) + i * spacing
        draw.text((left, y), char, font=face, fill=255, anchor='ls', stroke_width=stroke)


def cast(mask, size, rng):
    """Shadow of the letters: a soft or hard one to a side, a solid block, or mostly None."""
    kind = rng.random()
    if kind > 0.22:
        return None
    reach = size * rng.uniform(0.03, 0.09)
    angle = rng.uniform(0, 2 * math.pi)
    dx, dy = round(reach * math.cos(angle)), round(reach * math.sin(angle))
    shadow = ImageChops.offset(mask, dx, dy)
    if kind < 0.06:
        for part in range(1, 5):
            step = ImageChops.offset(mask, round(dx * part / 5), round(dy * part / 5))
            shadow = ImageChops.lighter(shadow, step)
    elif kind < 0.16:
        shadow = shadow.filter(ImageFilter.GaussianBlur(size * rng.uniform(0.02, 0.06)))
    return shadow


def bend(layers, rng):
    """Bends some words along an arc or a wave."""
    kind = rng.random()
    width, height = layers.size
    if kind > 0.2 or width < 1.5 * height:
        return layers
    if kind < 0.16:
        angle = rng.uniform(0.3, 2.4) * rng.choice((-1, 1))  # angle of the whole word
        radius = max(width / abs(angle), height)
        return mesh(layers, *arc(width, height, radius, 1 if angle > 0 else -1))
    rise = height * rng.uniform(0.05, 0.16)
    length, start = width / rng.uniform(0.5, 1.6), rng.uniform(0, 2 * math.pi)
    return mesh(layers, (width, int(height + 2 * rise)),
                lambda x, y: (x, y - rise - rise * np.sin(2 * math.pi * x / length + start)))


def arc(width, height, radius, up):
    """Size of the bent picture and the map from it back to the flat one; `up` 1 is a rainbow, -1 a bowl."""
    half = min(width / radius / 2, 1.5)
    outer, inner = radius + height / 2, radius - height / 2
    out_width = int(2 * outer * math.sin(half)) + 2
    out_height = int(outer - inner * math.cos(half)) + 2

    def back(x, y):
        y = y if up > 0 else out_height - y
        dx, dy = x - out_width / 2, outer - y
        v = outer - np.hypot(dx, dy)
        return width / 2 + np.arctan2(dx, dy) * radius, v if up > 0 else height - v
    return (out_width, out_height), back


def mesh(layers, size, back, cell=12):
    """The picture of `size` whose pixel (x, y) is the one at back(x, y), straight lines in cells of some pixels."""
    xs = np.unique(np.append(np.arange(0, size[0], cell), size[0]))
    ys = np.unique(np.append(np.arange(0, size[1], cell * 2), size[1]))
    u, v = back(*np.meshgrid(xs.astype(float), ys.astype(float)))
    cells = []
    for j in range(len(ys) - 1):
        for i in range(len(xs) - 1):
            corners = ((j, i), (j + 1, i), (j + 1, i + 1), (j, i + 1))
            cells.append(((int(xs[i]), int(ys[j]), int(xs[i + 1]), int(ys[j + 1])),
                          tuple(float(t) for c in corners for t in (u[c], v[c]))))
    return layers.transform(size, Image.Transform.MESH, cells, Image.Resampling.BILINEAR)


def project(layers, rng, crop_height):
    """Turns, slants and tilts the word and cuts a loose box of `crop_height` around it; uint8 (H, W, 3)."""
    ink = np.asarray(layers.getchannel(min(1, len(layers.getbands()) - 1)))
    least = 61 if ink.max() > 60 else ink.max() / 2  # small hairlines never cover a pixel
    cols = np.nonzero(ink.max(0) >= least)[0]
    below = ink[:, cols] >= least
    points = np.concatenate([np.stack([cols, below.argmax(0)], 1),
                             np.stack([cols, len(ink) - 1 - below[::-1].argmax(0)], 1)]).astype(float)
    middle, reach = (points.min(0) + points.max(0)) / 2, np.ptp(points[:, 0]) / 2 + 1
    turn = rng.normal(0, 0.045) if rng.random() < 0.75 else rng.normal(0, 0.14)
    slant = rng.normal(0, 0.12) if rng.random() < 0.35 else 0
    tilt = np.clip(rng.normal(0, 0.16, 2), -0.4, 0.4) if rng.random() < 0.5 else (0, 0)
    squeeze = math.exp(rng.normal(0, 0.12))
    cos, sin = math.cos(turn), math.sin(turn)
    forward = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ np.array(
        [[squeeze, -slant, 0], [0, 1, 0], [tilt[0] / reach, tilt[1] / reach * 0.5, 1]]) @ np.array(
        [[1, 0, -middle[0]], [0, 1, -middle[1]], [0, 0, 1]])
    moved = np.c_[points, np.ones(len(points))] @ forward.T
    moved = moved[:, :2] / moved[:, 2:]
    low, high = moved.min(0), moved.max(0)
    text_height = high[1] - low[1] + 1
    margins = rng.exponential(0.09, 4).clip(0.0, 0.4) * text_height + 1  # left, top, right, bottom
    low, high = low - margins[:2], high + margins[2:]
    scale = crop_height / (high[1] - low[1])
    width = int(min(max((high[0] - low[0]) * scale, crop_height / 3), MAX_ASPECT * crop_height))
    stretch = width / (high[0] - low[0])
    place = np.array([[stretch, 0, -low[0] * stretch], [0, scale, -low[1] * scale], [0, 0, 1]]) @ forward
    back = np.linalg.inv(place)
    back = (back / back[2, 2]).ravel()[:8]
    layers = np.array(layers.transform((width, crop_height), Image.Transform.PERSPECTIVE, tuple(back),
                                       Image.Resampling.BICUBIC))  # (H, W) or (H, W, 3)
    if rng.random() < 0.07:
        neighbour(layers, rng)
    return layers


def neighbour(layers, rng):
    """Feet of a line above, or heads of a line below, in the free rows of the crop: the word's own, shifted aside."""
    rows = np.nonzero(layers.reshape(len(layers), -1).max(1) > 20)[0]
    if not len(rows):
        return
    above, below = rows[0], len(layers) - 1 - rows[-1]
    strip = int(max(above, below) * rng.uniform(0.3, 0.8))
    if strip < 2 or strip > len(rows) // 3:
        return
    shift = int(rng.integers(layers.shape[1]))
    if above > below:
        layers[:strip] = np.roll(layers[rows[-1] - strip + 1:rows[-1] + 1], shift, 1)
    else:
        layers[-strip:] = np.roll(layers[rows[0]:rows[0] + strip], shift, 1)
