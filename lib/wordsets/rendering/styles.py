"""The look of rendered words: colours, backgrounds, light and camera."""
import io
import math
import os

import numpy as np
from PIL import Image, ImageFilter

from lib.formats import READABLE
from lib.wordsets.rendering.shapes import bend, letter, project

PHOTO_SIZE = 640  # pixels of the longer side that a background photo is reduced to

# Colours of signs as (background, text)
SIGNS = [((0, 96, 57), (250, 250, 250)), ((0, 76, 151), (250, 250, 250)), ((255, 205, 0), (15, 15, 15)),
         ((200, 16, 46), (252, 252, 252)), ((110, 62, 30), (250, 246, 235)), ((250, 250, 250), (12, 12, 12)),
         ((252, 252, 252), (200, 16, 46)), ((18, 18, 18), (250, 250, 250)), ((24, 30, 60), (235, 200, 110)),
         ((255, 110, 20), (10, 10, 10)), ((250, 244, 220), (70, 30, 20)), ((20, 20, 22), (255, 196, 30)),
         ((245, 245, 240), (0, 70, 140)), ((255, 225, 60), (200, 20, 30)), ((40, 60, 40), (240, 235, 210)),
         ((90, 20, 40), (245, 220, 180)), ((230, 230, 235), (60, 60, 70)), ((0, 130, 140), (255, 250, 240))]


def render(text, font, rng, height, photos=()):
    """One word as in a photo.

    Args:
        text: the word, of characters that the font has.
        font: a `fonts.Font`.
        rng: numpy Generator, the only source of randomness.
        height: least height of the crop in pixels; crops are up to 1.5 times as high.
        photos: background photos as RGB images, from `load_photo`.

    Returns:
        PIL image (RGB): a loose crop around the word.
    """
    crop_height = int(height * rng.uniform(1, 1.5))
    layers = bend(letter(text, font, rng, crop_height), rng)
    layers = project(layers, rng, crop_height)
    for _ in range(4):
        image = paint(layers, rng, photos)
        if legible(image, layers):
            return Image.fromarray(finish(image, rng))
    return Image.fromarray(finish(paint(layers, rng, (), plain=True), rng))


def encode(image, rng):
    """JPEG bytes, quality 88 to 96, colour at full resolution."""
    data = io.BytesIO()
    image.save(data, 'JPEG', quality=int(rng.integers(88, 97)), subsampling=0)
    return data.getvalue()


def paint(layers, rng, photos, plain=False):
    """Puts the layers in colours on a background: float32 (H, W, 3) in 0..255."""
    height, width = layers.shape[:2]
    back, text = colours(rng)
    alpha = layers.astype(np.float32).reshape(height, width, 1, -1) / 255
    image = np.empty((height, width, 3), np.float32)
    image[:] = back
    if not plain:
        image = background(image, rng, photos)
    sample = image[::3, ::3].reshape(-1, 3)
    ground, spread = sample.mean(0), float(luma_of(sample).std())
    text = distinct(text, ground, 70 + spread, rng)
    if alpha.shape[3] > 1 and layers[..., 2].any():
        shade = ground * rng.uniform(0, 0.35)
        if rng.random() < 0.25:
            shade = distinct(rng.uniform(0, 255, 3), text, 60, rng)
        image += (shade - image) * (alpha[..., 2] * rng.uniform(0.5, 1))
    if alpha.shape[3] > 1 and not np.array_equal(layers[..., 0], layers[..., 1]):
        image += (distinct(rng.uniform(0, 255, 3), text, 90, rng) - image) * alpha[..., 1]
    cover = alpha[..., 0]
    if not plain and rng.random() < 0.05:  # worn paint
        cover = cover * (1.1 - 0.5 * np.abs(mottle(height, width, rng))).clip(0.15, 1)[..., None]
    image += (fill(text, height, width, rng, plain) - image) * cover
    if not plain and photos and rng.random() < 0.1:  # grain and shadows on letters and ground alike
        grain = np.asarray(cut(photos[rng.integers(len(photos))], width, height, rng).convert('L'), np.float32)
        image *= 1 + (grain - grain.mean())[..., None] * (rng.uniform(0.2, 0.7) / 128)
    return image


