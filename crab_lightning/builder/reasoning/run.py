"""Request, check and store reasoning texts for the training rows of a data root, and write the manifests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from crab_lightning.builder.reasoning.journal import (
    Shard,
    Verdict,
    append_verdict,
    journal_name,
    read_journals,
)
from crab_lightning.builder.reasoning.questions import Settings
from crab_lightning.builder.reasoning.work import Work
from crab_lightning.builder.reasoning.writers import CachedWriter, Writer, WriterError
from crab_lightning.files import remove_cut_line
from crab_lightning.in_order import in_order
from crab_lightning.structures import DatasetSpec, Sample
from crab_lightning.tasks.base import Task

Progress = Callable[[str, int, int], None]

CACHE = "reasoning_cache"
"""Folder in the data root that contains every reply."""


@dataclass
class Report:
    """The outcome for one dataset.

    Args:
        dataset: Key of the dataset.
        manifest: The manifest that was written; ``None`` if the call was limited to a part of the rows.
        rows: Number of rows of this call.
        known: Number of rows that already had a decision.
        asked: Number of requests that were sent.
        kept: Number of texts by length.
        discarded: Number of rows without a text, by reason.
        rejected: Number of rejected tries, by reason.
        prompt_tokens: Number of tokens that the model has read for all rows.
        completion_tokens: Number of tokens that the model has written for all rows.
    """

    dataset: str
    manifest: Path | None = None
    rows: int = 0
    known: int = 0
    asked: int = 0
    kept: Counter[str] = field(default_factory=Counter)
    discarded: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0


def reason(
    root: Path,
    tasks: Mapping[str, Task[Any]],
    datasets: Mapping[str, DatasetSpec],
    writer: Writer,
    settings: Settings | None = None,
    *,
    shard: Shard | None = None,
    merge: bool = False,
    restart: bool = False,
    limit: int | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> list[Report]:
    """Let a model write reasoning texts for the training rows of some datasets.

    Each decision is appended to a file in ``<dataset folder>/reasoning/`` as soon as it is made, in the order
    of the rows. The manifest is written when every row has a decision. The same call continues a call that
    was stopped.

    Args:
        root: Data root.
        tasks: The tasks, by key.
        datasets: The datasets, by key.
        writer: The model that writes the texts.
        settings: Settings with which texts are requested and checked; by default, the default settings.
        shard: Process only the rows of this part ``(i, n)``, and do not write the manifest.
        merge: Whether to request nothing, and to write the manifests from the decisions of all shards.
        restart: Whether to move earlier decisions away; stored replies are used again.
        limit: Process only this number of rows of each dataset, and do not write the manifest.
        cache: Folder of the stored replies; by default, ``ROOT/reasoning_cache``.
        progress: Function that is called with the step, the number of finished rows and the number of rows.

    Returns:
        The outcome for each dataset.

    Raises:
        WriterError: If the writer cannot continue; the decisions so far are kept.
        JournalError: If earlier decisions were made with other settings, or if shards disagree.
        ValueError: If a dataset cannot get texts, if ``shard`` is out of its range, or if rows have no
            decision with ``merge``.
        OSError: Under the conditions of :class:`~crab_lightning.builder.reasoning.work.Work`.
    """
    settings = settings or Settings()
    if shard is not None and not 1 <= shard[0] <= shard[1]:
        raise ValueError(
            f"--shard is {shard[0]}/{shard[1]}; it goes from 1/{shard[1]} to {shard[1]}/{shard[1]}"
        )
    kept = CachedWriter(writer, root / CACHE if cache is None else cache)
    reports = []
    for dataset, spec in datasets.items():
        work = Work(root, dataset, spec, tasks[spec.task], settings, writer.settings)
        if restart:
            work.restart()
        known = read_journals(work.state, work.header)
        part = work.part(shard)[:limit]
        open_rows = [sample for sample in part if work.key_of(sample) not in known]
        if merge and open_rows:
            first = open_rows[0]
            raise ValueError(
                f"{work.state}: {len(open_rows):,} of {len(part):,} rows have no decision yet, first "
                f"{first.id} (row {first.row}). Copy the files {journal_name((1, 2))} and so on of all "
                "machines into this folder, or finish the shards"
            )
        report = Report(dataset, rows=len(part), known=len(part) - len(open_rows))
        before = kept.asked
        journal = work.state / journal_name(shard)
        remove_cut_line(journal)
        for done, verdict in enumerate(_decided(work, open_rows, kept), report.known + 1):
            append_verdict(journal, work.header, verdict)
            known[verdict.key] = verdict
            if progress is not None:
                progress(f"{dataset}: texts", done, len(part))
        report.asked = kept.asked - before
        _count(report, [known[work.key_of(sample)] for sample in part])
        if shard is None and limit is None:
            work.write(known)
            report.manifest = work.manifest
        reports.append(report)
    return reports


def _decided(work: Work, samples: Sequence[Sample], writer: Writer) -> Iterator[Verdict]:
    """Yield the decisions in the order of the rows; several rows are processed at the same time."""
    done = 0
    try:
        decide = partial(work.decide, writer=writer)
        for _, verdict in in_order(decide, samples, writer.parallel, 4 * writer.parallel):
            yield verdict
            done += 1
    except WriterError as err:
        raise WriterError(
            f"{err}\n{done:,} of {len(samples):,} open rows of {work.dataset} have a decision in "
            f"{work.state}; start the same command again to continue"
        ) from err


def _count(report: Report, verdicts: Sequence[Verdict]) -> None:
    for verdict in verdicts:
        report.prompt_tokens += verdict.prompt_tokens
        report.completion_tokens += verdict.completion_tokens
        if verdict.text is None:
            report.discarded[verdict.kind] += 1
        else:
            report.kept[verdict.length] += 1
        for one in verdict.reasons:
            report.rejected[one.split(":")[0]] += 1
