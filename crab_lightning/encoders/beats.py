"""The BEATs audio encoder, with the parameter names of the published checkpoints.

Source: arXiv:2212.09058; names, shapes and constants of the published weights (microsoft/unilm, MIT).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from crab_lightning.structures import SAMPLE_RATE_HZ

FBANK_BINS = 128
PATCH = 16
"""Side of a patch: the number of frames, and of bins."""
BANDS = FBANK_BINS // PATCH
"""Number of patches for each time step of 16 frames, one for each band of 16 bins; each gives a token."""
MEAN, DEVIATION = 15.41663, 6.55582
_WINDOW, _SHIFT = 400, 160  # samples in 25 ms and 10 ms
SHORTEST_SAMPLES = _WINDOW + (PATCH - 1) * _SHIFT
"""Number of samples of one time step, 0.175 s; shorter sound gives no token."""


def fbank_frames(samples: int) -> int:
    """Return the number of frames of a waveform: windows of 25 ms every 10 ms, all inside the waveform."""
    return 0 if samples < _WINDOW else 1 + (samples - _WINDOW) // _SHIFT


def beats_tokens(frames: int) -> int:
    """Return the number of tokens of ``frames`` frames; frames at the end that fill no patch are dropped.

    >>> [beats_tokens(fbank_frames(seconds * 16_000)) for seconds in (1, 10, 30)]
    [48, 496, 1496]
    """
    return frames // PATCH * BANDS


def beats_fbank(audio: Tensor) -> Tensor:
    """Return the normalised filter bank of one clip.

    Args:
        audio: float32 ``(S,)``, 16 kHz, in [-1, 1].

    Returns:
        float32 ``(M, 128)`` with M from ``fbank_frames``: Kaldi's filter bank of 16-bit values, normalised
        with the mean and twice the standard deviation of AudioSet.

    Raises:
        ImportError: If torchaudio was built for another version of torch.
        ValueError: If the clip is not one-dimensional or is shorter than a window of 25 ms.
    """
    try:
        from torchaudio.compliance import kaldi
    except OSError as err:  # its compiled library was made for another torch
        raise ImportError(
            f"torchaudio cannot be loaded beside torch {torch.__version__}: {str(err).splitlines()[0]}. "
            "Install the torchaudio that belongs to this torch, such as torchaudio==2.11.0 for torch 2.11"
        ) from err

    if audio.ndim != 1 or audio.shape[0] < _WINDOW:
        raise ValueError(
            f"no filter bank can be computed for a waveform of shape {tuple(audio.shape)}; the shape must be "
            f"(S,) with at least {_WINDOW} samples"
        )
    bank: Tensor = kaldi.fbank(
        audio.to(torch.float32)[None] * 2**15,
        num_mel_bins=FBANK_BINS,
        sample_frequency=float(SAMPLE_RATE_HZ),
        frame_length=25.0,
        frame_shift=10.0,
    )
    return (bank - MEAN) / (2 * DEVIATION)


# Settings that change the computation; each has the same value in all published checkpoints.
_FIXED: dict[str, Any] = {
    "input_patch_size": PATCH,
    "conv_bias": False,
    "activation_fn": "gelu",
    "layer_norm_first": False,
    "deep_norm": True,
    "relative_position_embedding": True,
    "gru_rel_pos": True,
}


@dataclass(frozen=True)
class BeatsConfig:
    """Sizes of a BEATs encoder; the defaults are those of the published encoders.

    Args:
        embed_dim: Width of the patches.
        encoder_embed_dim: Width D of the layers.
        encoder_ffn_embed_dim: Width inside the feed-forward layers.
        encoder_layers: Number of layers.
        encoder_attention_heads: Number of attention heads of each layer; D is a multiple of this number.
        conv_pos: Kernel size of the position convolution, in tokens.
        conv_pos_groups: Number of groups of the position convolution.
        num_buckets: Number of buckets into which the distances between two tokens are sorted.
        max_distance: Distance from which on all distances are in the same bucket.
    """

    embed_dim: int = 512
    encoder_embed_dim: int = 768
    encoder_ffn_embed_dim: int = 3072
    encoder_layers: int = 12
    encoder_attention_heads: int = 12
    conv_pos: int = 128
    conv_pos_groups: int = 16
    num_buckets: int = 320
    max_distance: int = 800

    @classmethod
    def from_cfg(cls, cfg: Mapping[str, Any]) -> BeatsConfig:
        """Return the config for the ``cfg`` of a checkpoint; settings for training (dropouts) are ignored.

        Raises:
            ValueError: If a size is missing, or a setting requires another architecture.
        """
        names = [f.name for f in fields(cls)]
        if missing := [name for name in (*names, *_FIXED) if name not in cfg]:
            raise ValueError(f"cfg lacks {', '.join(missing)}; it is not the cfg of a BEATs checkpoint")
        if other := [f"{k} is {cfg[k]!r}" for k, v in _FIXED.items() if cfg[k] != v]:
            wanted = ", ".join(f"{k} {v!r}" for k, v in _FIXED.items())
            raise ValueError(f"{'; '.join(other)}: no published BEATs has this. Implemented: {wanted}")
        return cls(**{name: int(cfg[name]) for name in names})

    def cfg(self) -> dict[str, Any]:
        """Return the settings in the form that ``from_cfg`` reads."""
        return asdict(self) | _FIXED


class PositionConv(nn.Module):
    """Grouped convolution with weight normalisation: a direction ``weight_v`` times a length ``weight_g``."""

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        width, kernel = config.encoder_embed_dim, config.conv_pos
        self.groups, self.kernel = config.conv_pos_groups, kernel
        self.weight_v = nn.Parameter(torch.empty(width, width // self.groups, kernel))
        nn.init.normal_(self.weight_v, std=math.sqrt(4 / (kernel * width)))
        self.weight_g = nn.Parameter(self.weight_v.detach().norm(dim=(0, 1), keepdim=True))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(B, N, D)`` for an input of the same shape."""
        weight = self.weight_v * (self.weight_g / self.weight_v.norm(dim=(0, 1), keepdim=True))
        out = functional.conv1d(
            x.transpose(1, 2), weight, self.bias, padding=self.kernel // 2, groups=self.groups
        )
        return out[..., : x.shape[1]].transpose(1, 2)  # an even kernel gives one step too many


