import pytest
import torch
from torch import nn

from lib.models.discriminator import Discriminator


def test_published_parameter_count_and_layers():
    model = Discriminator()
    assert sum(parameter.numel() for parameter in model.parameters()) == 5_215_425
    convolutions = [layer for layer in model.features if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [64, 64, 128, 128, 256, 256, 512, 512]
    assert [layer.stride[0] for layer in convolutions] == [1, 2] * 4


@pytest.mark.parametrize('size', [(32, 128), (17, 33), (64, 256)])
def test_one_logit_an_image_of_any_size(size):
    assert Discriminator(4)(torch.rand(3, 3, *size)).shape == (3,)
