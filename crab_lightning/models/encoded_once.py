"""Encodes each video, picture and sound of prompts only once, if several questions are about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from crab_lightning.models.patches import PatchProduct
from crab_lightning.processing.geometry import audio_tokens

PIECE = 8192
"""Number of patches or mel frames that are encoded together: enough for a GPU, with little memory."""

_EVERY = 1009
"""Every 1009th value of two media is compared first, and only then all values."""


@dataclass(eq=False)
class _Medium:
    """The encoder input of a video, a picture or a sound."""

    values: Tensor  # (P, K) patches or (M, mel) frames
    grid: list[int]  # numbers of patches in time, height and width, or the number of mel frames

    def __post_init__(self) -> None:
        self.hint: list[float] = self.values.flatten()[::_EVERY].tolist()

    def is_like(self, other: _Medium) -> bool:
        """Return whether both media are equal, so that they have the same features."""
        return self.grid == other.grid and self.hint == other.hint and torch.equal(self.values, other.values)


@dataclass(eq=False)
class _Tower:
    """One encoder of the model, and the last medium that it encoded, with the features ``(N, E)`` of it."""

    module: Any
    latest: tuple[_Medium, Tensor] | None = None

    def features(
        self,
        media: Sequence[tuple[Tensor, list[int]]],
        tokens: Sequence[int],
        encode: Callable[[int, int], Tensor],
    ) -> Tensor:
        """Return the features of all media, one after the other; ``tokens`` has their numbers of features.

        ``encode`` returns the features of the media from a first number to before a second.
        """
        known = [] if self.latest is None else [self.latest[0]]
        found = [] if self.latest is None else [self.latest[1]]
        places, new = [], []
        for number, (values, grid) in enumerate(media):
            medium = _Medium(values, grid)
            place = next((i for i, other in enumerate(known) if medium.is_like(other)), len(known))
            places.append(place)
            if place == len(known):
                known.append(medium)
                new.append(number)
        for first, behind in _pieces(new, [len(values) for values, _ in media]):
            found += torch.split(encode(first, behind), list(tokens[first:behind]))
        last = known[places[-1]]
        self.latest = (_Medium(last.values.clone(), last.grid), found[places[-1]].clone())
        return torch.cat([found[place] for place in places])


class EncodedOnce:
    """Makes the encoders of Qwen2.5 encode equal media only once.

    The features of the last medium of a batch are kept for the next batch.

    Args:
        model: The model, in evaluation mode; its weights must not change.
    """

    def __init__(self, model: nn.Module) -> None:
        seeing = [m for m in model.modules() if isinstance(_first_layer(m), PatchProduct)]
        hearing = [m for m in model.modules() if type(m).__name__ == "Qwen2_5OmniAudioEncoder"]
        self.seeing, self.hearing = list(map(_Tower, seeing)), list(map(_Tower, hearing))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Encode equal media only once while the context is open."""
        with ExitStack() as stack:
            for towers, stands_for in ((self.seeing, _seen), (self.hearing, _heard)):
                for tower in towers:
                    stack.enter_context(forward_as(tower.module, stands_for(tower, tower.module.forward)))
            yield


@contextmanager
def forward_as(module: Any, forward: Callable[..., Any]) -> Iterator[None]:
    """Replace the ``forward`` of a module while the context is open.

    Args:
        module: The module.
        forward: The function that is called instead.
    """
    before = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if before is not None:
            module.forward = before


def _first_layer(module: Any) -> Any:
    return getattr(getattr(module, "patch_embed", None), "proj", None)


def _seen(tower: _Tower, own: Callable[..., Any]) -> Callable[..., BaseModelOutputWithPooling]:
    """Return a replacement for the forward of an encoder of videos and pictures."""

    def forward(hidden_states: Tensor, grid_thw: Tensor, **options: Any) -> BaseModelOutputWithPooling:
        grids = grid_thw.tolist()
        counts = [t * h * w for t, h, w in grids]
        starts = list(accumulate(counts, initial=0))

        def encode(first: int, behind: int) -> Tensor:
            rows = hidden_states[starts[first] : starts[behind]]
            found: Tensor = own(rows, grid_thw=grid_thw[first:behind], **options).pooler_output
            return found

        media = list(zip(torch.split(hidden_states, counts), grids, strict=True))
        tokens = [count // tower.module.spatial_merge_size**2 for count in counts]
        return BaseModelOutputWithPooling(pooler_output=tower.features(media, tokens, encode))

    return forward


def _heard(tower: _Tower, own: Callable[..., Any]) -> Callable[..., BaseModelOutputWithPooling]:
    """Return a replacement for the forward of the encoder of sounds."""

    def forward(
        input_features: Tensor, feature_lens: Tensor, aftercnn_lens: Tensor, **options: Any
    ) -> BaseModelOutputWithPooling:
        counts = feature_lens.tolist()
        starts = list(accumulate(counts, initial=0))

        def encode(first: int, behind: int) -> Tensor:
            found: Tensor = own(
                input_features[:, starts[first] : starts[behind]],
                feature_lens=feature_lens[first:behind],
                aftercnn_lens=aftercnn_lens[first:behind],
                **options,
            ).last_hidden_state
            return found

        media = [(part.t(), [len(part.t())]) for part in torch.split(input_features, counts, 1)]
        features = tower.features(media, list(map(audio_tokens, counts)), encode)
        return BaseModelOutputWithPooling(last_hidden_state=features, pooler_output=features)

    return forward


def _pieces(new: Sequence[int], sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the first number and the number after the last of each group of media to encode together."""
    if not new:
        return
    first, total = new[0], sizes[new[0]]
    for before, number in pairwise(new):
        if number != before + 1 or total + sizes[number] > PIECE:
            yield first, before + 1
            first, total = number, 0
        total += sizes[number]
    yield first, new[-1] + 1
