"""The interface of all processors, and functions that several of them use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from crab_lightning.processing.geometry import Geometry
from crab_lightning.processing.positions import PAD_POSITION
from crab_lightning.spelling import counted
from crab_lightning.structures import TEXT, Batch, Encoded, Example, Media

IGNORED_LABEL = -100


@runtime_checkable
class Processor(Protocol):
    """Turns examples into model inputs. It is copied to loader workers, so it has no weights."""

    geometry: Geometry

    @property
    def end_token(self) -> int:
        """Id of the token that ends an answer."""
        ...

    def encode(self, example: Example) -> Encoded:
        """Return one example as model inputs without padding, with labels if the example has a target."""
        ...

    def collate(self, items: Sequence[Encoded], repeated: Sequence[bool] | None = None) -> Batch:
        """Return a batch, which is padded on the right with labels, and on the left for prompts."""
        ...

    def decode(self, token_ids: Sequence[int] | Tensor) -> str:
        """Return the text of generated tokens, without special tokens and outer white space."""
        ...

    def answer_tokens(self, text: str) -> list[int]:
        """Return the tokens of an answer as in training, with the end token."""
        ...


def pad_rows(rows: Sequence[Tensor], value: int | float, *, left: bool) -> Tensor:
    """Stack tensors with different last dimensions.

    Args:
        rows: Tensors of shape ``(..., T_i)``.
        value: Value of the padding.
        left: Pad before the values instead of after them.

    Returns:
        ``(B, ..., max T_i)``.
    """
    width = max(row.shape[-1] for row in rows)
    out = torch.full((len(rows), *rows[0].shape[:-1], width), value, dtype=rows[0].dtype)
    for place, row in zip(out, rows, strict=True):
        length = row.shape[-1]
        if left:
            place[..., width - length :] = row
        else:
            place[..., :length] = row
    return out


def padded(items: Sequence[Encoded], pad_token: int) -> tuple[dict[str, Tensor], Tensor | None]:
    """Pad the inputs that have one value for each token: on the right with labels, on the left for prompts.

    Returns:
        ``input_ids`` and ``attention_mask``, and ``media_kind`` if the items have it, each ``(B, T)``;
        ``position_ids (3, B, T)`` if the items have it; and the labels ``(B, T)``, or ``None`` for prompts.

    Raises:
        ValueError: If only some items have labels.
    """
    left = not labels_present(items)
    ones = [torch.ones_like(item.inputs["input_ids"]) for item in items]
    inputs = {"attention_mask": pad_rows(ones, 0, left=left)}
    fillers = {"input_ids": pad_token, "media_kind": TEXT, "position_ids": PAD_POSITION}
    for key in fillers.keys() & items[0].inputs.keys():
        inputs[key] = pad_rows([item.inputs[key] for item in items], fillers[key], left=left)
    if "position_ids" in inputs:
        inputs["position_ids"] = inputs["position_ids"].transpose(0, 1)  # (3, B, T) is the model's order
    labels = [item.labels for item in items if item.labels is not None]
    return inputs, pad_rows(labels, IGNORED_LABEL, left=False) if labels else None


def concatenated(rows: Sequence[dict[str, Tensor]], keys: Sequence[str]) -> dict[str, Tensor]:
    """Return the tensors of several samples joined, for each key. A single tensor is not copied."""
    found = {key: [row[key] for row in rows if key in row] for key in keys}
    return {key: parts[0] if len(parts) == 1 else torch.cat(parts) for key, parts in found.items() if parts}


def batch_of(
    inputs: dict[str, Tensor],
    labels: Tensor | None,
    items: Sequence[Encoded],
    repeated: Sequence[bool] | None,
) -> Batch:
    """Return a batch of items. Without ``repeated``, no sample counts as repeated."""
    flags = list(repeated) if repeated is not None else [False] * len(items)
    return Batch(inputs, labels, [item.sample for item in items], flags)


def labels_present(items: Sequence[Encoded]) -> bool:
    """Return whether the items of a batch have labels.

    Raises:
        ValueError: If only some items have labels, because the two kinds are padded on different sides.
    """
    with_labels = sum(item.labels is not None for item in items)
    if with_labels not in (0, len(items)):
        bare = next(item.sample.id for item in items if item.labels is None)
        raise ValueError(
            f"collate got {counted(with_labels, 'example')} with a target and {len(items) - with_labels} "
            f"without (first: {bare}). Use separate batches for prompts, since these are padded on the other "
            "side."
        )
    return with_labels > 0


def check_reserved(where: str, texts: Sequence[str], reserved: Sequence[str]) -> None:
    """Check that no text contains a token which the model would read as markup.

    Args:
        where: Beginning of the message, such as the id of the sample.
        texts: The texts.
        reserved: The reserved tokens.

    Raises:
        ValueError: If a text contains such a token.
    """
    for text in texts:
        for token in reserved:
            if token in text:
                raise ValueError(
                    f"{where}: its text contains the reserved token {token!r}, which the model would read as "
                    "markup. Remove it from the text."
                )


def check_media(example: Example) -> None:
    """Check that a conversation has one placeholder for each clip.

    Raises:
        ValueError: If the numbers differ.
    """
    for media, clips in (
        (Media.VIDEO, example.videos),
        (Media.IMAGE, example.images),
        (Media.AUDIO, example.audios),
    ):
        places = sum(part is media for part in example.conversation)
        if places != len(clips):
            raise ValueError(
                f"{example.sample.id}: the prompt of data.tasks.{example.sample.task} has "
                f"{counted(places, 'placeholder')} for {media.value}, but {counted(len(clips), 'clip')} "
                f"{'was' if len(clips) == 1 else 'were'} given; give the dataset a task or a row format that "
                "fits its clips"
            )


def check_length(example: Example, tokens: int, max_length: int | None) -> None:
    """Check that an example is not longer than the limit.

    Raises:
        ValueError: If it has more than ``max_length`` tokens.
    """
    if max_length is not None and tokens > max_length:
        raise ValueError(
            f"{example.sample.id}: {tokens} tokens, more than max_length {max_length}. Raise max_length, or "
            "shorten the dataset's frames, audio window or targets."
        )
