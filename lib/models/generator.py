"""SRGAN's generator, SRResNet (Ledig et al., CVPR 2017, section 2.1.1 and figure 4)."""
import math

import torch
import torch.nn.functional as F
from torch import nn

from lib.models.conv_bn import folded


def conv_of_shuffled(conv, x):
    """`conv`, of a large kernel and few output maps, after a pixel shuffle: x (N, 4 C, H, W) -> (N, maps, 2 H, 2 W).

    On CPUs, whose units want many output maps, the pixels stay maps: one convolution of x gives the four pixels of each
    place, which are shuffled at last. Forward and backward this takes three quarters of the time in float32.
    """
    if x.device.type != 'cpu':
        return conv(F.pixel_shuffle(x, 2))
    maps, channels, size, _ = conv.weight.shape
    reach = (size // 2 + 1) // 2  # places to each side
    width = 2 * (2 * reach + 1)  # of the kernel that holds `conv`'s for each of the four pixels
    left = 2 * reach - size // 2 + 1
    weight = F.pad(conv.weight, (left, width + 1 - left - size) * 2).unfold(2, width, 1).unfold(3, width, 1).flip(2, 3)
    weight = weight.reshape(maps, channels, 2, 2, width // 2, 2, width // 2, 2).permute(0, 2, 3, 1, 5, 7, 4, 6)
    weight = weight.reshape(4 * maps, 4 * channels, width // 2, width // 2)
    # Each value four times; repeat_interleave as a bias does not compile with torch 2.7.
    bias = conv.bias.index_select(0, torch.arange(4 * maps, device=x.device) // 4)
    return F.pixel_shuffle(F.conv2d(x, weight, bias, padding=reach), 2)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a PReLU, added to the input; with batch norm as in SRResNet, without as in EDSR."""

    def __init__(self, maps, batch_norm):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(maps, maps, 3, padding=1), norm(maps, batch_norm), nn.PReLU(),
            nn.Conv2d(maps, maps, 3, padding=1), norm(maps, batch_norm),
        )

    def forward(self, features):
        return self.body(features).add_(features)  # in place: nothing else needs the body's output


def norm(maps, batch_norm):
    return nn.BatchNorm2d(maps) if batch_norm else nn.Identity()


class Generator(nn.Module):
    """Enlarges `scale` (2 or 4) times: (N, 3, h, w) in [0, 1] -> (N, 3, scale h, scale w), not clamped. Any h and w.

    The layers are those of SRGAN. Three things are ours: they predict a residual over bicubic interpolation; training
    keeps the phases of each pixel shuffle level, see `level_phases`; and batch norm is left out (Lim et al., EDSR,
    CVPRW 2017), as its statistics depend on the sizes and the blur of the training images. batch_norm: put it in.
    """

    def __init__(self, scale=4, blocks=16, maps=64, batch_norm=False):
        super().__init__()
        if scale not in (2, 4):
            raise ValueError(f'scale {scale}: this generator enlarges 2 or 4 times')
        self.scale, self.blocks, self.maps = scale, blocks, maps
        self.head = nn.Sequential(nn.Conv2d(3, maps, 9, padding=4), nn.PReLU())
        self.body = nn.Sequential(
            *(ResidualBlock(maps, batch_norm) for _ in range(blocks)),
            nn.Conv2d(maps, maps, 3, padding=1), norm(maps, batch_norm),
        )
        self.upsample = nn.Sequential(*(
            nn.Sequential(nn.Conv2d(maps, 4 * maps, 3, padding=1), nn.PixelShuffle(2), nn.PReLU())
            for _ in range(int(math.log2(scale)))
        ))
        self.tail = nn.Conv2d(maps, 3, 9, padding=4)
        self.tail.weight.data.mul_(0.1)  # a new one starts near bicubic interpolation
        self.level_phases()

    @torch.no_grad()
    def level_phases(self):
        """Take from the weights what draws a checkerboard on plain ground; training calls it after each step.

        A pixel shuffle interleaves the outputs of four convolutions. Where their answers to a flat picture differ, it
        gets a checkerboard. So each one's bias and the sum of its weights are set to the mean of the four, with the
        smallest change of the weights that does it.
        """
        for conv, *_ in self.upsample:
            weight, bias = conv.weight.unflatten(0, (-1, 4)), conv.bias.unflatten(0, (-1, 4))
            weight += (weight.mean(1, keepdim=True) - weight).mean((3, 4), keepdim=True)
            bias.copy_(bias.mean(1, keepdim=True).expand_as(bias))

    def forward(self, images_lr):
        return self.base(images_lr) + self.detail(images_lr)

    def base(self, images_lr):
        """Bicubic interpolation: (N, 3, h, w) -> (N, 3, scale h, scale w)."""
        size = [side * self.scale for side in images_lr.shape[-2:]]
        # with antialias the kernel is Pillow's; without it torch takes another one
        return F.interpolate(images_lr, size, mode='bicubic', antialias=True)

    def detail(self, images_lr):
        """The residual that the layers predict: (N, 3, h, w) -> (N, 3, scale h, scale w)."""
        return self.enlarge(self.features(images_lr))

    def features(self, images_lr):
        """The maps of the layers before the upsampling: (N, 3, h, w) -> (N, maps, h, w)."""
        features = self.head(images_lr)
        return self.body(features).add_(features)

    def enlarge(self, features):
        """The residual from these maps, by upsampling and last convolution: (N, maps, h, w) -> as `detail`."""
        conv, _, activation = self.upsample[-1]
        features = activation(conv(self.upsample[:-1](features)))  # which gives the same before the shuffle as behind
        return conv_of_shuffled(self.tail, features)


def generator_from_state_dict(state_dict):
    """Build the generator a state dict belongs to (scale, blocks, maps and layers follow from it), load it strictly.

    Half precision becomes float32. ValueError, in one line, where it does not fit.
    """
    try:
        stages = {name.split('.')[1] for name in state_dict if name.startswith('upsample.')}
        blocks = {name.split('.')[1] for name in state_dict if name.startswith('body.') and '.body.' in name}
        model = Generator(2 ** len(stages), len(blocks), state_dict['tail.weight'].shape[1],
                          batch_norm=any(name.endswith('running_var') for name in state_dict))
        model.load_state_dict(state_dict)
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        misfit = ' '.join(str(error).split()).rpartition('Generator: ')[2][:200]  # after torch's own heading
        raise ValueError(f'not the state dict of a generator: {misfit}') from error
    return model


def adapt(generator, scale):
    """A generator with the weights of `generator`, to train on.

    Batch norm is folded into the convolution before it, which changes nothing in eval mode. For another `scale` an
    upsampling stage is dropped or repeated.
    """
    tensors = generator.state_dict()
    for name, module in generator.named_modules():
        if isinstance(module, nn.Sequential):
            for index, (layer, follower) in enumerate(zip(module, module[1:])):
                if isinstance(follower, nn.BatchNorm2d):
                    tensors[f'{name}.{index}.weight'], tensors[f'{name}.{index}.bias'] = folded(layer, follower)
    adapted = Generator(scale, generator.blocks, generator.maps)
    for stage in range(len(adapted.upsample)):
        for name in ('0.weight', '0.bias', '2.weight'):
            tensors.setdefault(f'upsample.{stage}.{name}', tensors[f'upsample.0.{name}'])
    adapted.load_state_dict({name: tensors[name] for name in adapted.state_dict()})
    return adapted
