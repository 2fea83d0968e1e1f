"""The adversarial term: hinge losses and the adaptive weight."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from drorae.runtime import distributed


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Returns (mean relu(1 - real) + mean relu(1 + fake)) / 2 of a discriminator's logits (VQGAN, arXiv 2012.09841)."""
    return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, largest: float) -> Tensor:
    """Returns |gradient of the reconstruction loss| / (|gradient of the adversarial loss| + 1e-6), at most `largest`.

    VQGAN, arXiv 2012.09841, Eq. 7, with RAE's constants. The gradients, over the whole batch, are those of the
    decoder's last linear weight, taken with respect to zeros that the decoder adds to that weight (`head_offset`): so
    they exist where the weight itself is frozen (phase 2), and nothing can update it. Over several processes, the mean
    gradients.
    """
    ours, theirs = (distributed.mean(gradient).norm().detach() for gradient in (reconstruction, adversarial))
    return torch.clamp(ours / (theirs + 1e-6), 0, largest)
