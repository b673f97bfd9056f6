"""SRGAN's generator, SRResNet (Ledig et al., CVPR 2017, section 2.1.1 and figure 4)."""
import math

import torch
import torch.nn.functional as F
from torch import nn


def conv_by_rows(conv, x):
    """What `conv` makes of x (N, C, H, W): each row of its kernel convolves along the rows of x, and the results, each
    shifted by its row, are summed.

    On CPUs a large kernel with few output maps is two to three times as fast this way, forward and backward.
    """
    size = conv.kernel_size[0]
    weight = conv.weight.flip(2).permute(0, 2, 1, 3).flatten(0, 1).unsqueeze(2)  # (maps * size, C, 1, size)
    rows = F.conv2d(x, weight, padding=(0, size // 2)).flatten(2)
    return F.fold(rows, x.shape[2:], (size, 1), padding=(size // 2, 0)) + conv.bias.view(-1, 1, 1)


class ResidualBlock(nn.Module):
    def __init__(self, maps):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(maps, maps, 3, padding=1), nn.BatchNorm2d(maps), nn.PReLU(),
            nn.Conv2d(maps, maps, 3, padding=1), nn.BatchNorm2d(maps),
        )

    def forward(self, features):
        return features + self.body(features)


class Generator(nn.Module):
    """Enlarges `scale` (2 or 4) times: (N, 3, h, w) in [0, 1] -> (N, 3, scale h, scale w), not clamped. Any h and w.

    The layers are those of SRGAN. One thing is added [our choice]: they give what bicubic interpolation lacks, so that
    a generator is as good as that from its first steps on.
    """

    def __init__(self, scale=4, blocks=16, maps=64):
        super().__init__()
        if scale not in (2, 4):
            raise ValueError(f'scale {scale}: this generator enlarges 2 or 4 times')
        self.scale, self.blocks, self.maps = scale, blocks, maps
        self.head = nn.Sequential(nn.Conv2d(3, maps, 9, padding=4), nn.PReLU())
        self.body = nn.Sequential(
            *(ResidualBlock(maps) for _ in range(blocks)),
            nn.Conv2d(maps, maps, 3, padding=1), nn.BatchNorm2d(maps),
        )
        self.upsample = nn.Sequential(*(
            nn.Sequential(nn.Conv2d(maps, 4 * maps, 3, padding=1), nn.PixelShuffle(2), nn.PReLU())
            for _ in range(int(math.log2(scale)))
        ))
        self.tail = nn.Conv2d(maps, 3, 9, padding=4)
        self.tail.weight.data.mul_(0.1)  # a new one starts near bicubic interpolation

    def forward(self, images_lr):
        return self.base(images_lr) + self.detail(images_lr)

    def base(self, images_lr):
        """Bicubic interpolation."""
        size = [side * self.scale for side in images_lr.shape[-2:]]
        # with antialias the kernel is Pillow's; without it torch takes another one
        return F.interpolate(images_lr, size, mode='bicubic', antialias=True)

    def detail(self, images_lr):
        """What the layers add to it."""
        features = self.head(images_lr)
        features = self.upsample(features + self.body(features))
        by_rows = features.device.type == 'cpu' and features.dtype == torch.float32  # in bf16 it takes twice as long
        return conv_by_rows(self.tail, features) if by_rows else self.tail(features)


def generator_from_state_dict(state_dict):
    """Build the generator a state dict belongs to (scale, blocks and maps follow from it) and load it strictly.

    Half precision becomes float32, a `module.` prefix is dropped. ValueError, in one line, where it does not fit.
    """
    tensors = {name.removeprefix('module.'): value for name, value in state_dict.items()}
    if 'tail.weight' not in tensors:
        raise ValueError(f'not the state dict of a generator: it has no tail.weight, but '
                         f'{", ".join(map(str, list(tensors)[:3])) or "nothing"}{", ..." if len(tensors) > 3 else ""}')
    try:
        stages = {name.split('.')[1] for name in tensors if name.startswith('upsample.')}
        blocks = {name.split('.')[1] for name in tensors if name.startswith('body.') and '.body.' in name}
        model = Generator(2 ** len(stages), len(blocks), tensors['tail.weight'].shape[1])
        model.load_state_dict(tensors)
    except (KeyError, ValueError, RuntimeError, AttributeError) as error:
        misfit = ' '.join(str(error).split()).rpartition('Generator: ')[2][:200]  # after torch's own heading
        raise ValueError(f'not the state dict of a generator: {misfit}') from error
    return model
