"""Checks whether the annotations of samples can be read, used for training and scored."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from crab_lightning.data.check.report import Problem
from crab_lightning.media import MediaError
from crab_lightning.spelling import counted
from crab_lightning.structures import DatasetSpec, Sample
from crab_lightning.tasks.base import NO_CLASS, Task, parse_answer, with_row


def readable_classes(
    task: Task[Any], samples: Sequence[Sample]
) -> tuple[list[str] | None, dict[str, list[Sample]]]:
    """Return the class names of the samples with a readable annotation, and the samples of each class."""
    holders: dict[str, list[Sample]] = defaultdict(list)
    kept: list[Sample] = []
    for sample in samples:
        try:
            names = task.class_names([sample])
        except ValueError:
            continue  # check_annotations reports it
        kept.append(sample)
        for name in names or ():
            holders[name].append(sample)
    return task.class_names(kept), holders


def check_closed_set(task: Task[Any], samples: Sequence[Sample]) -> Iterator[Problem]:
    """Yield the reasons why a dataset has no class names, although its task needs them."""
    found = False
    for sample in samples:
        try:
            task.class_names([sample])
        except ValueError as err:
            found = True
            yield _problem(sample, "annotation", with_row(sample, err))
    if samples and not found:
        yield _problem(samples[0], "classes", NO_CLASS)


def check_annotations(task: Task[Any], samples: Sequence[Sample], spec: DatasetSpec) -> Iterator[Problem]:
    """Yield the problems of the true answers and the target texts.

    Args:
        task: Task of the dataset.
        samples: Samples of the dataset.
        spec: Entry of the dataset in the config, with its class names filled in.
    """
    unknown = 0
    for sample in samples:
        try:
            truth = task.truth(sample, spec)
            unknown += truth is None
            written = sample.target
            if sample.target is not None or sample.split != "test":
                direct = task.target(sample, "direct")
                # Without a text, the target is the answer alone.
                written = direct if spec.target == "direct" else sample.target or direct
            answer = None if written is None else parse_answer(task, written, sample, spec)
        except ValueError as err:
            yield _problem(sample, "annotation", with_row(sample, err))
            continue
        for remark in task.remarks(sample):
            yield _problem(sample, "annotation", f"row {sample.row}: {remark}", level="warning")
        if written is None:
            continue
        if answer is None:
            # Without a true answer (coordinates that the released scripts reject), this is only a warning.
            name = type(task).__name__
            remedy = (
                "Correct its tags, or train with target: direct"
                if written == sample.target
                else f"Correct {name}.direct, which writes it, or {name}.parse"
            )
            yield _problem(
                sample,
                "grammar",
                f"row {sample.row}: no answer can be read from the target {_cut(written)}; a model "
                f"that writes exactly this would be scored as wrong. {remedy}",
                level="warning" if truth is None else "error",
            )
        elif truth is not None:
            # The score of the true answer is the reference: for a clip without events, even that is 0.
            try:
                score, best = (task.score(given, sample, spec) for given in (answer, truth))
            except MediaError as err:
                if sample.split != "test":  # the masks of test rows are files that are checked by themselves
                    yield _problem(sample, "mask", f"row {sample.row}: {err}")
                continue
            if score is not None and best is not None and score < best:
                of, made, true = type(task).__name__, type(answer).__name__, type(truth).__name__
                types = (
                    f"; {of}.parse returns a value of type {made}, and {of}.truth one of type {true}. If no"
                    " two of them are equal, let both return the same type"
                )
                yield _problem(
                    sample,
                    "contradiction",
                    f"row {sample.row}: the target {_cut(written)} gives "
                    f"{_cut(task.jsonable(answer))}, the annotation {_cut(task.jsonable(truth))}"
                    + ("" if made == true else types),
                    level="warning",
                )
    yield from _without_truth(task, samples, unknown)


def _without_truth(task: Task[Any], samples: Sequence[Sample], unknown: int) -> Iterator[Problem]:
    """Yield a warning if no training row has a true answer, as a ``truth`` without ``return`` causes."""
    if samples and unknown == len(samples) and samples[0].split != "test":
        yield _problem(
            samples[0],
            "annotation",
            f"{type(task).__name__}.truth returns None for all {unknown:,} rows, so there is no true answer"
            " to compare with, and no majority baseline",
            level="warning",
        )


def check_classes(dataset: str, holders: Mapping[str, Sequence[Sample]]) -> Iterator[Problem]:
    """Yield warnings about the class names of a dataset.

    Args:
        dataset: Key of the dataset.
        holders: Samples of each class, those for training first.
    """
    test = {name: samples for name, samples in holders.items() if samples[0].split == "test"}
    for name in sorted(test) if len(test) < len(holders) else ():
        yield Problem(
            "warning",
            "classes",
            dataset,
            "test",
            f"class {name!r} of {counted(len(test[name]), 'test row')} is in no training row, so it cannot "
            "be learnt. Check whether it has another spelling there",
            test[name][0].row,
        )
    spellings: dict[str, set[str]] = defaultdict(set)
    for name in holders:
        spellings["".join(c for c in name.casefold() if c.isalnum())].add(name)
    for names in spellings.values():
        if len(names) > 1:
            shown = ", ".join(map(repr, sorted(names)))
            yield Problem(
                "warning",
                "classes",
                dataset,
                "train",
                f"classes {shown} may be the same class; use one spelling",
            )


def _problem(sample: Sample, kind: str, message: str, level: Any = "error") -> Problem:
    split = "test" if sample.split == "test" else "train"
    return Problem(level, kind, sample.dataset, split, message, sample.row)


def _cut(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 100 else f"{shown[:60]} ... {shown[-35:]}"
