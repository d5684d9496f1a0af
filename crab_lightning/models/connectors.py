"""Connectors: encoder features to tokens in the language model's width.

Sources: Q-Former of BLIP-2 (arXiv:2301.12597) in transformers' class; windows as in SALMONN
(arXiv:2310.13289); sizes of Crab+ (arXiv:2603.04128, section 5.3).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn import functional
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from crab_lightning.adapters.names import unwrapped_name
from crab_lightning.files import replace_file
from crab_lightning.tensor_files import misfits

ConnectorKind = Literal["qformer", "window_qformer"]
BEATS_TOKENS_PER_S = 50
WINDOW_S = 0.3333
WINDOW_TOKENS = round(BEATS_TOKENS_PER_S * WINDOW_S)
"""Encoder tokens that one token of the window-level Q-Former stands for: 17, so that 30 s give 88."""


@dataclass(frozen=True)
class ConnectorConfig:
    """Sizes of a connector.

    Args:
        kind: ``qformer`` turns each frame or segment into ``queries`` tokens; ``window_qformer`` turns each
            window of ``window_tokens`` encoder tokens into ``queries``.
        queries: Number K of trained queries.
        hidden: Width of the Q-Former; the default is that of BERT-base.
        layers: Number of its layers, each with cross-attention.
        heads: Its heads.
        ffn: Width inside its feed-forward layers.
        dropout: Dropout probability of activations in training.
        window_tokens: Number of encoder tokens in a window; 17 are 0.33 s of BEATs.

    Raises:
        ValueError: If a size is below 1, or the heads do not divide the width.
    """

    kind: ConnectorKind = "qformer"
    queries: int = 32
    hidden: int = 768
    layers: int = 2
    heads: int = 12
    ffn: int = 3072
    dropout: float = 0.1
    window_tokens: int = WINDOW_TOKENS

    def __post_init__(self) -> None:
        if self.kind not in ("qformer", "window_qformer"):
            raise ValueError(f"connector.kind is {self.kind!r}; known: qformer, window_qformer")
        for name in ("queries", "hidden", "layers", "heads", "ffn", "window_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"connector.{name} is {getattr(self, name)}; it must be at least 1")
        if self.hidden % self.heads:
            raise ValueError(
                f"connector.hidden is {self.hidden}; it must be a multiple of {self.heads} heads"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"connector.dropout is {self.dropout}; it must be at least 0 and below 1")

    def tokens(self, encoder_tokens: int) -> int:
        """Return the number of language-model tokens of a frame, segment or clip."""
        if self.kind == "qformer":
            return self.queries
        return max(1, encoder_tokens // self.window_tokens) * self.queries


class Connector(nn.Module):
    """LayerNorm, Q-Former, and a projection of two layers.

    Args:
        config: Its sizes.
        encoder_width: Width E of the encoder's features.
        width: Width D of the language model.
        encoder: Name of the encoder's class.
        cut: Features that are a group, where the encoder reads a clip as a whole; ``None`` where each of its
            rows is one.

    Shapes: G frames, segments or windows, N encoder tokens of each, K queries.
    """

    def __init__(
        self,
        config: ConnectorConfig,
        encoder_width: int,
        width: int,
        encoder: str = "",
        cut: int | None = None,
    ) -> None:
        super().__init__()
        self.config, self.encoder_width, self.width = config, encoder_width, width
        self.encoder, self.cut = encoder, cut
        self.norm = nn.LayerNorm(encoder_width)
        self.queries = nn.Parameter(torch.empty(1, config.queries, config.hidden).normal_(std=0.02))
        self.qformer: Any = Blip2QFormerModel(
            Blip2QFormerConfig(
                hidden_size=config.hidden,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                intermediate_size=config.ffn,
                encoder_hidden_size=encoder_width,
                cross_attention_frequency=1,
                hidden_dropout_prob=config.dropout,
                attention_probs_dropout_prob=config.dropout,
                layer_norm_eps=1e-12,
            )
        )
        self.projection = nn.Sequential(nn.Linear(config.hidden, width), nn.GELU(), nn.Linear(width, width))

    def queried(self, features: Tensor, own: Tensor | None = None) -> Tensor:
        """Return what the queries read out of each group, before the projection.

        Args:
            features: ``(G, N, E)``.
            own: ``(G, N)``, False at padding; ``None`` where nothing is padded.

        Returns:
            ``(G, K, hidden)``, in the connector's own type.
        """
        features = self.norm(features.to(self.norm.weight.dtype))
        found = self.qformer(
            query_embeds=self.queries.expand(len(features), -1, -1),
            encoder_hidden_states=features,
            encoder_attention_mask=None if own is None else own.long(),
        )
        states: Tensor = found.last_hidden_state
        return states

    def forward(self, features: Tensor, own: Tensor | None = None) -> Tensor:
        """Return the tokens of all groups in a row.

        Args:
            features: Of frames or segments ``(G, N, E)``; of clips, where they are cut here.
            own: ``(G, N)``, False at padding; ``None`` where nothing is padded.

        Returns:
            ``(tokens, D)``: ``G * K``, or as many windows as the clips' own tokens fill.

        Raises:
            ValueError: If the features have another width than the encoder says.
        """
        if features.shape[-1] != self.encoder_width:
            raise ValueError(
                f"{self.encoder}.features are {features.shape[-1]} wide, and {self.encoder}.width says "
                f"{self.encoder_width}. Correct one of the two"
            )
        if self.config.kind == "window_qformer":
            features, own = windows(features, own, self.config.window_tokens)
        elif self.cut is not None:
            features, own = windows(features, own, self.cut, keep_rest=True)
        tokens: Tensor = self.projection(self.queried(features, own))
        return tokens.flatten(0, 1)


def windows(
    features: Tensor, own: Tensor | None, size: int, *, keep_rest: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Cut each clip's own tokens into windows; a clip of less than one is padded.

    Args:
        features: ``(B, N, E)``.
        own: ``(B, N)``, True at each clip's first tokens; ``None`` where nothing is padded.
        size: Tokens in a window.
        keep_rest: Pad the rest behind the last whole window too; else it is dropped.

    Returns:
        Windows of all clips in order ``(G, size, E)``, and their mask, ``None`` where all of it is True.
    """
    counts = [features.shape[1]] * len(features) if own is None else own.sum(1).tolist()
    parts: list[Tensor] = []
    marks: list[Tensor] = []
    padded = False
    for clip, count in zip(features, counts, strict=True):
        length = max(1, -(-count // size) if keep_rest else count // size) * size
        kept = functional.pad(clip[: min(count, length)], (0, 0, 0, max(0, length - count)))
        parts.append(kept.view(-1, size, clip.shape[-1]))
        marks.append((torch.arange(length, device=clip.device) < max(1, count)).view(-1, size))
        padded |= count < length
    return torch.cat(parts), torch.cat(marks) if padded else None


_FORMAT = "crab_lightning.connector/1"
PUBLISHED_ENCODERS = {"visual": "ClipVision", "audio": "BeatsAudio"}
"""Encoders of the paper, which files that name none belong to."""


class ConnectorFileError(ValueError):
    """A file that holds no connector, or another one than the model's."""


def connector_state(connector: Connector) -> dict[str, Tensor]:
    """Return a connector's weights on the CPU; sharded ones are gathered, so every rank has to call this."""
    state = {unwrapped_name(name): weight for name, weight in connector.named_parameters()}
    return {
        name: (v.full_tensor() if isinstance(v, DTensor) else v).detach().cpu().contiguous()
        for name, v in state.items()
    }


def save_connector(state: dict[str, Tensor], connector: Connector, modality: str, path: Path) -> None:
    """Write a connector.

    Args:
        state: Its weights, as ``connector_state`` returns them.
        connector: Gives the sizes that are written beside them.
        modality: ``visual`` or ``audio``.
        path: File to write; complete or absent, never half.
    """
    header = {"format": _FORMAT, "connector": json.dumps(_identity(connector, modality))}
    replace_file(path, lambda temporary: save_file(state, temporary, metadata=header))


def load_connector(connector: Connector, modality: str, path: Path, key: str) -> None:
    """Load a connector in place.

    Args:
        connector: Is given the weights.
        modality: ``visual`` or ``audio``.
        path: As written by ``save_connector``.
        key: Config key that named the file, for messages.

    Raises:
        FileNotFoundError: If there is no such file.
        ConnectorFileError: If it is of another kind or size, or its weights are not exactly the connector's.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{key} is {path}, which does not exist. Train the connector first (stage 1), or name the "
            "connector file of a stage 1 run"
        )
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as err:
        raise ConnectorFileError(f"{key}: {path} cannot be read: {err}") from err
    if header.get("format") != _FORMAT:
        raise ConnectorFileError(
            f"{key}: {path} is not a connector file: its format is {header.get('format')!r}"
        )
    found, own = json.loads(header["connector"]), _identity(connector, modality)
    found.setdefault("encoder", PUBLISHED_ENCODERS[modality])
    if other := [f"{k} is {found.get(k)!r}, the model has {own[k]!r}" for k in own if found.get(k) != own[k]]:
        raise ConnectorFileError(
            f"{key}: {path} is not this model's {modality} connector: {'; '.join(other)}"
        )
    wanted = connector.state_dict()
    if problems := misfits(state, {name: weight.shape for name, weight in wanted.items()}):
        raise ConnectorFileError(f"{key}: {path} does not fit; of its weights, {problems}")
    with torch.no_grad():
        for name, own_value in wanted.items():
            value: Any = state[name].to(own_value.device, own_value.dtype)
            if isinstance(own_value, DTensor):
                value = distribute_tensor(value, own_value.device_mesh, own_value.placements)
            own_value.copy_(value)


def _identity(connector: Connector, modality: str) -> dict[str, Any]:
    sizes = {k: v for k, v in asdict(connector.config).items() if k != "dropout"}  # acts in training only
    if connector.config.kind == "qformer":
        del sizes["window_tokens"]
    encoder = connector.encoder or PUBLISHED_ENCODERS[modality]
    widths = {"encoder_width": connector.encoder_width, "width": connector.width}
    return {"modality": modality, "encoder": encoder} | widths | sizes
