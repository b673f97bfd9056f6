"""Thin-plate spline that straightens a text line (ASTER, section 3.1; Bookstein 1989)."""
import torch
from torch import nn

from lib.imaging import sample_bilinear
from lib.models.aster.stn_head import border_points


def radial_basis(points, centres):
    """r^2 log r between each point (M, 2) and each centre (K, 2): (M, K), 0 where they coincide."""
    squared = (points[:, None] - centres[None]).square().sum(2)
    # Not xlogy: the kernel is so badly conditioned that its last bit shows in the inverse, and the recognizer's weights
    # were learned with this one.
    return (0.5 * squared * squared.log()).nan_to_num()


class TPS(nn.Module):
    """Samples an image along the spline that maps fixed points of the output to given points of the input.

    All matrices depend on sizes alone and are buffers, with the names of the released checkpoint.
    """

    def __init__(self, height, width, control_points):
        super().__init__()
        self.height, self.width = height, width
        targets = border_points(control_points, 0.05, 0.05)
        count = len(targets)

        kernel = torch.zeros(count + 3, count + 3)
        kernel[:count, :count] = radial_basis(targets, targets)
        kernel[:count, count] = kernel[count, :count] = 1
        kernel[:count, count + 1:] = targets
        kernel[count + 1:, :count] = targets.T

        y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing='ij')
        pixels = torch.stack([x, y], dim=2).flatten(0, 1)  # (height * width, 2), row by row
        representation = torch.cat([radial_basis(pixels, targets), torch.ones(len(pixels), 1), pixels], dim=1)

        self.register_buffer('inverse_kernel', torch.linalg.inv(kernel))
        self.register_buffer('padding_matrix', torch.zeros(3, 2))
        self.register_buffer('target_coordinate_repr', representation)
        self.register_buffer('target_control_points', targets)

    def grid(self, control_points):
        """Where each pixel of the output lies for control points (N, K, 2): (N, height, width, 2) of (x, y) in [-1, 1].

        In float64, which no setting rounds: the inverse has entries up to 87, and operands rounded to TF32's 10 bits
        would move the points by several pixels.
        """
        padding = self.padding_matrix.expand(control_points.shape[0], 3, 2)
        mapping = self.inverse_kernel.double() @ torch.cat([control_points, padding], dim=1).double()
        points = self.target_coordinate_repr.double() @ mapping
        return (points.clamp(0, 1) * 2 - 1).float().view(-1, self.height, self.width, 2)

    def forward(self, images, control_points):
        """images (N, 3, H, W), control_points (N, K, 2) in [0, 1] -> (N, 3, height, width)."""
        # The released weights were trained when align_corners=True was the only behaviour.
        return sample_bilinear(images, self.grid(control_points), align_corners=True)
