"""The tables of the report of a study."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence

from crab_lightning.metrics.scale import PERCENT, units_said
from crab_lightning.reports.tables import INTERVAL, IntervalCell, PlainTable, named, percent, signed
from crab_lightning.studies.conflicts import ArmConflict, Correlation, PairTransfer
from crab_lightning.studies.transfer import ArmTransfer, Comparison, DatasetTransfer, Estimate, Shares

PUBLISHED = (
    ("LoRA, two models (Figure 1, section 1)", "tasks that are harmed", "55 to 56 %"),
    ("LoRA (section 5.4)", "gain share / net score", "45 % / −10 %"),
    ("I-LoRA with reasoning, three models (Figure 6, section 5.4)", "gain share / net score", "94 % / +88 %"),
    ("I-LoRA against LoRA (Figure 10, section 5.4)", "tasks in which it is best", "65 to 76 %"),
    ("5 heads instead of 3, LLaMA 2 (Figure 11, section 5.4)", "total average deviation", "4.6 %"),
    ("other numbers of heads, Qwen2.5-Omni (Figure 11, section 5.4)", "total average deviation", "1.6 %"),
)
"""The values of figures that the text of the Crab+ paper (arXiv:2603.04128) states."""


def published_table() -> PlainTable:
    """Return the table of the values that the text of the paper states; its figures show no other numbers."""
    table = PlainTable("Printed in the Crab+ paper (arXiv:2603.04128)", ["setting", "quantity", "value"])
    for row in PUBLISHED:
        table.add(row)
    table.notes.append(
        "These figures are of 7B models on real data. They cannot be compared with runs on synthetic data."
    )
    return table


def gain_table(arm: ArmTransfer, regimes: tuple[str, str], names: Mapping[str, str]) -> PlainTable:
    """Return the table of the gains of an arm, with a row for each dataset.

    Args:
        arm: The measured gains of the arm.
        regimes: Names of the baseline and of the other regime.
        names: Names of the datasets by key, for the notes.
    """
    columns = ["dataset", "metric", *regimes, f"gain{INTERVAL}", "p (Holm)", "questions"]
    columns += [
        f"loss {regimes[0]}",
        f"loss {regimes[1]}",
        f"loss gain{INTERVAL}",
        "p loss (Holm)",
        "samples",
    ]
    units = units_said(row.scale.unit for row in arm.rows)
    title = f"{arm.arm}: {units}, validation loss in nats per target token"
    table = PlainTable(title, columns)
    for row in arm.rows:
        text, score, loss = row.scale.text, row.score, row.loss
        cells = [row.dataset, row.scale.label(row.metric), text(score.before), text(score.after)]
        cells += [score_gain(row) + _mark(table, score.note), _p(score.gain), str(score.questions or "–")]
        if loss is None:
            cells += ["–"] * 5
        else:
            gain = _bracketed(loss.gain, _nats) + _mark(table, loss.note)
            cells += [f"{loss.before:.4f}", f"{loss.after:.4f}", gain, _p(loss.gain)]
            cells.append(str(loss.questions or "–"))
        table.add(cells)
    table.notes.append(
        f"Gain: {regimes[1]} minus {regimes[0]}, with the sign changed where lower is better, so that a "
        "value above 0 is better. *: the gain differs from 0 after Holm's correction over the datasets (5 %)."
    )
    by_seeds: dict[tuple[int, ...], list[str]] = {}
    for row in arm.rows:
        by_seeds.setdefault(row.score.seeds, []).append(row.dataset)
    said = [
        f"{', '.join(map(str, seeds))}" + (f" ({named(', '.join(keys), names)})" if len(by_seeds) > 1 else "")
        for seeds, keys in by_seeds.items()
    ]
    table.notes.append(f"Finished with the seeds: {'; '.join(said)}.")
    if arm.missing:
        table.notes.append(
            "Left out, because a cell is not finished or its test has no value of the primary metric:"
            f" {named(', '.join(arm.missing), names)}."
        )
    without = [row.dataset for row in arm.rows if row.loss is None]
    if without and len(without) < len(arm.rows):
        table.notes.append(
            "Without a comparison of losses, because a run has no validation loss or one that is not a"
            f" number: {named(', '.join(without), names)}."
        )
    return table


def shares_table(arms: Sequence[ArmTransfer]) -> PlainTable:
    """Return the table of the gain share, the harmed share and the net score of each arm."""
    columns = ["arm", "by", "datasets", "gain share", "harmed share", "net score", "ties"]
    columns += ["certain gain", "certain harm", "certain net", "p (sign test)"]
    table = PlainTable("Shares of datasets that gain or are harmed, in percent", columns)
    for arm in arms:
        for by, shares in (("score", arm.shares), ("loss", arm.loss_shares)):
            if shares is not None:
                table.add([arm.arm, by, *_shares(shares)])
    table.notes.append(
        "Net score: the fraction of datasets that gain, minus the fraction that are harmed; ties count for"
        " neither. Brackets: the 95 % interval over resampled seeds and questions. Certain: the gain of the"
        " dataset differs from 0 after Holm's correction over the datasets (5 %)."
    )
    return table


def deviation_table(baseline: str, rows: Mapping[str, Sequence[DatasetTransfer]], regime: str) -> PlainTable:
    """Return the table of the differences between each other arm and the first arm.

    Args:
        baseline: Name of the first arm.
        rows: For each other arm, the datasets, compared with the first arm.
        regime: The regime in which the arms are compared.
    """
    columns = ["dataset", "metric", baseline, *(f"{arm} − {baseline}{INTERVAL}" for arm in rows)]
    units = units_said(row.scale.unit for found in rows.values() for row in found)
    table = PlainTable(f"Arms against {baseline}, regime {regime}: {units}", columns)
    by_arm = {arm: {row.dataset: row for row in found} for arm, found in rows.items()}
    for name in dict.fromkeys(row.dataset for found in rows.values() for row in found):
        some = next(found[name] for found in by_arm.values() if name in found)
        cells = [name, some.scale.label(some.metric), some.scale.text(some.score.before)]
        for found in by_arm.values():
            row = found.get(name)
            cells.append("–" if row is None else score_gain(row) + _mark(table, row.score.note))
        table.add(cells)
    for arm, held in rows.items():
        points = [abs(row.score.gain.value) for row in held if row.scale.unit == PERCENT]
        if points:
            mean = 100 * sum(points) / len(points)
            table.notes.append(
                f"{arm}: mean absolute deviation {mean:.2f} points over {len(points)} datasets with"
                " metrics in percent."
            )
    table.notes.append(
        "A value above 0 is better. *: it differs from 0 after Holm's correction over the datasets (5 %)."
    )
    return table


def conflict_table(found: Sequence[ArmConflict]) -> PlainTable:
    """Return the table of the mean cosines between gradients, and of their correlation with the gains."""
    columns = ["arm", "step", "datasets", "A", "B", "router", "pairs below 0"]
    columns += ["rho with gain (p)", "rho with loss gain (p)"]
    table = PlainTable("Agreement of the datasets' gradients (mean cosine of pairs)", columns, left=1)
    for one in found:
        apart = [(i, j) for i in range(len(one.datasets)) for j in range(i)]
        cells = [one.arm, f"{one.step:,}", str(len(one.datasets))]
        for part in ("A", "B", "router"):
            values = [float(one.maps[part][i][j]) for i, j in apart] if part in one.maps else []
            known = [v for v in values if math.isfinite(v)]
            cells.append(f"{sum(known) / len(known):+.3f}" if known else "–")
        heads = [float(one.maps["B"][i][j]) for i, j in apart] if "B" in one.maps else []
        cells.append(percent(sum(v < 0 for v in heads) / len(heads)) + " %" if heads else "–")
        cells += [_rho(one.by_score), _rho(one.by_loss)]
        table.add(cells)
    table.notes.append(
        "rho: Spearman's rank correlation, over the datasets, of two numbers: the mean cosine between the "
        "gradient of a dataset and those of the others, and the gain of that dataset. p: from 10,000 "
        "permutations. With fewer than 4 datasets there is no rho."
    )
    return table


def pair_table(found: Sequence[PairTransfer]) -> PlainTable:
    """Return the table of the gains of datasets from their partners."""
    columns = ["arm", "dataset", "partner", "metric", "alone", "with partner"]
    columns += [f"gain{INTERVAL}", f"loss gain{INTERVAL}", "cosine"]
    table = PlainTable("Trained with one partner", columns, left=4)
    for one in found:
        row = one.tested
        cells = [one.arm, row.dataset, one.partner, row.scale.label(row.metric)]
        cells += [row.scale.text(row.score.before), row.scale.text(row.score.after), score_gain(row)]
        cells.append("–" if row.loss is None else _bracketed(row.loss.gain, _nats))
        table.add([*cells, "–" if one.cosine is None else f"{one.cosine:+.3f}"])
    table.notes.append("Intervals are not corrected for the number of pairs.")
    return table


def raw_csv(arms: Sequence[ArmTransfer]) -> str:
    """Return all numbers of the comparisons as CSV, with a line for each arm and dataset; losses in nats."""
    columns = ["arm", "dataset", "task", "metric", "seeds"]
    numbers = ["before", "after", "gain", "low", "high", "p", "p_holm", "certain", "questions"]
    columns += [f"{kind}_{number}" for kind in ("score", "loss") for number in numbers]
    out = io.StringIO()
    write = csv.writer(out, lineterminator="\n").writerow
    write(columns)
    for arm in arms:
        for row in arm.rows:
            seeds = " ".join(map(str, row.score.seeds))
            write([arm.arm, row.dataset, row.task, row.metric, seeds, *_raw(row.score), *_raw(row.loss)])
    return out.getvalue()


def score_gain(row: DatasetTransfer) -> str:
    """Return the gain of a dataset's metric with its interval, in the unit of the metric."""
    return _bracketed(row.score.gain, row.scale.signed)


