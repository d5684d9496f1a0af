"""The report of a study: tables, pictures, one page, and TensorBoard events."""

from __future__ import annotations

import base64
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from crab_lightning import __version__
from crab_lightning.files import read_json, replace_bytes, replace_json, replace_text
from crab_lightning.metrics.scale import PERCENT
from crab_lightning.reports.runs import FinishedRun
from crab_lightning.reports.tables import PlainTable, to_csv, to_latex, to_markdown, to_text
from crab_lightning.studies import figures, tables
from crab_lightning.studies.cells import CellState
from crab_lightning.studies.conflicts import ArmConflict, PairTransfer, arm_conflicts, pair_transfers
from crab_lightning.studies.runner import FinishedCells
from crab_lightning.studies.significance import TIE
from crab_lightning.studies.statistics import primary_of
from crab_lightning.studies.study import Study
from crab_lightning.studies.transfer import LEVEL, ArmTransfer, DatasetTransfer, Resampling, arm_transfer


@dataclass(frozen=True)
class StudyResults:
    """The results of a study.

    Args:
        study: The study.
        transfers: Transfer of every arm that has finished cells under both regimes.
        deviations: For each arm except the first, the datasets under the joint regime, compared with the
            first arm.
        coverage: For each arm, fractions of the datasets: ``best`` (this arm alone is the best), ``tied``
            (together with others), and, if it is known, ``gain`` (better than trained alone).
        conflicts: Gradient conflict of every arm that measured it.
        pairs: Transfer between pairs of datasets.
        unfinished: The states of the cells that are not finished or are damaged, by the name of the cell.
    """

    study: Study
    transfers: tuple[ArmTransfer, ...]
    deviations: Mapping[str, tuple[DatasetTransfer, ...]]
    coverage: Mapping[str, Mapping[str, float]]
    conflicts: tuple[ArmConflict, ...]
    pairs: tuple[PairTransfer, ...]
    unfinished: Mapping[str, CellState]


def study_results(study: Study, *, resamples: int = 2000, seed: int = 0) -> StudyResults:
    """Compute the results of a study from its finished cells.

    Args:
        study: The study.
        resamples: Number of resamples of the bootstrap.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: If no two finished cells can be compared.
    """
    finished = FinishedCells(study)
    resampling = Resampling(resamples, seed)
    before, after = (partial(finished.of, regime) for regime in study.compare)
    trained = [{name for group in study.regimes.get(r, ()) for name in group} for r in study.compare]
    shared = [name for name in study.datasets if all(name in names for names in trained)]
    found = [arm_transfer(a, shared, study.seeds, before, after, resampling) for a in study.arms]
    transfers = [one for one in found if one is not None]
    first = next(iter(study.arms))
    joint = _joint(study)
    deviations = {}

    def of_first(arm: str, dataset: str, seed: int) -> FinishedRun | None:
        return finished.of(joint, first, dataset, seed)

    for arm in list(study.arms)[1:]:
        # The same comparison, with the first arm instead of the baseline.
        made = arm_transfer(
            arm, study.datasets, study.seeds, of_first, partial(finished.of, joint), resampling
        )
        if made is not None:
            deviations[arm] = made.rows
    pairs = pair_transfers(finished, resampling)
    if not transfers and not deviations and not pairs:
        counts = Counter(state.status for state in finished.states)
        said = ", ".join(f"{count} {status}" for status, count in counts.items())
        troubled = next(
            (s for s in finished.states if s.status in ("other settings", "damaged", "failed")), None
        )
        why = "" if troubled is None else f"; {troubled.cell.name}: {troubled.status}: {troubled.detail}"
        if len(counts) == 1 and counts["done"]:
            raise ValueError(
                f"{study.folder}: all {said}, and there is nothing to compare: the study has one arm, and not"
                f" both regimes {' and '.join(study.compare)}. Add an arm or a regime"
            )
        raise ValueError(f"{study.folder}: no two finished cells can be compared yet; cells: {said}{why}")
    return StudyResults(
        study,
        tuple(transfers),
        deviations,
        _coverage(finished, joint, transfers),
        tuple(arm_conflicts(finished, transfers)),
        tuple(pairs),
        {s.cell.name: s for s in finished.states if s.status != "done"},
    )


def _joint(study: Study) -> str:
    """Return the regime in which arms are compared with each other."""
    return study.compare[1] if study.compare[1] in study.regimes else next(iter(study.regimes))


