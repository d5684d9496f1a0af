"""Question answering: accuracy overall and by group of questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from crab_lightning.metrics.base import BenchmarkMetric


def _key(group: str) -> str:
    return "accuracy_" + group.lower().replace("/", "_").replace("-", "_").replace(" ", "_")


class GroupedAccuracy(BenchmarkMetric):
    """Fraction of right answers over all questions and in each group, in [0, 1]; higher is better.

    Each value is the number of right answers divided by the number of questions, also for several groups
    together. A group without questions has NaN (the official code divides by zero). A question of group -1
    counts only in the overall accuracy.

    Args:
        groups: Names of the groups; the index of a group is its position in this list.
        rollups: Further name -> groups that are scored together under this name.

    Raises:
        ValueError: If a name occurs twice, or ``rollups`` has an unknown group.
    """

    right: Tensor
    questions: Tensor

    def __init__(self, groups: Sequence[str], rollups: Mapping[str, Sequence[str]] | None = None) -> None:
        super().__init__()
        self.groups = tuple(groups)
        rollups = rollups or {}
        keys = [_key(name) for name in (*self.groups, *rollups)]
        if len(set(keys)) != len(keys):
            raise ValueError(f"groups and rollups give the metric keys {keys}; each must occur only once")
        self.rollups = {name: tuple(self.index(member) for member in rollups[name]) for name in rollups}
        self.add_sum("right", len(self.groups) + 1)
        self.add_sum("questions", len(self.groups) + 1)

    def index(self, group: str) -> int:
        """Return the index of a group.

        Raises:
            ValueError: If there is no group of this name.
        """
        if group not in self.groups:
            raise ValueError(f"there is no question group '{group}'; known: {', '.join(self.groups)}")
        return self.groups.index(group)

    def update(self, correct: Tensor, group: Tensor) -> None:
        """Add N questions.

        Args:
            correct: Whether each answer is right, bool ``(N,)``.
            group: Index of each question's group ``(N,)``; -1 for a question without a group.

        Raises:
            ValueError: If lengths differ, or an index is out of range.
        """
        correct, group = correct.reshape(-1).bool(), group.reshape(-1).to(torch.int64)
        count = len(self.groups)
        if correct.shape != group.shape:
            raise ValueError(
                f"there are {correct.numel()} answers, but {group.numel()} group indices; they need the same "
                "number"
            )
        if group.numel() and (int(group.min()) < -1 or int(group.max()) >= count):
            raise ValueError(
                f"the group indices are from {int(group.min())} to {int(group.max())}; "
                f"allowed are -1 to {count - 1}"
            )
        slot = torch.where(group < 0, count, group)
        self.questions += torch.bincount(slot, minlength=count + 1)
        self.right += torch.bincount(slot[correct], minlength=count + 1)

    def compute(self) -> dict[str, Tensor]:
        """Return ``accuracy``, and ``accuracy_<name>`` for each name of ``rollups`` and each group."""
        right, questions = self.right.to(torch.float64), self.questions
        share = {"accuracy": right.sum() / questions.sum()}
        for name, members in self.rollups.items():
            share[_key(name)] = right[list(members)].sum() / questions[list(members)].sum()
        for i, name in enumerate(self.groups):
            share[_key(name)] = right[i] / questions[i]
        return share


class MusicAVQAAccuracy(GroupedAccuracy):
    """MUSIC-AVQA accuracy: overall, by modality and by type, in [0, 1]; higher is better.

    The groups have names ``<modality>/<type>``, such as ``Audio-Visual/Temporal``.

    Source: ``test`` in GeWu-Lab/MUSIC-AVQA net_grd_avst/main_avst.py.
    """

    TYPES = (
        "Audio/Counting",
        "Audio/Comparative",
        "Visual/Counting",
        "Visual/Location",
        "Audio-Visual/Existential",
        "Audio-Visual/Counting",
        "Audio-Visual/Location",
        "Audio-Visual/Comparative",
        "Audio-Visual/Temporal",
    )

    def __init__(self) -> None:
        modalities = dict.fromkeys(name.split("/")[0] for name in self.TYPES)
        super().__init__(self.TYPES, {m: [t for t in self.TYPES if t.split("/")[0] == m] for m in modalities})


class AVQAAccuracy(GroupedAccuracy):
    """AVQA accuracy: overall and by question type, in [0, 1]; higher is better.

    The paper mentions nine types, but the official code has eight; use -1 for a question of another type.

    Source: ``validate`` in AlyssaYoung/AVQA HAVF/hcrn_havf/validate.py.
    """

    TYPES = ("Which", "Come From", "Happening", "Where", "Why", "Before Next", "When", "Used For")

    def __init__(self) -> None:
        super().__init__(self.TYPES)
