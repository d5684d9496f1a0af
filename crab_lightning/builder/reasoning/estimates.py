"""Estimate the cost of reasoning texts without requesting any."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crab_lightning.builder.reasoning.journal import Shard, read_journals
from crab_lightning.builder.reasoning.questions import Settings
from crab_lightning.builder.reasoning.work import Work
from crab_lightning.structures import DatasetSpec, Sample
from crab_lightning.tasks.base import Task


@dataclass
class Estimate:
    """The estimated cost of the texts of one dataset.

    Args:
        dataset: Key of the dataset.
        requests: Number of rows that need a request.
        most_requests: Number of requests if every row needs all tries.
        prompt_tokens: Number of tokens that the model reads in ``requests``.
        completion_tokens: Number of tokens that the model writes in ``requests``.
        seconds: Time of ``requests`` in seconds.
        price: Price of ``requests``, in the currency of :class:`Costs`.
    """

    dataset: str
    requests: int
    most_requests: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    price: float


@dataclass(frozen=True)
class Costs:
    """The assumed cost of one request.

    Args:
        image_tokens: Number of tokens of one frame or picture.
        audio_tokens: Number of tokens of one second of sound.
        words: Number of words of one text, by length (``short``, ``full``).
        request_s: Time of one request in seconds.
        price_in: Price of a million tokens that the model reads.
        price_out: Price of a million tokens that the model writes.
    """

    image_tokens: float = 258.0
    audio_tokens: float = 32.0
    words: Mapping[str, float] = field(default_factory=lambda: {"short": 25.0, "full": 80.0})
    request_s: float = 4.0
    price_in: float = 0.0
    price_out: float = 0.0


TOKENS_A_WORD = 1.5
CHARACTERS_A_TOKEN = 4.0
_LOOKED_AT = 5


def estimate(
    root: Path,
    tasks: Mapping[str, Task[Any]],
    datasets: Mapping[str, DatasetSpec],
    writer: Mapping[str, Any],
    settings: Settings,
    costs: Costs,
    *,
    parallel: int,
    shard: Shard | None = None,
    limit: int | None = None,
) -> list[Estimate]:
    """Count the requests, and estimate tokens, time and price from a few rows of each dataset.

    Nothing is written.

    Args:
        root: Data root.
        tasks: The tasks, by key.
        datasets: The datasets, by key.
        writer: Settings of the writer, as :func:`writer_settings` returns them.
        settings: Settings of the requests.
        costs: Assumed cost of one request.
        parallel: Number of requests at the same time.
        shard: As for :func:`reason`.
        limit: As for :func:`reason`.

    Raises:
        ValueError: If a dataset cannot get texts, or if earlier decisions were made with other settings.
        OSError: Under the conditions of :class:`~crab_lightning.builder.reasoning.work.Work`, or if a media
            file cannot be read.
    """
    found = []
    for dataset, spec in datasets.items():
        work = Work(root, dataset, spec, tasks[spec.task], settings, writer)
        known = read_journals(work.state, work.header)
        rows = [s for s in work.part(shard)[:limit] if work.key_of(s) not in known]
        rows = [sample for sample in rows if work.length_of(sample) != "direct"]
        step = max(1, math.ceil(len(rows) / _LOOKED_AT))
        looked = [_tokens(work, sample, costs) for sample in rows[::step]]
        prompt = len(rows) * sum(tokens[0] for tokens in looked) / max(len(looked), 1)
        written = len(rows) * sum(tokens[1] for tokens in looked) / max(len(looked), 1)
        found.append(
            Estimate(
                dataset,
                len(rows),
                len(rows) * settings.tries,
                round(prompt),
                round(written),
                math.ceil(len(rows) / parallel) * costs.request_s,
                (prompt * costs.price_in + written * costs.price_out) / 1e6,
            )
        )
    return found


def _tokens(work: Work, sample: Sample, costs: Costs) -> tuple[float, float]:
    length = work.length_of(sample)
    assert length != "direct"
    question = work.question(sample)
    messages = work.prompts.messages(work.content(sample), work.told(question), length, None)
    tokens = len(messages[0]["content"]) / CHARACTERS_A_TOKEN
    for part in messages[1]["content"]:
        if part["type"] == "text":
            tokens += len(part["text"]) / CHARACTERS_A_TOKEN
        elif part["type"] == "input_audio":
            # 16 kHz, 16 bits, in base64
            tokens += len(part["input_audio"]["data"]) * 3 / 4 / 32_000 * costs.audio_tokens
        else:
            tokens += costs.image_tokens
    return tokens, costs.words[length] * TOKENS_A_WORD + len(question.answer) / CHARACTERS_A_TOKEN