def _coverage(
    finished: FinishedCells, regime: str, transfers: Sequence[ArmTransfer]
) -> dict[str, dict[str, float]]:
    """Return the share of the datasets on which each arm is the best under the joint regime."""
    study = finished.study
    wins = {arm: {"best": 0.0, "tied": 0.0} for arm in study.arms}
    known = 0
    for dataset in study.datasets:
        values: dict[str, dict[int, float]] = {arm: {} for arm in study.arms}
        for arm, seed in product(study.arms, study.seeds):
            run = finished.of(regime, arm, dataset, seed)
            primary = None if run is None else primary_of(run, dataset)
            if primary is not None:
                _, value, scale = primary
                values[arm][seed] = value if scale.higher_is_better else -value
        common = set.intersection(*(set(held) for held in values.values()))
        if not common:
            continue
        means = {arm: float(np.mean([held[seed] for seed in sorted(common)])) for arm, held in values.items()}
        known += 1
        top = [arm for arm, value in means.items() if value >= max(means.values()) - TIE]
        for arm in top:
            wins[arm]["best" if len(top) == 1 else "tied"] += 1
    if not known or len(study.arms) < 2:
        return {}
    shares = {arm: {key: count / known for key, count in row.items()} for arm, row in wins.items()}
    for one in transfers:
        shares[one.arm]["gain"] = one.shares.gain.value
    return shares


def report_tables(results: StudyResults) -> dict[str, PlainTable]:
    """Return the tables of a report by the names of their files, without an ending."""
    found: dict[str, PlainTable] = {}
    if results.transfers:
        found["shares"] = tables.shares_table(results.transfers)
        found |= {
            f"gains-{one.arm}": tables.gain_table(one, results.study.compare, results.study.names)
            for one in results.transfers
        }
    if results.deviations:
        first = next(iter(results.study.arms))
        found["arms"] = tables.deviation_table(first, results.deviations, _joint(results.study))
    if results.conflicts:
        found["conflict"] = tables.conflict_table(results.conflicts)
    if results.pairs:
        found["pairs"] = tables.pair_table(results.pairs)
    found["published"] = tables.published_table()
    for table in found.values():
        table.names = results.study.names
    return found


def report_figures(results: StudyResults) -> dict[str, Any]:
    """Return the matplotlib figures of a report by the names of their files, without an ending."""
    found: dict[str, Any] = {}
    names = results.study.names
    if results.transfers:
        found["gains"] = figures.gains_figure(results.transfers, names=names)
        if any(row.loss for one in results.transfers for row in one.rows):
            found["gains-loss"] = figures.gains_figure(results.transfers, "loss", names)
        found["shares"] = figures.shares_figure(results.transfers)
    if results.coverage:
        found["coverage"] = figures.coverage_figure(results.coverage, _joint(results.study))
    if results.deviations:
        rows = {
            arm: {names[row.dataset]: row.score.gain.value for row in held if row.scale.unit == PERCENT}
            for arm, held in results.deviations.items()
        }
        if any(rows.values()):
            found["deviation"] = figures.deviation_figure(
                rows, next(iter(results.study.arms)), _joint(results.study)
            )
    for one in results.conflicts:
        title = f"{one.arm}: cosine between the gradients of datasets, after step {one.step:,}"
        shown = [names.get(key, key) for key in one.datasets]
        found[f"conflict-{one.arm}"] = figures.conflict_figure(title, shown, one.maps)
        depths = {f"layer {depth}": table for depth, table in one.depths.items()}
        found[f"conflict-depth-{one.arm}"] = figures.conflict_figure(title, shown, depths)
    return found


def write_report(study: Study, out: Path, *, resamples: int = 2000, seed: int = 0) -> str:
    """Write the report of a study and return its tables as text.

    Args:
        study: The study.
        out: Folder for the files: the page ``index.html``, each table as CSV, LaTeX and Markdown, each
            picture as PNG, all numbers in ``gains.csv``, and TensorBoard events. Files of an earlier report
            that the new report does not have are removed.
        resamples: Number of resamples of the bootstrap.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: If no two finished cells can be compared, or if the record of an earlier report in ``out``
            cannot be read.
    """
    results = study_results(study, resamples=resamples, seed=seed)
    made = report_tables(results)
    forms = (("csv", to_csv), ("tex", to_latex), ("md", to_markdown))
    files = {f"{name}.{ending}": form(table) + "\n" for name, table in made.items() for ending, form in forms}
    files["gains.csv"] = tables.raw_csv(results.transfers)
    drawn = report_figures(results)
    pictures = {name: _png(figure) for name, figure in drawn.items()}
    files["index.html"] = _page(results, made, pictures, resamples, seed)
    for name, text in files.items():
        replace_text(out / name, text)
    for name, content in pictures.items():
        replace_bytes(out / f"{name}.png", content)
    written = {*files, *(f"{name}.png" for name in pictures), *_write_board(results, drawn, out)}
    _replace_earlier(out, written)
    return "\n\n".join([*_notes(results, resamples), *(to_text(table) for table in made.values())])


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def _replace_earlier(out: Path, names: set[str]) -> None:
    """Record the files of this report, and remove those files of an earlier report that it does not have."""
    record = out / "report.json"
    earlier = read_json(record, "Remove it", "files")["files"] if record.is_file() else []
    replace_json(record, {"files": sorted(names)})
    for name in set(earlier) - names:
        (out / Path(name).name).unlink(missing_ok=True)


