"""Encoder: a ResNet that reduces the text line to one row of 25 columns, then a bidirectional LSTM along them."""
import torch
from torch import nn

from lib.models.conv_bn import conv_bn, fastest_layout

STRIDES = ((2, 2), (2, 2), (2, 1), (2, 1), (2, 1))  # height shrinks 32 -> 1, width 100 -> 25


class Block(nn.Module):
    """Residual block of a 1x1 and a 3x3 convolution; the stride is in the first."""

    def __init__(self, in_planes, planes, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 1, stride, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != (1, 1) or in_planes != planes:
            self.downsample = nn.Sequential(nn.Conv2d(in_planes, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))

    def forward(self, x):
        residual = x if self.downsample is None else conv_bn(*self.downsample, x)
        x = self.relu(conv_bn(self.conv1, self.bn1, x))
        return self.relu(conv_bn(self.conv2, self.bn2, x) + residual)

    def pairs(self):
        """Each convolution with its batch norm."""
        yield from ((self.conv1, self.bn1), (self.conv2, self.bn2))
        if self.downsample is not None:
            yield tuple(self.downsample)


class ResNetAster(nn.Module):
    """Five stages of `blocks` residual blocks of `width`, 2, 4, 8 and 16 times `width` maps, and two LSTM layers of
    `lstm_dim` a side.

    `out_planes` is the number of channels of a column.
    """

    def __init__(self, width, use_lstm, lstm_dim, blocks):
        super().__init__()
        self.layer0 = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width),
                                    nn.ReLU(inplace=True))
        in_planes = width
        for i, (count, stride) in enumerate(zip(blocks, STRIDES)):
            planes = width * 2 ** i
            layer = [Block(in_planes, planes, stride)] + [Block(planes, planes, (1, 1)) for _ in range(count - 1)]
            setattr(self, f'layer{i + 1}', nn.Sequential(*layer))
            in_planes = planes
        self.rnn = None
        self.out_planes = in_planes
        if use_lstm:
            self.rnn = nn.LSTM(in_planes, lstm_dim, num_layers=2, bidirectional=True, batch_first=True)
            self.out_planes = 2 * lstm_dim
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')

    def pairs(self):
        """Each convolution with its batch norm."""
        yield tuple(self.layer0[:2])
        for module in self.modules():
            if isinstance(module, Block):
                yield from module.pairs()

    def forward(self, images):
        """images (N, 3, 32, 100) -> columns (N, 25, out_planes)."""
        conv, bn, relu = self.layer0
        x = relu(conv_bn(conv, bn, fastest_layout(images)))
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4, self.layer5):
            x = layer(x)
        columns = x.squeeze(2).transpose(1, 2).float()  # (N, 25, channels)
        with torch.autocast(images.device.type, enabled=False):
            return columns if self.rnn is None else self.rnn(columns)[0]
