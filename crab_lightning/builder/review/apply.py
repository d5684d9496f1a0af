"""Apply the decisions of a review to the manifests: remove rejected rows, and write corrected texts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from crab_lightning.builder.reasoning.questions import target_key, with_classes
from crab_lightning.builder.review.store import ReviewStore, ReviewVerdict
from crab_lightning.data.manifests.files import load_rows, manifest_path, manifest_text
from crab_lightning.data.manifests.reader import read_manifest
from crab_lightning.files import digest_of, free_name, replace_bytes
from crab_lightning.structures import DatasetSpec, Sample
from crab_lightning.tasks.base import Task


def apply_verdicts(
    root: Path,
    tasks: Mapping[str, Task[Any]],
    datasets: Mapping[str, DatasetSpec],
    store: ReviewStore,
    reviewer: str | None = None,
) -> dict[str, Counter[str]]:
    """Write the manifests without the rejected rows and with the corrected texts.

    The original manifest is kept as ``train.before_review.json``, and later calls start from it. The task's
    parser has to read the answer of the row from a corrected text.

    Args:
        root: Data root.
        tasks: The tasks, by key.
        datasets: The datasets, by key.
        store: The review.
        reviewer: Name of the only reviewer whose decisions count; by default, those of all reviewers count.

    Returns:
        For each dataset with a decision, the number of decisions by kind.

    Raises:
        ValueError: If reviewers disagree about a row, if a manifest was changed after the review, if a
            manifest cannot be read, or if a corrected text does not contain the answer of its row. In these
            cases, nothing is written.
    """
    items = store.items()
    agreed: dict[int, ReviewVerdict] = {}
    for (number, name), verdict in store.verdicts().items():
        if reviewer is not None and name != reviewer:
            continue
        other = agreed.setdefault(number, verdict)
        if (other.kind, other.text) != (verdict.kind, verdict.text):
            raise ValueError(
                f"{other.reviewer} and {name} disagree about {items[number].id} ({other.kind} and "
                f"{verdict.kind}). Let one of them change the decision, or say with --reviewer whose "
                "decisions count"
            )
    planned: list[tuple[str, Path, bytes, Path, bytes]] = []
    counts: dict[str, Counter[str]] = {}
    for dataset in dict.fromkeys(items[number].dataset for number in sorted(agreed)):
        spec = datasets[dataset]
        path = manifest_path(root, dataset, spec, "train")
        kept = path.with_name(f"{path.stem}.before_review{path.suffix}")
        begun = kept.is_file() and store.fact(f"applied {dataset}") == digest_of(path)
        source = kept if begun else path
        key = target_key(spec, dataset)
        rows: list[dict[str, Any] | None] = list(load_rows(source, f"data.datasets.{dataset}", root))
        task = tasks[spec.task]
        samples: dict[int, Sample] = {}
        filled = spec
        counts[dataset] = Counter()
        for number, verdict in agreed.items():
            item = items[number]
            if item.dataset != dataset:
                continue
            row = rows[item.row] if item.row < len(rows) else None
            if row is None or row.get(key) != item.text:
                raise ValueError(
                    f"{path}: row {item.row} ({item.id}) no longer has the text that was reviewed. Start"
                    f" a new review with another --database"
                )
            counts[dataset][verdict.kind] += 1
            if verdict.kind == "reject":
                rows[item.row] = None
            elif verdict.kind == "correct":
                if not samples:
                    given = replace(spec, train_file=source.name)
                    read = read_manifest(root, dataset, given, "train", check_media=False)
                    samples, filled = {s.row: s for s in read}, with_classes(root, dataset, given, task, read)
                if problem := _problem(task, filled, samples[item.row], verdict.text):
                    raise ValueError(
                        f"{path}: row {item.row} ({item.id}): the text that {verdict.reviewer} has corrected "
                        f"cannot be used: {problem}. Nothing was written. Correct the text on the page once "
                        "more, or reject the row"
                    )
                rows[item.row] = row | {key: verdict.text}
        left = [row for row in rows if row is not None]
        content = manifest_text(path, left).encode()
        planned.append((dataset, path, content, kept, source.read_bytes()))
    for dataset, path, content, kept, before in planned:
        if kept.is_file() and kept.read_bytes() != before:  # the file of an earlier review is kept too
            kept.replace(free_name(kept))
        replace_bytes(kept, before)
        store.note_fact(f"applied {dataset}", hashlib.sha256(content).hexdigest())
        replace_bytes(path, content)
    return counts


def _problem(task: Task[Any], spec: DatasetSpec, sample: Sample, text: str) -> str:
    """Return the reason why a corrected text cannot be used; empty if it can be used."""
    # If the text itself is the annotation, as for captions, the corrected text is also the right answer.
    sample = replace(sample, target=text)
    found = task.parse(text, sample, spec)
    if found is None:
        return "its answer cannot be read"
    if found != task.truth(sample, spec):
        return f"its answer is not the right one; the row's answer is {task.direct(sample)!r}"
    return ""
