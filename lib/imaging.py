"""Reading, writing, resizing and degrading images: every script takes its pixels from here.

Inside the project an image is float32 RGB, (N, 3, H, W) or (3, H, W), in [0, 1]; PIL images and uint8 arrays are what
files are read into and written from, and what the recognizer's training data stay until they reach the device.
"""
import contextlib
import io
import warnings

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError

from lib.formats import READABLE

RECOGNIZER_SIZE = (64, 256)  # height, width of ASTER's input
VISIBLE = 8  # alpha of what counts as seen
BITS_PER_SAMPLE, PHOTOMETRIC, MAX_SAMPLE_VALUE = 258, 262, 281  # tags of TIFF


def to_rgb(image, keep_alpha=False):
    """Any PIL image as 8-bit RGB: EXIF rotation applied, alpha laid on white or black, see `ground_of`, 16 bits scaled
    to 8, CMYK converted.

    keep_alpha: one that is transparent somewhere becomes RGBA, see `spread_colors`. An image of mode I that is not as
    a file had it is taken for 8 bits where it has no value above 255: `convert('I')` keeps those of L.
    """
    tags = getattr(image, 'tag_v2', {})  # of a TIFF file
    is_converted = image.mode == 'I' and image.format is None
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith('I') or image.mode == 'F':
        values = np.asarray(image, dtype=np.float64)
        full = float_white(values) if image.mode == 'F' else integer_white(tags, values.max())
        if is_converted and values.max() <= 255:
            full = 255
        if image.mode != 'F' and tags.get(PHOTOMETRIC) == 0:  # zero is white, which Pillow minds for 8 bits only
            values = full - values
        return Image.fromarray((values / full * 255).clip(0, 255).round().astype(np.uint8)).convert('RGB')
    if image.mode in ('RGBA', 'LA', 'PA', 'RGBa', 'La') or 'transparency' in image.info:
        image = (image.convert('LA') if image.mode == 'La' else image).convert('RGBA')
        if keep_alpha and image.getextrema()[3][0] < 255:
            return spread_colors(image)
        return lay_on(ground_of(image), image)
    return image.convert('RGB')


def ground_of(image):
    """'white', or 'black' where it shows more of an RGBA image and nothing dark (below 1 %) is seen of it on white."""
    visible = np.asarray(image.getchannel('A')) >= VISIBLE
    on_white, on_black = (np.asarray(lay_on(ground, image).convert('L'))[visible] for ground in ('white', 'black'))
    is_light = on_black.sum() > (255 - on_white).sum() and (on_white < 128).sum() < 0.01 * on_white.size
    return 'black' if is_light else 'white'


def lay_on(ground, image):
    """An RGBA image on a ground of one colour, RGB, with its colour profile."""
    flat = Image.alpha_composite(Image.new('RGBA', image.size, ground), image).convert('RGB')
    flat.info = image.info
    return flat


def integer_white(tags, high):
    """The value that is white in a grey image of more than 8 bits: what its file declares, whatever it holds.

    Pillow gives 16-bit values of all formats but TIFF, whose tags may say that white is less: 12-bit values in 16 bits
    are taken for 12 bits where MaxSampleValue or BitsPerSample say so, and else are dark. 32 bits are more than any
    camera has: they are taken for 8 or 16 bits where `high`, the brightest value, is within these.
    """
    if MAX_SAMPLE_VALUE in tags:
        return float(np.max(tags[MAX_SAMPLE_VALUE]))
    bits = np.max(tags.get(BITS_PER_SAMPLE, 16))
    return next((white for white in (255.0, 65535.0) if bits == 32 and high <= white), 2.0 ** bits - 1)


def float_white(values):
    """The value that is white in an image of floats: 1, 255 or 65535; ValueError where its range tells none of these.

    Resampling overshoots: up to half of the range more, at both ends, still belongs to it.
    """
    low, high = float(values.min()), float(values.max())
    for white in (1.0, 255.0, 65535.0):
        if (white == 1 or high > white / 20) and high <= 1.5 * white and low >= -0.5 * white:
            return white
    raise ValueError(f'its values, from {low:g} to {high:g}, are not in 0 to 1, 0 to 255 or 0 to 65535')


def spread_colors(image):
    """An RGBA image whose transparent pixels have the colour of the nearest that is not: what files hold there is
    arbitrary, and would show at the edges after resizing."""
    from scipy.ndimage import distance_transform_edt  # slow to import, and few images are transparent
    pixels = np.array(image)
    clear = pixels[..., 3] < VISIBLE
    if clear.any() and not clear.all():
        rows, columns = distance_transform_edt(clear, return_distances=False, return_indices=True)
        pixels[..., :3] = pixels[rows, columns, :3]
    spread = Image.fromarray(pixels)
    spread.info = image.info  # its colour profile
    return spread