class GatedAttention(nn.Module):
    """Self-attention with a position bias; every query has its own factor for the bias."""

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        self.max_distance = config.max_distance
        self.relative_attention_bias: nn.Embedding | None = None  # only the first layer has the table
        width, self.heads = config.encoder_embed_dim, config.encoder_attention_heads
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.grep_linear = nn.Linear(width // self.heads, 8)
        self.grep_a = nn.Parameter(torch.ones(1, self.heads, 1, 1))

    def position_bias(self, tokens: int) -> Tensor:
        """Return the bias of every pair of N tokens, ``(1, heads, N, N)``, from this layer's table."""
        table = self.relative_attention_bias
        assert table is not None  # this is called for the first layer, which has the table
        places = torch.arange(tokens, device=table.weight.device)
        found = distance_buckets(places[None] - places[:, None], table.num_embeddings, self.max_distance)
        bias: Tensor = table(found).permute(2, 0, 1)[None]
        return bias

    def forward(self, x: Tensor, bias: Tensor, hidden: Tensor | None) -> Tensor:
        """Return the attention output, ``(B, N, D)``.

        Args:
            x: ``(B, N, D)``.
            bias: Position bias ``(1, heads, N, N)``.
            hidden: ``(B, 1, 1, N)``, -inf at padded keys, else 0; ``None`` without padding.
        """
        batch, tokens, width = x.shape
        q, k, v = (
            p(x).view(batch, tokens, self.heads, -1).transpose(1, 2)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        a, b = self.grep_linear(q).unflatten(-1, (2, 4)).sum(-1).sigmoid().unbind(-1)
        gate = a * (b * self.grep_a.view(1, -1, 1) - 1) + 2  # (B, heads, N)
        scores = gate[..., None] * bias
        if hidden is not None:
            scores = scores + hidden
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=scores)
        projected: Tensor = self.out_proj(out.transpose(1, 2).reshape(batch, tokens, width))
        return projected


class BeatsLayer(nn.Module):
    """Attention and feed-forward; each is added to ``alpha`` times its input and normalised (deep norm)."""

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        width, inner = config.encoder_embed_dim, config.encoder_ffn_embed_dim
        self.alpha = (2 * config.encoder_layers) ** 0.25
        self.self_attn = GatedAttention(config)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, bias: Tensor | None, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return ``(B, N, D)`` and the position bias for the next layers.

        The first layer gets no bias, and reads it from its table here, in its own forward: when the weights
        are sharded, a layer's weights are complete only while that layer runs.
        """
        if bias is None:
            bias = self.self_attn.position_bias(x.shape[1])
        x = self.self_attn_layer_norm(self.alpha * x + self.self_attn(x, bias, hidden))
        out: Tensor = self.final_layer_norm(self.alpha * x + self.fc2(functional.gelu(self.fc1(x))))
        return out, bias


class _Encoder(nn.Module):
    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        self.pos_conv = nn.ModuleList([PositionConv(config)])
        self.layer_norm = nn.LayerNorm(config.encoder_embed_dim)
        self.layers = nn.ModuleList(BeatsLayer(config) for _ in range(config.encoder_layers))
        # All layers use one table; published files repeat it under the name of every layer.
        first: Any = self.layers[0]
        first.self_attn.relative_attention_bias = nn.Embedding(
            config.num_buckets, config.encoder_attention_heads
        )


class Beats(nn.Module):
    """BEATs: computes audio tokens from a filter bank, 8 tokens (one per frequency band) for each 160 ms.

    Args:
        config: Sizes of the encoder.

    Shapes: B clips, M frames (10 ms), N = 8 * (M // 16) tokens, D = ``encoder_embed_dim``.
    """

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embedding = nn.Conv2d(1, config.embed_dim, PATCH, PATCH, bias=False)
        self.layer_norm = nn.LayerNorm(config.embed_dim)
        self.post_extract_proj: nn.Module | None = None
        if config.embed_dim != config.encoder_embed_dim:
            self.post_extract_proj = nn.Linear(config.embed_dim, config.encoder_embed_dim)
        self.encoder = _Encoder(config)

    def forward(self, fbank: Tensor, frames: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Encode clips; the tokens of a clip do not depend on the other clips.

        Args:
            fbank: ``(B, M, 128)``, padded at the end.
            frames: int64 ``(B,)``, number of frames of each clip; all M when left out.

        Returns:
            Tokens ``(B, N, D)`` and a mask ``(B, N)``, False in padding.

        Raises:
            ValueError: If the frames of a clip fill no patch.
        """
        tokens = fbank.shape[1] // PATCH * BANDS
        if frames is None:
            own = torch.ones(len(fbank), tokens, dtype=torch.bool, device=fbank.device)
        else:
            counts = frames // PATCH * BANDS
            own = torch.arange(tokens, device=fbank.device) < counts[:, None]
        return self.encode(fbank, own)[-1], own

    def encode(self, fbank: Tensor, own: Tensor) -> list[Tensor]:
        """Return the input of the first layer and the output of every layer, ``(B, N, D)`` each.

        Args:
            fbank: ``(B, M, 128)``.
            own: ``(B, N)``, False in padding.

        Raises:
            ValueError: If the frames of a clip fill no patch, or the filter bank does not have 128 bins.
        """
        if fbank.shape[-1] != FBANK_BINS or not own.shape[1] or not bool(own[:, 0].all()):
            raise ValueError(
                f"a filter bank of shape {tuple(fbank.shape)} has a clip without a token; each needs at "
                f"least {PATCH} frames of {FBANK_BINS} bins (0.175 s)"
            )
        x = self.projected(self.patches(fbank))
        whole = bool(own.all())
        if not whole:
            x = x * own[..., None]
        encoder = self.encoder
        position: Any = encoder.pos_conv[0]
        x = encoder.layer_norm(x + functional.gelu(position(x)))
        hidden = None if whole else torch.zeros_like(own, dtype=x.dtype).masked_fill(~own, -math.inf)
        mask = None if hidden is None else hidden[:, None, None]
        bias: Tensor | None = None
        states = [x]
        for layer in encoder.layers:
            x, bias = layer(x, bias, mask)
            states.append(x)
        return states

    def patches(self, fbank: Tensor) -> Tensor:
        """Return normalised patches ``(B, N, embed_dim)``, in the order of time."""
        weight = self.patch_embedding.weight
        cells = self.patch_embedding(fbank[:, None].to(weight.dtype))  # (B, E, M / 16, 8)
        out: Tensor = self.layer_norm(cells.flatten(2).transpose(1, 2))
        return out

    def projected(self, patches: Tensor) -> Tensor:
        """Return the patches, projected to the width of the layers if it is another one."""
        return patches if self.post_extract_proj is None else self.post_extract_proj(patches)


def distance_buckets(distance: Tensor, buckets: int, longest: int) -> Tensor:
    """Return the bucket of each distance between two tokens.

    Each small distance has its own bucket; large distances are sorted by their logarithm.

    Args:
        distance: Position of the key minus position of the query, int64 of any shape.
        buckets: Number of buckets; half of them are for positive distances.
        longest: Distance from which on all distances are in the last bucket.
    """
    half = buckets // 2
    near = half // 2
    size = distance.abs()
    # The clamp changes only distance 0, for which the near branch is used; it avoids the logarithm of 0.
    ratio = torch.log(size.clamp(min=1).float() / near) / math.log(longest / near)
    far = (near + (ratio * (half - near)).long()).clamp(max=half - 1)
    return torch.where(size < near, size, far) + half * (distance > 0)
