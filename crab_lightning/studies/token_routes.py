"""The routes of each token, and the pages that show which head works on which token."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crab_lightning.adapters import record_routes
from crab_lightning.processing.base import IGNORED_LABEL
from crab_lightning.structures import AUDIO, TEXT, VISUAL, Batch
from crab_lightning.templates import render

if TYPE_CHECKING:
    from crab_lightning.inference.answer import Answer
    from crab_lightning.inference.loading import TrainedRun
    from crab_lightning.inference.question import Question

MEDIA = {AUDIO: "sound", VISUAL: "pictures"}
COLOURS = ("0,114,178", "230,159,0", "0,158,115", "204,121,167", "86,180,233", "213,94,0", "120,120,120")
"""The colour of each head as red, green and blue, chosen for colour-blind readers too (Okabe and Ito)."""
_RARE, _BEST = 3, 20


@dataclass(frozen=True)
class TokenRoutes:
    """The routes of the T tokens of one sample in P routed layers with n heads.

    Args:
        pieces: Text of each token; empty for tokens of media.
        kinds: Kind of each token, ``TEXT``, ``VISUAL`` or ``AUDIO`` of ``structures``, ``(T,)``.
        answer: Whether each token belongs to the answer, ``(T,)``.
        routes: Share of each head, ``(P, T, n)``.
    """

    pieces: tuple[str, ...]
    kinds: NDArray[np.int64]
    answer: NDArray[np.bool_]
    routes: NDArray[np.float64]


def routed_pass(module: Any, batch: Batch) -> dict[str, Tensor]:
    """Run a batch once and return the routes of every routed layer of the language model.

    Args:
        module: An ``AVModule`` in evaluation mode.
        batch: Prompts, or examples with their target texts, on the device of the module.

    Returns:
        The routes ``(B, T, n)`` by the name of the layer.

    Raises:
        ValueError: If the model has no routed layer.
    """
    shape = batch.inputs["attention_mask"].shape
    if batch.labels is None:  # `losses` reads the whole sequence once and needs labels; the loss is not used
        labels = torch.full_like(batch.inputs["input_ids"], IGNORED_LABEL)
        labels[:, -1] = batch.inputs["input_ids"][:, -1]
        batch = replace(batch, labels=labels)
    module.announce(batch)
    with torch.no_grad(), record_routes(module.model) as found:
        module.losses(batch)
    # Leave out routed layers of an encoder: their sequences are not those of the language model.
    return {name: calls[0].float() for name, calls in found.items() if calls and calls[0].shape[:-1] == shape}


def token_routes(module: Any, batch: Batch, found: dict[str, Tensor]) -> list[TokenRoutes]:
    """Return the routes of every sample of a batch, without the padding.

    Args:
        module: The module that ran the batch.
        batch: The batch.
        found: The routes that :func:`routed_pass` returned.
    """
    places = module.places(batch)
    routes = torch.stack(list(found.values())).double().cpu()
    made = []
    for row in range(len(batch)):
        there = places.present[row].cpu()
        ids = batch.inputs["input_ids"][row].cpu()[there].tolist()
        learnt = torch.zeros_like(there) if batch.labels is None else batch.labels[row].cpu() != IGNORED_LABEL
        kinds = places.modality[row].cpu()[there].numpy()
        pieces = _pieces(module.processor, ids, kinds)
        made.append(TokenRoutes(pieces, kinds, learnt[there].numpy(), routes[:, row, there].numpy()))
    return made


def _pieces(processor: Any, ids: Sequence[int], kinds: NDArray[np.int64]) -> tuple[str, ...]:
    """Return the text of each token as it reads after the token before, including a joining space.

    Tokens of media have an empty text.
    """
    tokenizer = processor.tokenizer if hasattr(processor, "tokenizer") else processor.chat.tokenizer

    def text(some: Sequence[int]) -> str:
        return str(tokenizer.decode(some, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def piece(place: int) -> str:
        if kinds[place] != TEXT:
            return ""
        if place == 0 or kinds[place - 1] != TEXT:
            return text(ids[place : place + 1])
        return text(ids[place - 1 : place + 1])[len(text(ids[place - 1 : place])) :]

    return tuple(piece(place) for place in range(len(ids)))


def routes_of_answer(run: TrainedRun, question: Question, text: str) -> tuple[TokenRoutes, list[str]]:
    """Return the routes of a question and its answer, and the names of the routed layers.

    The model reads the question and its own answer once more. This gives the routes that it had when it wrote
    the answer.

    Args:
        run: The run that answered.
        question: The question.
        text: The text that the model wrote.

    Raises:
        ValueError: If the model has no routed layer.
    """
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        sample = question.sample(run.data, Path(scratch))
        example = run.data.dataset([sample]).example(0)
    processor = run.data.processor
    encoded = processor.encode(replace(example, target=text, learn_replies=False))
    batch = processor.collate([encoded]).to(run.model.device)
    found = routed_pass(run.model, batch)
    return token_routes(run.model, batch, found)[0], list(found)


@dataclass
class TokenLikes:
    """Collects the mean route of each text token over many samples.

    Args:
        shown: Number of samples of each dataset whose text is kept for the page.
        texts: Title and routes of each sample that is kept; filled by :meth:`add`.
    """

    shown: int = 2
    texts: list[tuple[str, TokenRoutes]] = field(default_factory=list)
    _sums: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=dict)
    _kept: dict[str, int] = field(default_factory=dict)

    def add(self, title: str, dataset: str, found: TokenRoutes) -> None:
        """Add the routes of one sample.

        Args:
            title: Title of the sample on the page.
            dataset: Key of the dataset of the sample.
            found: Routes of the sample.
        """
        mean = found.routes.mean(0)
        for place in np.flatnonzero(found.kinds == TEXT):
            piece = found.pieces[place]
            self._sums[piece] = self._sums.get(piece, 0) + mean[place]
            self._counts[piece] = self._counts.get(piece, 0) + 1
        if self._kept.get(dataset, 0) < self.shown:
            self._kept[dataset] = self._kept.get(dataset, 0) + 1
            # Only the mean over the layers is drawn.
            self.texts.append((title, replace(found, routes=mean[None])))

    def mean(self) -> NDArray[np.float64]:
        """Return the mean route of all text tokens, ``(n,)``."""
        mean: NDArray[np.float64] = np.sum(list(self._sums.values()), axis=0) / sum(self._counts.values())
        return mean

    def best(self) -> list[list[dict[str, Any]]]:
        """Return for each head up to 20 tokens that it prefers.

        The preference of a head for a token is the mean route of the token to this head, divided by the mean
        route of all text tokens to this head, minus 1. Tokens that were seen fewer than three times are left
        out, unless all tokens were.

        Returns:
            For each head, ``{"token", "preference", "times"}`` of each token, the largest preference first.
        """
        often = [piece for piece, times in self._counts.items() if times >= _RARE] or list(self._counts)
        likes = np.stack([self._sums[p] / self._counts[p] for p in often]) / self.mean() - 1
        return [
            [
                {"token": often[i], "preference": float(likes[i, head]), "times": self._counts[often[i]]}
                for i in np.argsort(-likes[:, head], kind="stable")[:_BEST]
                if likes[i, head] > 0
            ]
            for head in range(likes.shape[1])
        ]


def answer_page(answer: Answer, found: TokenRoutes, names: Sequence[str], depths: Sequence[int]) -> str:
    """Return the HTML page that shows which head worked on which token of one answer.

    Args:
        answer: The answer.
        found: Routes of the question and the answer.
        names: Names of the routed layers.
        depths: Layer number of each routed layer; negative for a routed layer outside the decoder layers.
    """
    mean = found.routes.mean(0)
    base = mean.mean(0)
    said, asked = (_shaded(found, base, found.answer == is_answer) for is_answer in (True, False))
    masks = {"answer": found.answer, "question": ~found.answer & (found.kinds == TEXT)}
    masks |= {name: found.kinds == kind for kind, name in MEDIA.items()}
    shares = [
        {"name": name, "tokens": int(mask.sum()), "shares": mean[mask].mean(0).tolist()}
        for name, mask in masks.items()
        if mask.any()
    ]
    grid = []
    for depth in sorted(set(depths)):
        own = found.routes[[d == depth for d in depths]].mean(0)
        grid.append((f"layer {depth}" if depth >= 0 else "other layers", _marks(own[found.answer], base)))
    value = json.dumps(answer.value, ensure_ascii=False)
    facts = {
        "task": answer.task,
        "dataset": answer.dataset,
        "tokens of the answer": int(found.answer.sum()),
        "routed layers": len(names),
        "read as": "nothing, as it has no readable answer" if answer.value is None else value,
    }
    return render(
        "studies/token_routes.html.j2",
        title="Which head worked on which token",
        facts=facts,
        heads=_heads(base),
        shares=shares,
        parts=[("The answer", said), ("The question", asked)],
        grid=grid,
        pieces=[found.pieces[i] for i in np.flatnonzero(found.answer)],
        likes=[],
    )


def likes_page(likes: TokenLikes, title: str) -> str:
    """Return the HTML page of many samples: the tokens that each head prefers, and shaded texts.

    Args:
        likes: The collected routes.
        title: Title of the page.
    """
    base = likes.mean()
    return render(
        "studies/token_routes.html.j2",
        title=title,
        facts={"different text tokens": len(likes._counts), "text tokens": sum(likes._counts.values())},
        heads=_heads(base),
        shares=[],
        parts=[(name, _shaded(one, base, np.ones(len(one.pieces), bool))) for name, one in likes.texts],
        grid=[],
        pieces=[],
        likes=likes.best(),
    )


def _heads(base: NDArray[np.float64]) -> list[dict[str, Any]]:
    return [
        {"name": f"head {i + 1}", "colour": COLOURS[i % len(COLOURS)], "share": float(share)}
        for i, share in enumerate(base)
    ]


def _marks(routes: NDArray[np.float64], base: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Return colour, strength and title of tokens with the routes ``(T, n)``; the largest strength is 1."""
    likes = routes / base - 1
    strongest = max(float(likes.max(initial=0.0)), 1e-9)
    return [
        {
            "colour": COLOURS[int(row.argmax()) % len(COLOURS)],
            "strength": max(float(row.max()), 0.0) / strongest,
            "title": ", ".join(f"head {i + 1}: {100 * share:.1f} %" for i, share in enumerate(own)),
        }
        for row, own in zip(likes, routes, strict=True)
    ]


def _shaded(found: TokenRoutes, base: NDArray[np.float64], chosen: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Return the tokens with their shading, in order; neighbouring tokens of one medium are joined."""
    mean = found.routes.mean(0)
    places = np.flatnonzero(chosen)
    groups = []
    for kind, group in groupby(places, key=lambda place: int(found.kinds[place])):
        own = list(group)
        groups += [[place] for place in own] if kind == TEXT else [own]
    if not groups:
        return []
    marks = _marks(np.stack([mean[own].mean(0) for own in groups]), base)
    for own, mark in zip(groups, marks, strict=True):
        kind = int(found.kinds[own[0]])
        mark["medium"] = kind != TEXT
        mark["text"] = found.pieces[own[0]] if kind == TEXT else f"{MEDIA[kind]}, {len(own)} tokens"
    return marks
