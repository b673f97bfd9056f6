"""Adversarial losses: binary cross-entropy on logits, for generator and discriminator (Goodfellow et al. 2014)."""
import torch
import torch.nn.functional as F


def generator_loss(fake_logits):
    """-log D(G(lr)), the non-saturating loss of the generator: logits (N,) -> scalar."""
    return F.binary_cross_entropy_with_logits(fake_logits, torch.ones_like(fake_logits))


def discriminator_loss(real_logits, fake_logits):
    """-log D(hr) - log(1 - D(G(lr))), halved: logits (N,) twice -> scalar; log 2 where D cannot tell the two apart."""
    real = F.binary_cross_entropy_with_logits(real_logits, torch.ones_like(real_logits))
    fake = F.binary_cross_entropy_with_logits(fake_logits, torch.zeros_like(fake_logits))
    return (real + fake) / 2
