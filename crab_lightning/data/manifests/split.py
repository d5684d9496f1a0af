"""Chooses the validation split from the training rows, by whole recordings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from crab_lightning.data.sampling.seeding import unit_hash
from crab_lightning.structures import Sample


@dataclass(frozen=True)
class Carve:
    """The choice of validation rows.

    Args:
        validation: For each dataset and each of its training rows, whether it is a validation row.
        unsplit: For each dataset with such rows, the number of rows that stay in training because questions
            about two clips connect their recordings to one large group.
    """

    validation: dict[str, list[bool]]
    unsplit: dict[str, int] = field(default_factory=dict)


def _groups(questions: Iterable[Sequence[str]]) -> dict[str, str]:
    """Return the name of the group of each clip; clips of one question have one group."""
    parent: dict[str, str] = {}

    def root(clip: str) -> str:
        parent.setdefault(clip, clip)
        while parent[clip] != clip:
            parent[clip] = parent[parent[clip]]  # shortens the way for later calls
            clip = parent[clip]
        return clip

    for clips in questions:
        # The smallest name is the root, so that the same clips always have the same group name.
        first, *others = sorted({root(clip) for clip in clips})
        parent.update(dict.fromkeys(others, first))
    return {clip: root(clip) for clip in parent}


def clips_of(sample: Sample) -> tuple[str, ...]:
    """Return the names of all recordings in a sample."""
    return sample.clips or (sample.clip,)


def carve_validation(rows: Mapping[str, Sequence[Sample]], val_share: float, seed: int) -> Carve:
    """Choose validation rows so that no recording is in training and in validation, also across datasets.

    Recordings that occur together in one question form a group, which is not divided. A hash of the seed and
    of the name of the group decides its split. So the choice does not depend on the order of rows, and for
    datasets with one clip in each question it does not depend on the other datasets.

    There are two exceptions. A dataset without training rows gets its group with the largest hash back, and a
    dataset without validation rows gives its group with the smallest hash, unless a dataset would then have
    no training rows. A group of more than ``max(8, val_share * clips)`` recordings, which many random pairs
    of few clips make, stays in training, because it may be most of a dataset.

    Args:
        rows: Training samples of each dataset.
        val_share: Fraction of the clips for validation, in [0, 1).
        seed: Seed of the hash.

    Returns:
        The split of every row.
    """
    group_of = _groups(clips_of(sample) for samples in rows.values() for sample in samples)
    sizes = Counter(group_of.values())
    largest = max(8, int(val_share * sum(sizes.values())))
    rank = {root: unit_hash(seed, "val", root) for root, size in sizes.items() if size <= largest}
    chosen = {root for root, value in rank.items() if value < val_share}

    where = {name: [group_of[clips_of(s)[0]] for s in samples] for name, samples in rows.items()}
    if val_share > 0:
        _serve_every_dataset({name: set(where[name]) for name in sorted(where)}, rank, chosen)
    unsplit = {name: sum(root not in rank for root in roots) for name, roots in where.items()}
    return Carve(
        validation={name: [root in chosen for root in roots] for name, roots in where.items()},
        unsplit={name: count for name, count in unsplit.items() if count},
    )


def _serve_every_dataset(groups: Mapping[str, set[str]], rank: Mapping[str, float], chosen: set[str]) -> None:
    """Move single groups until every dataset has training rows and, if possible, validation rows."""
    for here in groups.values():
        if here and here <= chosen:
            chosen.discard(max(here, key=rank.__getitem__))
    for here in groups.values():
        if not here & chosen:
            last = {next(iter(left)) for other in groups.values() if len(left := other - chosen) == 1}
            if free := sorted((here & rank.keys()) - last, key=rank.__getitem__):
                chosen.add(free[0])