def colours(rng):
    """Background and text colour: those of a sign, of print, or any."""
    kind = rng.random()
    if kind < 0.35:
        back, text = (np.array(c, np.float32) for c in SIGNS[rng.integers(len(SIGNS))])
        back, text = back + rng.normal(0, 10, 3), text + rng.normal(0, 8, 3)
    elif kind < 0.5:
        back, text = np.full(3, rng.uniform(190, 255)) + rng.normal(0, 6, 3), np.full(3, rng.uniform(0, 70))
    else:
        back, text = vivid(rng), vivid(rng)
    if kind > 0.35 and rng.random() < 0.3:
        back, text = text, back
    return back.clip(0, 255).astype(np.float32), text.clip(0, 255).astype(np.float32)


def vivid(rng):
    """A colour of any hue; greys and muted tones are as frequent as strong ones."""
    hue = np.abs((rng.random() * 6 + np.array([0, 4, 2])) % 6 - 3) - 1
    saturation, value = rng.random() ** 1.3, rng.uniform(0.1, 1)
    return 255 * value * (1 - saturation * (1 - hue.clip(0, 1)))


def distinct(colour, other, contrast, rng):
    """The colour, lighter or darker until its luma differs from the other's by `contrast` (as far as 0..255 allows)."""
    colour = np.asarray(colour, np.float32)
    luma, from_luma = float(luma_of(colour)), float(luma_of(np.asarray(other, np.float32)))
    if abs(luma - from_luma) >= contrast:
        return colour
    up = from_luma < 128 if rng.random() < 0.85 or not 80 < from_luma < 175 else luma > from_luma
    target = from_luma + contrast * rng.uniform(1, 1.6) * (1 if up else -1)
    target = min(max(target, 4), 252)
    if target > luma:
        return colour + (255 - colour) * ((target - luma) / (255 - luma + 1e-3))
    return colour * (target / (luma + 1e-3))


def background(image, rng, photos):
    """Plain, gradient, mottled, striped or photo background of about the colour that `image` is filled with."""
    height, width = image.shape[:2]
    if photos and rng.random() < 0.4:
        photo = np.asarray(cut(photos[rng.integers(len(photos))], width, height, rng), np.float32)
        keep = rng.uniform(0.15, 1)
        middle = photo[::3, ::3].reshape(-1, 3).mean(0)
        ground = image if rng.random() < 0.5 else middle  # a colour with the photo's texture, or the photo
        return (ground + (photo - middle) * keep).clip(0, 255)
    kind = rng.random()
    if kind < 0.3:
        image += ramp(height, width, rng)[..., None] * rng.normal(0, 45, 3).astype(np.float32)
    elif kind < 0.55:
        image += mottle(height, width, rng)[..., None] * (rng.normal(0, 14) + rng.normal(0, 5, 3)).astype(np.float32)
    elif kind < 0.62:
        wave = np.sin(ramp(height, width, rng) * rng.uniform(8, 60))
        image += wave[..., None] * rng.normal(0, 14, 3).astype(np.float32)
    if rng.random() < 0.15:
        edge(image, rng)
    return image.clip(0, 255)


def edge(image, rng):
    """The border of a panel, or a ruled line, near one side of the crop."""
    height = len(image)
    colour = vivid(rng).astype(np.float32)
    place = int(rng.uniform(0, 0.07) * height) + 1
    first, last = 0, place  # of the border
    if rng.random() < 0.6:
        first, last = place, place + max(1, int(rng.uniform(0.01, 0.06) * height))  # of the line
    side = rng.integers(4)
    lines = image if side < 2 else image.swapaxes(0, 1)  # rows, or columns
    (lines[::-1] if side % 2 else lines)[first:last] = colour


def fill(text, height, width, rng, plain):
    """Colour of the letters: one, or from one to another."""
    if plain or rng.random() < 0.72:
        return text
    slope = ramp(height, width, rng)[..., None]
    if rng.random() < 0.5:
        slope = slope + mottle(height, width, rng)[..., None] * 0.4
    return (text + slope * rng.normal(0, 35, 3).astype(np.float32)).clip(0, 255)


