"""A small, balanced and repeatable part of a split, to generate answers for."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from crab_lightning.data.sampling.seeding import stable_hash


def balanced_subset(
    ids: Sequence[str], answers: Sequence[Hashable], count: int | None, seed: int
) -> list[int]:
    """Choose samples so that all answers are equally represented as far as there are enough of them.

    Answers are taken in turn, in an order and with samples that only the seed decides, so every validation
    scores the same samples. Where every answer is different (captions) the choice is a plain random one.

    Args:
        ids: Sample ids.
        answers: What each sample is balanced by.
        count: Samples to choose; all of them when ``None``.
        seed: Seed of the choice.

    Returns:
        Indices of the chosen samples, ascending.
    """
    if count is None or len(ids) <= count:
        return list(range(len(ids)))
    groups: dict[Hashable, list[int]] = {}
    for index in sorted(range(len(ids)), key=lambda i: stable_hash(seed, "subset", ids[i])):
        groups.setdefault(answers[index], []).append(index)
    turns = [(turn, index) for group in groups.values() for turn, index in enumerate(group)]
    # Sorting by turn alone is stable: within a turn the groups keep their seeded order.
    turns.sort(key=lambda pair: pair[0])
    return sorted(index for _, index in turns[:count])