def read_image(source, keep_alpha=False):
    """The image in a file, a path or encoded bytes as 8-bit PIL, see `to_rgb`; ValueError where it cannot be decoded
    or is of none of the formats READABLE.

    More pixels than Image.MAX_IMAGE_PIXELS (89 million) count as an error: decoded, they may not fit in memory.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('error', Image.DecompressionBombWarning)
            content = io.BytesIO(source) if isinstance(source, bytes) else source
            with Image.open(content, formats=READABLE) as image:
                return to_rgb(image, keep_alpha)
    except UnidentifiedImageError as error:
        raise ValueError('unreadable image: of no known format') from error
    except Exception as error:  # Pillow raises many kinds of exceptions for damaged files
        raise ValueError(f'unreadable image: {error}') from error


def count_frames(path):
    """The frames or pages of a GIF, PNG, TIFF or WebP file, only the first of which is ever read; else 1, and where the
    others are damaged."""
    with contextlib.suppress(Exception), Image.open(path, formats=READABLE) as image:
        return getattr(image, 'n_frames', 1) if image.format in ('GIF', 'PNG', 'TIFF', 'WEBP') else 1
    return 1


def to_tensor(image):
    """8-bit RGB PIL image -> float32 (3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1).float().div_(255)  # HWC -> CHW


def to_uint8(image):
    """Float (3, H, W), clamped to [0, 1] -> uint8 (H, W, 3) numpy array: the one way out to files and pictures."""
    return image.detach().float().clamp(0, 1).mul_(255).round_().byte().permute(1, 2, 0).cpu().numpy()  # CHW -> HWC


def to_pil(image):
    """Float (3, H, W) in [0, 1] -> 8-bit RGB PIL image."""
    return Image.fromarray(to_uint8(image))


def quantize(images):
    """Clamp to [0, 1] and round to 8-bit values, as saving does."""
    return images.clamp(0, 1).mul(255).round().div(255)


def resize(images, size):
    """Bicubic with antialiasing, as Pillow's, to size = (height, width); (N, 3, H, W) in [0, 1] in and out."""
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    return F.interpolate(images, size, mode='bicubic', antialias=True).clamp(0, 1)


def recognizer_input(images):
    """Images (N, 3, H, W) of any size in [0, 1], clamped to it -> ASTER's input (N, 3, 64, 256) in [-1, 1].

    Bilinear with antialiasing, what Pillow's bilinear resize is. Gradients pass through.
    """
    images = images.clamp(0, 1)
    if tuple(images.shape[-2:]) != RECOGNIZER_SIZE:
        images = resize_bilinear(images, RECOGNIZER_SIZE, antialias=True)
    return images * 2 - 1


def resize_bilinear(images, size, antialias=False, align_corners=False):
    """Bilinear F.interpolate of (N, C, H, W) to size = (height, width).

    CUDA sums up the gradient of that in no fixed order; under `torch.use_deterministic_algorithms` it is computed as a
    matrix product along each side, whose gradient is deterministic.
    """
    def interpolate(x, size):
        return F.interpolate(x, size, mode='bilinear', antialias=antialias, align_corners=align_corners)

    if not (images.requires_grad and torch.are_deterministic_algorithms_enabled()):
        return interpolate(images, size)
    down, along = (interpolate(torch.eye(length, device=images.device)[None, None], (length, target))[0, 0]
                   for length, target in zip(images.shape[-2:], size))  # (length, target): weights of the pixels
    with torch.autocast(images.device.type, enabled=False):
        return down.T @ images.float() @ along


def sample_bilinear(images, grid, align_corners=False):
    """F.grid_sample of images (N, C, H, W), bilinear, borders repeated: grid (N, h, w, 2) -> (N, C, h, w).

    CUDA sums up the gradient of that in no fixed order; under `torch.use_deterministic_algorithms` the four neighbours
    of each point are gathered instead, whose gradient has a deterministic implementation.
    """
    grid = grid.nan_to_num()  # on a CPU the gradient at a point that is NaN ends the process
    if not ((images.requires_grad or grid.requires_grad) and torch.are_deterministic_algorithms_enabled()):
        return F.grid_sample(images, grid, padding_mode='border', align_corners=align_corners)
    floors, ceilings, weights = [], [], []
    for places, length in zip(grid.unbind(3), images.shape[:1:-1]):  # x along the width, y along the height
        places = (places + 1) / 2 * (length - 1) if align_corners else ((places + 1) * length - 1) / 2
        places = places.clamp(0, length - 1).unsqueeze(1)  # (N, 1, h, w)
        floors.append(places.detach().floor().long())
        ceilings.append((floors[-1] + 1).clamp(max=length - 1))
        weights.append(places - floors[-1])

    def gather(x, y):
        index = (y * images.shape[3] + x).flatten(2).expand(-1, images.shape[1], -1)
        return images.flatten(2).gather(2, index).unflatten(2, grid.shape[1:3])

    (left, top), (right, bottom), (along, down) = floors, ceilings, weights
    upper = gather(left, top).lerp(gather(right, top), along)
    return upper.lerp(gather(left, bottom).lerp(gather(right, bottom), along), down)


def jpeg(images, quality):
    """Images (N, 3, H, W) in [0, 1] after JPEG compression at `quality` (1 to 95)."""
    return torch.stack([to_tensor(jpeg_pil(to_pil(image), quality)) for image in images]).to(images.device)


def jpeg_pil(image, quality):
    """An RGB PIL image after JPEG compression at `quality`."""
    buffer = io.BytesIO()
    image.save(buffer, 'JPEG', quality=int(quality))
    return Image.open(buffer).convert('RGB')
