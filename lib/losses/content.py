"""Content loss: mean squared error of the pixels."""
import torch.nn.functional as F


def content_loss(sr, hr):
    """Mean squared error of images (N, 3, H, W) in [0, 1]; a scalar.

    Ledig et al. 2017, equation 4, where the images lie in [-1, 1] and it is four times as large.
    """
    return F.mse_loss(sr, hr)
