"""The look of rendered words: lettering, backgrounds, colours, bends, perspective, light and camera."""
import io
import math
from functools import lru_cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

try:
    from utils.word_fonts import load_font
except ImportError:  # run as a script: this folder is on the path, not the project's
    from word_fonts import load_font

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
MAX_ASPECT = 14  # width over height of a crop
PHOTO_SIZE = 768  # pixels of the longer side that a background photo is reduced to

# Colours of signs as (background, text)
SIGNS = [((0, 96, 57), (250, 250, 250)), ((0, 76, 151), (250, 250, 250)), ((255, 205, 0), (15, 15, 15)),
         ((200, 16, 46), (252, 252, 252)), ((110, 62, 30), (250, 246, 235)), ((250, 250, 250), (12, 12, 12)),
         ((252, 252, 252), (200, 16, 46)), ((18, 18, 18), (250, 250, 250)), ((24, 30, 60), (235, 200, 110)),
         ((255, 110, 20), (10, 10, 10)), ((250, 244, 220), (70, 30, 20)), ((20, 20, 22), (255, 196, 30)),
         ((245, 245, 240), (0, 70, 140)), ((255, 225, 60), (200, 20, 30)), ((40, 60, 40), (240, 235, 210)),
         ((90, 20, 40), (245, 220, 180)), ((230, 230, 235), (60, 60, 70)), ((0, 130, 140), (255, 250, 240))]


def render(text, font, rng, height, photos=()):
    """One word image and what it shows.

    Args:
        text: the word, of characters that the font has.
        font: a `word_fonts.Font`.
        rng: numpy Generator, the only source of chance.
        height: least height of the crop in pixels; crops are up to 1.5 times as high.
        photos: paths of background photos.

    Returns:
        PIL image (RGB): a loose crop round the word.
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


def letter(text, font, rng, crop_height):
    """Layers of the flat word, ink 255: red the letters, green letters with outline, blue the shadow; or grey."""
    size = int(crop_height * rng.uniform(0.72, 0.92))
    face = load_font(font.path, font.index, size // 4 * 4)
    spacing = 0
    if rng.random() < 0.3:
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
    """The word on an arc or a wave, now and then."""
    kind = rng.random()
    width, height = layers.size
    if kind > 0.16 or width < 1.5 * height:
        return layers
    if kind < 0.12:
        angle = rng.uniform(0.3, 1.9) * rng.choice((-1, 1))  # angle of the whole word
        radius = width / abs(angle)
        inner = radius - height / 2
        if inner < 0.5 * height:
            radius = height
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
    """Turns, slants and tilts the word and cuts a loose box of `crop_height` round it; uint8 (H, W, 3)."""
    ink = np.asarray(layers.getchannel(min(1, len(layers.getbands()) - 1)))
    cols = np.nonzero(ink.max(0) > 60)[0]
    below = ink[:, cols] > 60
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
    return np.asarray(layers.transform((width, crop_height), Image.Transform.PERSPECTIVE, tuple(back),
                                       Image.Resampling.BICUBIC))  # (H, W) or (H, W, 3)


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
    ground, spread = sample.mean(0), float((sample @ LUMA).std())
    text = distinct(text, ground, 70 + spread, rng)
    if alpha.shape[3] > 1 and layers[..., 2].any():
        shade = ground * rng.uniform(0, 0.35)
        if rng.random() < 0.25:
            shade = distinct(rng.uniform(0, 255, 3), text, 60, rng)
        image += (shade - image) * (alpha[..., 2] * rng.uniform(0.5, 1))
    if alpha.shape[3] > 1 and not np.array_equal(layers[..., 0], layers[..., 1]):
        image += (distinct(rng.uniform(0, 255, 3), text, 90, rng) - image) * alpha[..., 1]
    image += (fill(text, height, width, rng, plain) - image) * alpha[..., 0]
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
    luma, from_luma = float(colour @ LUMA), float(np.asarray(other, np.float32) @ LUMA)
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
        photo = np.asarray(cut(load_photo(photos[rng.integers(len(photos))]), width, height, rng), np.float32)
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
    height, width = image.shape[:2]
    colour = vivid(rng).astype(np.float32)
    place = int(rng.uniform(0, 0.07) * height) + 1
    thick = max(1, int(rng.uniform(0.01, 0.06) * height)) if rng.random() < 0.6 else height
    side = rng.integers(4)
    first, last = (place, place + thick) if thick < height else (0, place)
    if side == 0:
        image[first:last] = colour
    elif side == 1:
        image[height - last:height - first] = colour
    elif side == 2:
        image[:, first:last] = colour
    else:
        image[:, width - last:width - first] = colour


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


@lru_cache(maxsize=400)
def load_photo(path):
    """A background photo as RGB, its longer side PHOTO_SIZE pixels."""
    try:
        with Image.open(path) as photo:
            photo.draft('RGB', (PHOTO_SIZE, PHOTO_SIZE))
            photo = photo.convert('RGB')
            photo.thumbnail((PHOTO_SIZE, PHOTO_SIZE), Image.Resampling.BILINEAR)
            return photo
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise OSError(f'background photo {path} cannot be read ({error}); remove it from --background_dir') from error


def cut(photo, width, height, rng):
    """A random part of the photo, brought to (width, height)."""
    zoom = min(rng.uniform(0.4, 2.5), photo.width / width, photo.height / height)
    left, top = rng.random() * (photo.width - width * zoom), rng.random() * (photo.height - height * zoom)
    left, top = max(left, 0), max(top, 0)
    return photo.resize((width, height), Image.Resampling.BILINEAR,
                        box=(left, top, min(left + width * zoom, photo.width), min(top + height * zoom, photo.height)))


def legible(image, layers, least=38):
    """True when the letters' luma differs from that of what is next to them by at least `least` of 255."""
    luma, ink = image[::2, ::2] @ LUMA, layers.reshape(*layers.shape[:2], -1)[::2, ::2, 0]
    letters, others = ink > 200, ink < 20
    if not letters.any() or not others.any():
        return True
    gap = abs(luma[letters].mean() - luma[others].mean())
    return gap > least and gap > 1.1 * (luma[letters].std() + luma[others].std()) * 0.8


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