def _mark(table: PlainTable, note: str) -> str:
    return table.mark(note[:1].upper() + note[1:])


def _raw(found: Comparison | None) -> list[object]:
    if found is None:
        return [""] * 9
    gain = found.gain
    values = [found.before, found.after, gain.value, gain.low, gain.high, gain.p, gain.p_holm]
    return ["" if v is None else f"{v:.6g}" for v in values] + [int(gain.certain), found.questions]


def _shares(shares: Shares) -> list[str]:
    return [
        str(shares.datasets),
        _bracketed(shares.gain, percent),
        _bracketed(shares.harmed, percent),
        _bracketed(shares.net, signed),
        ", ".join(shares.ties) or "none",
        percent(shares.certain_gain),
        percent(shares.certain_harmed),
        signed(shares.certain_net),
        _probability(shares.sign_p),
    ]


def _bracketed(found: Estimate, show: Callable[[float], str]) -> str:
    star = "*" if found.certain else ""
    if found.low is None or found.high is None:
        return show(found.value) + star
    return IntervalCell(show(found.value), show(found.low), show(found.high), star)


def _nats(value: float) -> str:
    text = f"{value:+.4f}"
    return "0.0000" if text in ("+0.0000", "-0.0000") else text.replace("-", "−")


def _p(gain: Estimate) -> str:
    return "–" if gain.p_holm is None else _probability(gain.p_holm)


def _probability(p: float) -> str:
    return f"{p:.4f}" if p >= 0.0001 else "<0.0001"


def _rho(found: Correlation) -> str:
    return "–" if found.rho is None else f"{found.rho:+.2f} ({_probability(found.p or 0.0)})"
