"""timm's vision transformers as encoders: which there are, and how each takes weights at another size than its own.

What differs between families stands here, each as transformers' own class has it.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from typing import Any, TypeGuard

import timm
import torch
from timm.models import eva, vision_transformer
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from drorae.errors import UserError, brief

Backbone = VisionTransformer | Eva

SUPPORTED = "timm's VisionTransformer (ViT, DINOv2, MAE, SigLIP, SigLIP2) or Eva (DINOv3, EVA, PE)"
"""In words."""
_UNUSED = ("head.", "fc_norm.")
"""What stands behind the last block's norm, and is in a file or not."""


def is_backbone(model: object) -> TypeGuard[Backbone]:
    """Whether a timm model is one that can be an encoder: whole blocks of patch tokens, cut by one convolution."""
    embedding = getattr(model, "patch_embed", None)
    return isinstance(model, VisionTransformer | Eva) and hasattr(embedding, "patch_size")


def build_vit(name: str, **arguments: Any) -> Backbone:
    """A timm vision transformer without its classifier.

    Raises:
        UserError: timm cannot build it, or it is another kind of network.
    """
    try:
        vit = timm.create_model(name, num_classes=0, **family_arguments(name), **arguments)
    except (RuntimeError, TypeError, ValueError, OSError) as error:
        reason = brief(error, 160)
        if arguments.get("pretrained"):
            raise UserError(
                f"encoder.weights=hub: {name} could not be downloaded ({reason}); "
                "fetch its file elsewhere and use encoder.weights=file, or encoder.weights=offline"
            ) from None
        raise UserError(
            f"encoder.name: timm cannot build {name!r} with {arguments} ({reason}); expected {SUPPORTED}, "
            "see timm.list_models('vit*')"
        ) from None
    if not is_backbone(vit):
        raise UserError(f"encoder.name: {name} is a {type(vit).__name__}; expected a ViT that is {SUPPORTED}")
    return vit


def patch_size_of(name: str) -> int:
    """Returns the side of a backbone's patches in pixels; it is built without storage.

    Raises:
        UserError: as `build_vit`.
    """
    with torch.device("meta"):
        return int(build_vit(name).patch_embed.patch_size[0])


def mlp_width(vit: Backbone) -> float:
    """Returns the hidden width of a block's MLP, as that of a plain one (two matrices) with as many weights."""
    mlp: Any = vit.blocks[0].mlp
    weights = sum(part.weight.numel() for part in mlp.modules() if isinstance(part, nn.Linear))
    return float(weights) / (2 * vit.embed_dim)


def load_weights(vit: Backbone, state: Mapping[str, Tensor]) -> None:
    """Loads a state in timm's or the authors' layout, its table of positions resampled to the backbone's input size.

    Without antialiasing, as ViT, MAE, DINOv2 and SigLIP are resampled (transformers' classes of these names); timm's
    own default differs by 6% in DINOv2's tokens at 224 px. With it where there are register tokens, as
    Dinov2WithRegisters and timm's own register models. DINOv3's rotary positions need no table.

    Raises:
        RuntimeError, KeyError, AttributeError: the state is not the backbone's.
    """
    convert: Any = (eva if isinstance(vit, Eva) else vision_transformer).checkpoint_filter_fn
    with contextlib.redirect_stdout(io.StringIO()):  # Eva's prints what it then passes over
        state = convert(dict(state), vit, antialias=vit.reg_token is not None)
    own = vit.state_dict()
    kept = {name: tensor for name, tensor in state.items() if name in own or not name.startswith(_UNUSED)}
    vit.load_state_dict(kept, strict=True)


def family_arguments(name: str) -> dict[str, Any]:
    """Returns what timm has to be told for a model to be its authors'."""
    # SigLIP was trained with the tanh form of GELU, which transformers has and timm has not.
    return {"act_layer": "gelu_tanh"} if "siglip" in name else {}
