"""Localization network: where the text line lies in the image, as control points for the thin-plate spline."""
import torch
from torch import nn

from lib.models.conv_bn import conv_bn, fastest_layout


def border_points(count, margin_x, margin_y):
    """Control points along the upper border from left to right, then along the lower one.

    Returns (count, 2) float32 of (x, y) in [0, 1] of the image; `count` is even. The margins are shares of its sides.
    """
    x = torch.linspace(margin_x, 1 - margin_x, count // 2, dtype=torch.float64)
    top = torch.stack([x, torch.full_like(x, margin_y)], dim=1)
    bottom = torch.stack([x, torch.full_like(x, 1 - margin_y)], dim=1)
    return torch.cat([top, bottom]).float()


def conv_block(in_channels, out_channels):
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.BatchNorm2d(out_channels),
                         nn.ReLU(inplace=True))


class STNHead(nn.Module):
    """Predicts the control points of an image of 32x64 pixels."""

    def __init__(self, width, hidden, control_points):
        super().__init__()
        layers, in_channels = [], 3
        for out_channels in (width, 2 * width, 4 * width, 8 * width, 8 * width, 8 * width):
            layers += [conv_block(in_channels, out_channels), nn.MaxPool2d(2)]
            in_channels = out_channels
        self.stn_convnet = nn.Sequential(*layers[:-1])  # the last block works on 1x2 and is not pooled
        self.stn_fc1 = nn.Sequential(nn.Linear(2 * in_channels, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True))
        self.stn_fc2 = nn.Linear(hidden, 2 * control_points)
        self.reset_parameters()

    def reset_parameters(self):
        for module in self.stn_convnet.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.stn_fc1[0].weight, std=0.001)
        nn.init.zeros_(self.stn_fc1[0].bias)
        # Training starts from the whole image, whatever the features say.
        nn.init.zeros_(self.stn_fc2.weight)
        with torch.no_grad():
            self.stn_fc2.bias.copy_(border_points(self.stn_fc2.out_features // 2, 0.01, 0.01).flatten())

    def pairs(self):
        """Each convolution with its batch norm."""
        return [tuple(layer[:2]) for layer in self.stn_convnet if not isinstance(layer, nn.MaxPool2d)]

    def forward(self, images):
        """images (N, 3, 32, 64) in [-1, 1] -> control points (N, K, 2), (x, y) in units of the image, unbounded."""
        features = fastest_layout(images)
        for layer in self.stn_convnet:
            features = layer(features) if isinstance(layer, nn.MaxPool2d) else layer[2](conv_bn(*layer[:2], features))
        features = self.stn_fc1(features.flatten(1))
        # A tenth of the features: the last layer then learns slowly, as the released weights expect.
        return self.stn_fc2(0.1 * features).unflatten(1, (-1, 2))
