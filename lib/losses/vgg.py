"""VGG loss: distance of deep features (Ledig et al. 2017, equation 5)."""
import os

import torch
import torch.nn.functional as F
from torch import nn


class VGGLoss(nn.Module):
    """MSE between VGG19's features phi(5,4) of two images (N, 3, H, W) in [0, 1]; H and W at least 16.

    Building it with weights 'DEFAULT' lets torchvision fetch the ImageNet weights (or find them in its cache); None
    leaves the network untrained. OSError that names the file and its place where they can be had in neither way.
    """

    def __init__(self, weights='DEFAULT'):
        from torchvision.models import VGG19_Weights, vgg19  # takes longer to import than torch itself
        super().__init__()
        try:
            network = vgg19(weights=weights)
        except (OSError, RuntimeError) as error:  # no network; a file that was cut off
            url = VGG19_Weights[weights].url
            place = os.path.join(torch.hub.get_dir(), 'checkpoints', os.path.basename(url))
            raise OSError(f'vgg loss: the weights of VGG19 could not be loaded ({" ".join(str(error).split())}); put '
                          f'{url} at {place}, or leave out --vgg_weight') from error
        self.features = network.features[:36].eval().requires_grad_(False)
        self.register_buffer('mean', torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1))
        self.register_buffer('std', torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1))

    def forward(self, sr, hr):
        with torch.no_grad():
            target = self.features((hr - self.mean) / self.std)
        return F.mse_loss(self.features((sr - self.mean) / self.std), target)
