"""The Text Perceptual Loss (Wang et al., 2019, arXiv 1909.07113): cross-entropy of the recognizer on the image."""
import torch
import torch.nn.functional as F

from lib.imaging import recognizer_input, resize_bilinear, sample_bilinear


def sequence_cross_entropy(logits, targets, padding):
    """Cross-entropy summed over the steps up to and including EOS, divided by the batch size (ASTER's loss); a scalar.

    logits (N, T, classes), targets (N, T) with `padding` behind each EOS.
    """
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=padding,
                           reduction='sum') / len(targets)


def text_perceptual_loss(recognizer, images, targets, padding, clip=0.0, perturbation=0.0, anchor=0.0, images_hr=None):
    """Recognition loss of images (N, 3, H, W) in [0, 1] against targets (N, T), `padding` behind each EOS; a scalar.

    The gradient flows through the recognizer into the images; freeze the recognizer before training with this loss.
    clip: largest norm of the gradient of a word's own loss in its image, 0 for no limit. Without it most of the
    gradient is that of words far from being read (clipping by sample: Abadi et al., 2016, arXiv 1607.00133).
    perturbation: strength in [0, 1] of `perturb` before the recognizer. anchor: weight of `anchor_loss` against
    images_hr, shaped and ranged as images, which it needs; only with a frozen recognizer.
    """
    images = images.view_as(images)  # a node of its own: the limit must not touch other losses of the same images
    inputs = recognizer_input(images)
    if perturbation:
        with torch.autocast(inputs.device.type, enabled=False):  # in bf16 its points would move by up to a pixel
            inputs = perturb(inputs, perturbation)
    if anchor:
        columns, logits = recognizer.columns_and_logits(inputs, targets)
        with torch.no_grad():
            target_columns, target_logits = recognizer.columns_and_logits(recognizer_input(images_hr), targets)
        loss = anchor * anchor_loss(columns, logits, target_columns, target_logits, targets != padding)
    else:
        logits, loss = recognizer(inputs, targets), 0.0
    loss = loss + sequence_cross_entropy(logits, targets, padding)
    if clip and images.requires_grad:
        scales = []  # what the loss is multiplied with: its weight, and the scale of mixed precision
        loss.register_hook(scales.append)

        def limit(gradient):  # must not refer to `images`: that reference cycle would never be freed
            norms = gradient.flatten(1).norm(dim=1) * len(gradient) / scales.pop()
            return gradient * (clip / norms).clamp(max=1)[:, None, None, None]

        images.register_hook(limit)
    return loss


def anchor_loss(columns, logits, columns_hr, logits_hr, steps):
    """Distance of the recognizer's output on SR from that on HR; a scalar [our choice, after LEMMA, Guo et al., 2023].

    Kullback-Leibler divergence of the outputs (N, T, classes), summed over the `steps` (N, T) that count, plus the mean
    absolute difference of the encoder's columns (N, W, C), summed over W; divided by the batch size. A target that is
    the recognizer's output on a real picture leaves less room for patterns that only this recognizer reads.
    """
    divergence = F.kl_div(logits.float().log_softmax(2), logits_hr.float().log_softmax(2), reduction='none',
                          log_target=True).sum(2)
    return (divergence * steps).sum() / len(steps) + (columns - columns_hr).abs().mean(2).sum() / len(columns)


def perturb(inputs, strength):
    """Images (N, 3, H, W) in [-1, 1], each shifted, stretched, blurred and noised by torch's generator [our choice].

    Shift up to 0.03 strength of the width and height, change of size up to 0.06 strength, noise of standard deviation
    up to 0.1 strength; half of the batches are blurred by reduction to between 1 and 1 - strength / 2 of their size
    and back.
    """
    count, _, height, width = inputs.shape
    offsets = 0.06 * strength * (2 * torch.rand(count, 2, 2, device=inputs.device) - 1)
    theta = torch.cat([torch.diag_embed(1 + offsets[:, 0]), offsets[:, 1, :, None]], dim=2)  # (N, 2, 3)
    if torch.rand(()) < 0.5:
        factor = 1 - strength / 2 * float(torch.rand(()))
        inputs = resize_bilinear(inputs, (round(height * factor), round(width * factor)), antialias=True)
    inputs = sample_bilinear(inputs, F.affine_grid(theta, [count, 3, height, width], align_corners=False))
    deviation = 0.1 * strength * torch.rand(count, 1, 1, 1, device=inputs.device)
    return inputs + deviation * torch.randn_like(inputs)
