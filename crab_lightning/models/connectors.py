"""Connectors, which turn the features of an encoder into tokens of the language model's width.

Sources: the Q-Former is that of BLIP-2 (arXiv:2301.12597), in the class of transformers; the windows are
those of SALMONN (arXiv:2310.13289); the sizes are those of Crab+ (arXiv:2603.04128, section 5.3).
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
from torch.nn import functional
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from crab_lightning.adapters.checkpoint import fill, whole
from crab_lightning.adapters.names import unwrapped_name
from crab_lightning.files import replace_file
from crab_lightning.tensor_files import misfits

ConnectorKind = Literal["qformer", "window_qformer"]
BEATS_TOKENS_PER_S = 50
WINDOW_S = 0.3333
WINDOW_TOKENS = round(BEATS_TOKENS_PER_S * WINDOW_S)
"""Number of BEATs tokens in a window of the window-level Q-Former: 17, so that 30 s have 88 windows."""


@dataclass(frozen=True)
class ConnectorConfig:
    """Sizes of a connector.

    Args:
        kind: ``qformer`` turns each frame or segment into ``queries`` tokens; ``window_qformer`` turns each
            window of ``window_tokens`` encoder tokens into ``queries``.
        queries: Number K of trained queries.
        hidden: Width of the Q-Former; the default is that of BERT-base.
        layers: Number of layers of the Q-Former, each with cross-attention.
        heads: Number of attention heads of the Q-Former.
        ffn: Width inside the feed-forward layers of the Q-Former.
        dropout: Dropout probability of activations in training.
        window_tokens: Number of encoder tokens in a window; 17 are 0.33 s of BEATs.

    Raises:
        ValueError: If the kind is unknown, a size is below 1, ``hidden`` is not a multiple of ``heads``, or
            ``dropout`` is not in [0, 1).
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
        """Return the number of tokens that a frame or segment, or with windows a clip, gets.

        Args:
            encoder_tokens: Number of features of the clip; only windows depend on it.
        """
        if self.kind == "qformer":
            return self.queries
        return max(1, encoder_tokens // self.window_tokens) * self.queries


class Connector(nn.Module):
    """LayerNorm, Q-Former, and a projection of two layers.

    Args:
        config: Sizes of the connector.
        encoder_width: Width E of the encoder's features.
        width: Width D of the language model.
        encoder: Name of the encoder's class.
        cut: Number of features in a group, if the encoder reads a clip as a whole; ``None`` if each row of
            features is a group.

    Shapes: G groups (frames, segments or windows), N features of each group, K queries.
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
        """Return the output of the Q-Former for each group, before the projection.

        Args:
            features: ``(G, N, E)``.
            own: ``(G, N)``, False in padding; ``None`` without padding.

        Returns:
            ``(G, K, hidden)``, in the type of the connector's weights.
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
        """Return the tokens of all groups, one after the other.

        Args:
            features: ``(G, N, E)`` of frames or segments; ``(B, N, E)`` of clips, if windows or ``cut`` group
                them.
            own: ``(G, N)`` or ``(B, N)``, False in padding; ``None`` without padding.

        Returns:
            ``(tokens, D)``: K tokens for each group.

        Raises:
            ValueError: If the features have another width than the encoder says.
        """
        if features.shape[-1] != self.encoder_width:
            raise ValueError(
                f"{self.encoder}.features have the width {features.shape[-1]}, but {self.encoder}.width "
                f"returned {self.encoder_width}. Correct one of the two"
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
    """Cut the features of each clip into windows; a clip that is shorter than a window is padded.

    Args:
        features: ``(B, N, E)``.
        own: ``(B, N)``, False in padding at the end; ``None`` without padding.
        size: Number of features in a window.
        keep_rest: Pad the features after the last whole window to a window; otherwise they are dropped.

    Returns:
        The windows of all clips in order, ``(G, size, E)``, and a mask ``(G, size)``, False in padding;
        ``None`` without padding.
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
"""The encoders of the paper; connector files without the name of an encoder belong to these."""


class ConnectorFileError(ValueError):
    """A file does not hold a connector, or holds one that does not fit the model."""


def connector_state(connector: Connector) -> dict[str, Tensor]:
    """Return a connector's weights on the CPU.

    Sharded weights are gathered, so every rank has to call this function.
    """
    return {unwrapped_name(name): whole(w).cpu().contiguous() for name, w in connector.named_parameters()}


def save_connector(state: dict[str, Tensor], connector: Connector, modality: str, path: Path) -> None:
    """Write a connector to a file.

    Args:
        state: Weights of the connector, as ``connector_state`` returns them.
        connector: The connector; its sizes are also written.
        modality: ``visual`` or ``audio``.
        path: File to write. It is written under another name and then renamed, so it is never incomplete.
    """
    header = {"format": _FORMAT, "connector": json.dumps(_identity(connector, modality))}
    replace_file(path, lambda temporary: save_file(state, temporary, metadata=header))


def load_connector(connector: Connector, modality: str, path: Path, key: str) -> None:
    """Load the weights of a file into a connector.

    Args:
        connector: The connector that gets the weights.
        modality: ``visual`` or ``audio``.
        path: File that ``save_connector`` wrote.
        key: Config key with the file's name, for error messages.

    Raises:
        FileNotFoundError: If the file does not exist.
        ConnectorFileError: If the file cannot be read, or its connector has another kind, size, encoder or
            other weights.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{key} is {path}, which does not exist. Train the connector first (stage 1), or give the "
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
    fill(wanted, state)


def _identity(connector: Connector, modality: str) -> dict[str, Any]:
    sizes = {k: v for k, v in asdict(connector.config).items() if k != "dropout"}  # used only in training
    if connector.config.kind == "qformer":
        del sizes["window_tokens"]
    encoder = connector.encoder or PUBLISHED_ENCODERS[modality]
    widths = {"encoder_width": connector.encoder_width, "width": connector.width}
    return {"modality": modality, "encoder": encoder} | widths | sizes
