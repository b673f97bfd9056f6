"""SRGAN's discriminator (Ledig et al., CVPR 2017, section 2.1.1 and figure 4)."""
from torch import nn


class Discriminator(nn.Module):
    """Logit of being a real high-resolution image: (N, 3, H, W) in [0, 1] -> (N,). Any size: features are averaged."""

    def __init__(self, maps=64):
        super().__init__()
        layers = [nn.Conv2d(3, maps, 3, padding=1), nn.LeakyReLU(0.2)]
        planes = maps
        for index in range(1, 8):  # every second convolution halves the size, the others double the maps from there on
            stride = 2 if index % 2 else 1
            grown = planes if stride == 2 else 2 * planes
            layers += [nn.Conv2d(planes, grown, 3, stride, padding=1), nn.BatchNorm2d(grown), nn.LeakyReLU(0.2)]
            planes = grown
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(planes, 1024, 1), nn.LeakyReLU(0.2), nn.Conv2d(1024, 1, 1),
        )

    def forward(self, images):
        return self.classifier(self.features(images)).flatten()