def ramp(height, width, rng):
    """-1..1 across the picture in any direction: float32 (H, W)."""
    angle = rng.uniform(0, 2 * math.pi)
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)
    return (math.cos(angle) * x + math.sin(angle) * y) / (abs(math.cos(angle)) + abs(math.sin(angle)))


def mottle(height, width, rng):
    """Smooth random spots of about unit variance, of one of several sizes: float32 (H, W)."""
    cell = rng.choice((2, 4, 10, 30))
    rows, cols = height // cell + 2, width // cell + 2
    spots = Image.fromarray(rng.standard_normal((rows, cols), dtype=np.float32))
    return np.asarray(spots.resize((width, height), Image.Resampling.BICUBIC))


def load_photo(path):
    """A background photo as RGB, its longer side PHOTO_SIZE pixels; None when it is unreadable or an icon."""
    if not os.path.isfile(path):  # a pipe would be waited for
        return None
    try:
        with Image.open(path, formats=READABLE) as photo:
            if min(photo.size) < 200:
                return None
            photo.draft('RGB', (PHOTO_SIZE, PHOTO_SIZE))
            photo = photo.convert('RGB')
            photo.thumbnail((PHOTO_SIZE, PHOTO_SIZE), Image.Resampling.BILINEAR)
            return photo
    except Exception:  # Pillow raises many kinds of exceptions for damaged files
        return None


def cut(photo, width, height, rng):
    """A random part of the photo, brought to (width, height)."""
    zoom = min(rng.uniform(0.4, 2.5), photo.width / width, photo.height / height)
    left, top = rng.random() * (photo.width - width * zoom), rng.random() * (photo.height - height * zoom)
    left, top = max(left, 0), max(top, 0)
    return photo.resize((width, height), Image.Resampling.BILINEAR,
                        box=(left, top, min(left + width * zoom, photo.width), min(top + height * zoom, photo.height)))


def luma_of(image):
    """Brightness of RGB in the last axis; not a matrix product, whose threads would compete with the other workers."""
    return 0.299 * image[..., 0] + 0.587 * image[..., 1] + 0.114 * image[..., 2]


def legible(image, layers):
    """True when the luma of letters and ground differs by more than 40 of 255, and by more than their spread.

    Letters are the pixels with most ink, so hairlines that never cover a pixel need the stronger colours.
    """
    luma, ink = luma_of(image[::2, ::2]), layers.reshape(*layers.shape[:2], -1)[::2, ::2, 0]
    letters, others = ink > 0.6 * ink.max(), ink < 20
    if not letters.any() or not others.any():
        return True
    gap = abs(luma[letters].mean() - luma[others].mean())
    return gap > 40 and gap > 0.95 * (luma[letters].std() + luma[others].std())


def finish(image, rng):
    """Light and camera: shading, glare, blur, noise, tone; uint8 (H, W, 3)."""
    height, width = image.shape[:2]
    if rng.random() < 0.3:
        image = image * (1 + ramp(height, width, rng)[..., None] * rng.uniform(0.05, 0.35))
    if rng.random() < 0.06:
        x, y, reach = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.3, 1) * height
        far = np.hypot(np.arange(width, dtype=np.float32) - x, np.arange(height, dtype=np.float32)[:, None] - y)
        image = image + (np.exp(-(far / reach) ** 2) * rng.uniform(20, 80))[..., None]
    if rng.random() < 0.5:
        image = (image - 128) * rng.uniform(0.65, 1.1) + 128 + rng.uniform(-25, 25)
    kind = rng.random()
    if kind < 0.3:
        picture = Image.fromarray(image.clip(0, 255).astype(np.uint8))
        if kind < 0.24:
            picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.2) * height / 80))
        else:
            smaller = rng.uniform(0.45, 0.9)
            picture = picture.resize((max(1, int(width * smaller)), max(1, int(height * smaller))),
                                     Image.Resampling.BILINEAR).resize((width, height), Image.Resampling.BICUBIC)
        image = np.asarray(picture, np.float32)
    if rng.random() < 0.35:
        image = image + rng.standard_normal(image.shape, dtype=np.float32) * rng.uniform(1, 8)
    return image.clip(0, 255).astype(np.uint8)
