"""Convolution and batch norm, folded into one convolution where the statistics are fixed."""
import torch
import torch.nn.functional as F


def folded(conv, bn):
    """Weight and bias of the one convolution that computes `conv` and then `bn` with fixed statistics."""
    scale = bn.weight * torch.rsqrt(bn.running_var + bn.eps)
    mean = bn.running_mean if conv.bias is None else bn.running_mean - conv.bias
    return conv.weight * scale.view(-1, 1, 1, 1), bn.bias - scale * mean


def keep_folded(pairs, fixed):
    """Compute the folded convolution of each (conv, bn) once, for a network that does not change; not fixed: drop it.

    The results are buffers, which follow the network to its device, but no part of its state dict.
    """
    for conv, bn in pairs:
        with torch.no_grad():
            weight, bias = folded(conv, bn) if fixed else (None, None)
        conv.register_buffer('folded_weight', weight, persistent=False)
        conv.register_buffer('folded_bias', bias, persistent=False)


def conv_bn(conv, bn, x):
    """Batch norm of the convolution of x; as one convolution where `keep_folded` has prepared it, and on CPUs wherever
    the statistics are fixed: even folded anew each time it takes less time there than batch norm does."""
    stride = conv.stride
    if x.device.type == 'cpu' and stride != (1, 1):
        # All that a 1x1 convolution with a stride looks at. Given the stride, oneDNN writes behind the end of its
        # buffers where there are fewer than 8 channels, laid out channels last.
        x, stride = x[:, :, ::stride[0], ::stride[1]], (1, 1)
    if getattr(conv, 'folded_weight', None) is not None:
        return F.conv2d(x, conv.folded_weight, conv.folded_bias, stride, conv.padding)
    if x.device.type != 'cpu' or bn.training:
        return bn(F.conv2d(x, conv.weight, conv.bias, stride, conv.padding))
    return F.conv2d(x, *folded(conv, bn), stride, conv.padding)


def fastest_layout(images):
    """The images with channels last where that is the faster layout: on CPUs, and in half precision."""
    if images.device.type == 'cpu' or torch.is_autocast_enabled():
        return images.contiguous(memory_format=torch.channels_last)
    return images
