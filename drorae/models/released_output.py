"""Whether a released decoder's file and `decoder.output` mean the same, judged by what it paints.

A file of RAE's and one of RAEv2's have the same tensors under the same names; the former paints images that are yet to
be de-normalised, the latter images themselves.
"""

from __future__ import annotations

import torch
from torch import Tensor

from drorae.models.decoder import Decoder
from drorae.models.encoder import Encoder

MARGIN = 2.0
"""So many times less must another output's mean squared error be. Of trained decoders the right one has a fifth."""


def better_output(decoder: Decoder, encoder: Encoder, painted: Tensor, wanted: Tensor) -> str:
    """Returns the `decoder.output` with which a released decoder would paint far better; empty where there is none.

    Args:
        decoder: as it was loaded, with the statistics of its output.
        encoder: behind it.
        painted: its images [B, 3, S, S].
        wanted: the originals, in [0, 1].
    """
    raw = (painted - decoder.mean) / decoder.std
    other, image = ("encoder", raw * encoder.std + encoder.mean) if decoder.output == "none" else ("none", raw)
    ours, theirs = (float(torch.mean((found - wanted).square())) for found in (painted, image))
    return other if MARGIN * theirs < ours else ""
