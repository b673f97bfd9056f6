"""Random changes to training images: shapes and colours for pairs, and cameras too for the recognizer."""
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter

from lib.imaging import jpeg_pil, resize

KERNELS = (Image.Resampling.BOX, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)


def augment(image, strength, random):
    """Another shape, other colours and a worse camera for one 8-bit RGB PIL image, drawn from a numpy generator.

    Returns a PIL image: of the same size, larger where it was turned; where low resolution was drawn, four times that.
    Each kind is applied with probability strength / 2, low resolution with 0.6 strength, JPEG with 0.4, a turn with 0.3
    and noise with 0.25 [our choice]. On 8-bit pictures of a word's own size all this takes half a millisecond.
    """
    def applies(share=0.5):
        return random.random() < share * strength

    if applies(0.3):
        image = turn(image, random)
    if applies():
        image = bend(image, random)
    if applies():
        image = recolour(image, random)
    if applies(0.6):
        return low_resolution(image, random)
    if applies():
        image = image.filter(ImageFilter.GaussianBlur(image.height / 32 * random.uniform(0.1, 1.0)))
    if applies(0.25):
        image = add_noise(image, random.uniform(2, 14), random)
    return jpeg_pil(image, random.integers(30, 91)) if applies(0.4) else image


def border_colour(image):
    """The mean colour of the outermost pixels of an RGB PIL image, as a tuple of 8-bit values."""
    pixels = np.asarray(image)
    border = np.concatenate([pixels[[0, -1]].reshape(-1, 3), pixels[:, [0, -1]].reshape(-1, 3)])
    return tuple(int(value) for value in border.mean(0))


def turn(image, random):
    """The whole picture turned by an angle of standard deviation 12 degrees, on ground of the colour of its border."""
    return image.rotate(random.normal(0, 12), Image.Resampling.BILINEAR, expand=True, fillcolor=border_colour(image))


def bend(image, random):
    """A perspective or loose crop, and in half of the draws a text line that is bent as a parabola.

    Corners move by up to 4 % of the width and 12 % of the height; the line bends by up to half its height. Pixels
    from outside the picture have the mean colour of its border.
    """
    width, height = image.size
    corners = np.array([[[0, 0], [1, 0]], [[0, 1], [1, 1]]]) + random.uniform(-1, 1, (2, 2, 2)) * [0.04, 0.12]
    curve = random.uniform(-0.5, 0.5) if random.random() < 0.5 else 0.0
    edges = np.unique(np.linspace(0, width, 9).round().astype(int))  # of eight strips
    x = edges / width
    sides = []
    for y in (0, 1):
        side = corners[y, 0] * (1 - x[:, None]) + corners[y, 1] * x[:, None]  # (9, 2), (x, y)
        side[:, 1] += y * abs(curve) + curve * (1 - (2 * x - 1) ** 2) - max(curve, 0)  # the whole line stays inside
        sides.append(side * [width, height])
    mesh = [((int(edges[i]), 0, int(edges[i + 1]), height),
             (*sides[0][i], *sides[1][i], *sides[1][i + 1], *sides[0][i + 1])) for i in range(len(edges) - 1)]
    return image.transform(image.size, Image.Transform.MESH, mesh, Image.Resampling.BILINEAR,
                           fillcolor=border_colour(image))


def recolour(image, random):
    """Contrast 0.3 to 1.2, gamma, brightness, gains of the colours; one in five is inverted, one in five grey."""
    if random.random() < 0.2:
        image = image.convert('L').convert('RGB')
    values = np.linspace(0, 1, 256)[None] ** np.exp(random.uniform(-0.5, 0.5))
    if random.random() < 0.2:
        values = 1 - values
    contrast = random.uniform(0.3, 1.2)
    room = max(0.0, 1 - contrast) / 2 + 0.05  # keep a contrast between the darkest and the brightest
    values = (values - 0.5) * contrast + 0.5 + random.uniform(-room, room)
    values = values * random.uniform(0.85, 1.1, (3, 1))
    return image.point((values.clip(0, 1) * 255).round().astype(int).flatten().tolist())


def low_resolution(image, random):
    """A poor camera: blur of 0 to 2.5 pixels per 32 of the height, a height of 8 to 32 pixels, noise, JPEG.

    Sideways the blur differs by up to 1.5 times. Half of the pictures take four times as many pixels across as down,
    whatever their shape, as the tests reduce them. The result is enlarged four times.
    """
    blur = image.height / 32 * random.uniform(0, 2.5) * random.uniform(0.3, 1)
    if blur > 0.2:
        stretch = np.exp(random.uniform(-0.4, 0.4))
        image = image.filter(ImageFilter.GaussianBlur((blur * stretch, blur / stretch)))
    height = min(image.height, round(8 * 4 ** random.random()))
    width = 4 * height if random.random() < 0.5 else round(image.width * height / image.height)
    width = max(8, min(width, 8 * height))
    image = image.resize((width, height), KERNELS[random.integers(4)])
    if random.random() < 0.4:
        image = add_noise(image, random.uniform(1, 10), random)
    if random.random() < 0.3:
        image = jpeg_pil(image, random.integers(40, 96))
    return image.resize((4 * width, 4 * height), KERNELS[1 + random.integers(2)])


def add_noise(image, deviation, random):
    """Gaussian noise of this standard deviation, in 8-bit steps; in half of the draws the same in all colours."""
    values = np.asarray(image, dtype=np.float32)
    noise = random.standard_normal(values.shape if random.random() < 0.5 else (*values.shape[:2], 1), np.float32)
    return Image.fromarray((values + deviation * noise).clip(0, 255).astype(np.uint8))


def vary(image, size, strength=1.0, generator=None):
    """One image (1, 3, H, W) in [0, 1], resized to size = (height, width), in another shape and in other colours.

    The sharpness stays. Each kind is applied with probability strength / 2, inversion with half of it [our choice]:
    a shear and stretch of up to a tenth, a shift of up to 0.02 of the width and 0.05 of the height, contrast 0.5 to 1.2
    about the mean and a shift of brightness of up to 0.2, inversion, colour channels in another order.
    """
    def draw():
        return float(torch.rand((), generator=generator))

    def applies():
        return draw() < strength / 2

    if applies():
        height, width = 2 * size[0], 2 * size[1]  # sampled at twice the size, so that it is not blurred
        limits = torch.tensor([[0.08, 0.1, 0.04], [0.08 * height / width, 0.1, 0.1]])  # in units of half the size
        theta = torch.eye(2, 3) + (2 * torch.rand(2, 3, generator=generator) - 1) * limits
        grid = F.affine_grid(theta[None], [1, 3, height, width], align_corners=False)
        image = F.grid_sample(resize(image, (height, width)), grid, 'bicubic', 'border', align_corners=False)
    image = resize(image, size)
    if applies():
        mean = image.mean()
        image = (image - mean) * (0.5 + 0.7 * draw()) + mean + 0.4 * draw() - 0.2
    if draw() < strength / 4:
        image = 1 - image
    if applies():
        image = image[:, torch.randperm(3, generator=generator)]
    return image.clamp(0, 1)