def _notes(results: StudyResults, resamples: int) -> list[str]:
    """Return the notes that stand above the tables."""
    notes = []
    if results.unfinished:
        cells = ", ".join(f"{name} ({state.status})" for name, state in list(results.unfinished.items())[:8])
        more = "" if len(results.unfinished) <= 8 else f" and {len(results.unfinished) - 8} more"
        notes.append(
            f"{len(results.unfinished)} of {len(results.study.cells())} cells are left out, because they are"
            f" not finished or are damaged: {cells}{more}."
        )
    notes += [
        f"{name} is damaged: {state.detail}."
        for name, state in results.unfinished.items()
        if state.status == "damaged"
    ]
    compared = [one.rows for one in results.transfers] + list(results.deviations.values())
    seeds = {seed for rows in compared for row in rows for seed in row.score.seeds}
    if len(seeds) == 1:
        notes.append(
            f"All comparisons come from one seed ({min(seeds)}): their intervals do not contain the"
            " differences between seeds."
        )
    datasets = max(map(len, compared), default=0)
    if 2 * datasets >= LEVEL * (resamples + 1):  # the smallest p value, times Holm's first factor
        notes.append(
            f"With {resamples:,} resamples no gain or difference can be certain: {datasets} datasets need at"
            f" least {math.floor(2 * datasets / LEVEL):,}."
        )
    return notes


_ABOUT = {
    "shares": "Gain share, harmed share and net score of each arm",
    "gains": "Gain of each dataset in each arm, by score",
    "gains-loss": "Gain of each dataset in each arm, by validation loss",
    "coverage": "Share of the datasets in which each arm is the best",
    "deviation": "Difference of each arm from the first one, for each dataset",
}


_PARTS = (
    ("Does learning together help?", ("shares", "gains", "gains-loss"), ("shares", "gains-*")),
    ("Arms against each other", ("coverage", "deviation"), ("arms",)),
    ("Why: agreement of gradients", ("conflict-*",), ("conflict", "pairs")),
    ("In the paper", (), ("published",)),
)


def _page(
    results: StudyResults,
    made: Mapping[str, PlainTable],
    pictures: Mapping[str, bytes],
    resamples: int,
    seed: int,
) -> str:
    from fnmatch import fnmatchcase

    from crab_lightning.templates import render

    parts = []
    for title, images, names in _PARTS:
        shown = []
        for n in [n for pattern in images for n in pictures if fnmatchcase(n, pattern)]:
            about = _ABOUT.get(n, f"Cosine between the gradients of every two datasets: {n}")
            shown.append({"data": base64.b64encode(pictures[n]).decode(), "about": about})
        listed = [made[n] for pattern in names for n in made if fnmatchcase(n, pattern)]
        if shown or listed:
            parts.append({"title": title, "pictures": shown, "tables": listed})
    study = results.study
    facts = {
        "datasets": str(len(study.datasets)),
        "arms": ", ".join(study.arms),
        "seeds": ", ".join(map(str, study.seeds)),
        f"equal {study.equal[0]}": str(study.equal[1]),
        "bootstrap": f"{resamples:,} resamples, seed {seed}",
        "version": __version__,
    }
    return render(
        "studies/report.html.j2",
        title=f"Study {study.name}",
        facts=facts,
        notes=_notes(results, resamples),
        parts=parts,
    )


def _write_board(results: StudyResults, drawn: Mapping[str, Any], out: Path) -> set[str]:
    """Write the shares and the pictures for TensorBoard, and return the names of the files."""
    from torch.utils.tensorboard import SummaryWriter

    before = set(out.glob("events.out.tfevents.*"))
    with SummaryWriter(str(out)) as board:
        for one in results.transfers:
            for by, shares in (("score", one.shares), ("loss", one.loss_shares)):
                if shares is not None:
                    for name in ("gain", "harmed", "net"):
                        board.add_scalar(f"transfer/{one.arm}/{by}/{name}", getattr(shares, name).value)
        for name, figure in drawn.items():
            board.add_figure(f"study/{name}", figure)
    return {path.name for path in set(out.glob("events.out.tfevents.*")) - before}
