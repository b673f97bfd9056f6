"""Content loss: mean squared error of the pixels."""
import torch.nn.functional as F


def content_loss(sr, hr):
    """Mean squared error of images (N, 3, H, W) in [0, 1] (Ledig et al. 2017, equation 4); a scalar."""
    return F.mse_loss(sr, hr)
