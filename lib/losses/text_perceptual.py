"""The Text Perceptual Loss of TextSR: what a recognizer makes of the image, held against the label."""
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from lib.imaging import recognizer_input


def encode_labels(labels, vocabulary, device=None):
    """Strings -> class ids (N, T) int64, EOS included, PADDING behind; T is that of the longest label."""
    ids = [torch.tensor(vocabulary.encode(label)) for label in labels]
    return pad_sequence(ids, batch_first=True, padding_value=vocabulary.padding).to(device)


def sequence_cross_entropy(logits, targets, padding):
    """Cross-entropy summed over the steps up to and including EOS, divided by the batch size (ASTER's loss); a scalar.

    logits (N, T, classes), targets (N, T) with `padding` behind each EOS.
    """
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=padding,
                           reduction='sum') / len(targets)


def text_perceptual_loss(recognizer, vocabulary, images, labels, clip=0.0):
    """Recognition loss of images (N, 3, H, W) in [0, 1] against their labels, a list of N strings; a scalar.

    The gradient runs through the recognizer into the images; freeze the recognizer to train by it alone. clip: largest
    norm of the gradient of a word's own loss in its image, 0 for no limit. Without it most of the gradient is that of
    words far from being read (clipping by sample: Abadi et al., 2016, arXiv 1607.00133).
    """
    targets = encode_labels(labels, vocabulary, images.device)
    images = images.view_as(images)  # a node of its own: the limit leaves other losses of the same images alone
    loss = sequence_cross_entropy(recognizer(recognizer_input(images), targets), targets, vocabulary.padding)
    if clip and images.requires_grad:
        scales = []  # what the loss is multiplied with: its weight, and the scale of mixed precision
        loss.register_hook(scales.append)

        def limit(gradient):  # must not hold `images`: such a circle is never freed
            norms = gradient.flatten(1).norm(dim=1) * len(gradient) / scales.pop()
            return gradient * (clip / norms).clamp(max=1)[:, None, None, None]

        images.register_hook(limit)
    return loss
