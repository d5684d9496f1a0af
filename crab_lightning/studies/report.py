"""The report of a study."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from crab_lightning.reports.tables import PlainTable, percent, signed, to_csv, to_latex, to_markdown, to_text
from crab_lightning.studies.runner import FinishedCells
from crab_lightning.studies.study import Study
from crab_lightning.studies.transfer import (
    ArmTransfer,
    Comparison,
    Estimate,
    Resampling,
    Shares,
    arm_transfer,
)


def transfers(finished: FinishedCells, resampling: Resampling) -> list[ArmTransfer]:
    """Return the transfer of every arm that has cells under both regimes.

    Args:
        finished: The finished cells of a study.
        resampling: The resamples.
    """
    study = finished.study
    before, after = (partial(finished.of, regime) for regime in study.compare)
    found = (arm_transfer(arm, study.datasets, study.seeds, before, after, resampling) for arm in study.arms)
    return [one for one in found if one is not None]


def gain_table(arm: ArmTransfer, regimes: tuple[str, str]) -> PlainTable:
    """Lay out the datasets of an arm."""
    columns = ["dataset", "metric", *regimes, "gain [95 % CI]", "p (Holm)", "questions", "seeds"]
    columns += [f"loss {regimes[0]}", f"loss {regimes[1]}", "loss gain [95 % CI]", "p loss (Holm)"]
    table = PlainTable(f"{arm.arm}: scores in percent, validation loss in nats per target token", columns)
    for row in arm.rows:
        score, loss = row.score, row.loss
        mark = _noted(table, score.note)
        cells = [row.dataset, row.metric, percent(score.before), percent(score.after)]
        cells += [_gain(score, points=True) + mark, _p(score.gain), str(score.questions or "–")]
        cells += [",".join(map(str, score.seeds))]
        if loss is None:
            cells += ["–"] * 4
        else:
            cells += [f"{loss.before:.4f}", f"{loss.after:.4f}"]
            cells += [_gain(loss, points=False) + _noted(table, loss.note), _p(loss.gain)]
        table.add(cells)
    table.notes.append(
        "Gain: the second regime minus the first, the sign turned where lower is better, so that above 0 is"
        " better;"
        " * where it differs from 0 after Holm's correction over the datasets (5 %)."
    )
    if arm.missing:
        table.notes.append(f"Not finished under both regimes: {', '.join(arm.missing)}.")
    return table


def shares_table(arms: list[ArmTransfer]) -> PlainTable:
    """Lay out gain share, harmed share and net score of the arms."""
    columns = ["arm", "by", "datasets", "gain share", "harmed share", "net score", "ties"]
    columns += ["certain gain", "certain harm", "certain net", "p (sign test)"]
    table = PlainTable("Shares of datasets that gain or are harmed, in percent", columns)
    for arm in arms:
        for by, shares in (("score", arm.shares), ("loss", arm.loss_shares)):
            if shares is not None:
                table.add([arm.arm, by, *_shares(shares)])
    table.notes.append(
        "Net score: gain share minus harmed share; ties count for neither. Brackets: 95 % interval from"
        " resampled seeds and questions. Certain: after Holm's correction over the datasets (5 %)."
    )
    return table


def _shares(shares: Shares) -> list[str]:
    def share(found: Estimate, sign: bool = False) -> str:
        show = signed if sign else percent
        low, high = found.low or 0.0, found.high or 0.0
        return f"{show(found.value)} [{show(low)}, {show(high)}]"

    return [
        str(shares.datasets),
        share(shares.gain),
        share(shares.harmed),
        share(shares.net, sign=True),
        ", ".join(shares.ties) or "none",
        percent(shares.certain_gain),
        percent(shares.certain_harmed),
        signed(shares.certain_net),
        f"{shares.sign_p:.4f}",
    ]


def _gain(found: Comparison, points: bool) -> str:
    show = signed if points else _nats
    gain = found.gain
    text = show(gain.value)
    if gain.low is not None and gain.high is not None:
        text += f" [{show(gain.low)}, {show(gain.high)}]"
    return text + ("*" if gain.certain else "")


def _nats(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−")


def _p(gain: Estimate) -> str:
    return "–" if gain.p_holm is None else f"{gain.p_holm:.4f}"


def _noted(table: PlainTable, text: str) -> str:
    """Return the mark of a footnote, which is added when it is new."""
    if not text:
        return ""
    starts = [note.partition(") ")[2] for note in table.notes]
    if f"{text}." not in starts:
        table.notes.append(f"({len(table.notes) + 1}) {text}.")
        return f"({len(table.notes)})"
    return f"({starts.index(f'{text}.') + 1})"


def write_report(study: Study, out: Path, *, resamples: int = 2000, seed: int = 0) -> str:
    """Write the report of a study and return its tables as text.

    Args:
        study: The study.
        out: Folder to write into.
        resamples: Resamples of the bootstrap.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: If no dataset is finished under both regimes.
    """
    finished = FinishedCells(study)
    arms = transfers(finished, Resampling(resamples, seed))
    if not arms:
        raise ValueError(f"{study.folder}: nothing to compare yet; see `study status`")
    tables = {"shares": shares_table(arms)}
    tables |= {f"gains-{arm.arm}": gain_table(arm, study.compare) for arm in arms}
    out.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        for ending, form in (("csv", to_csv), ("tex", to_latex), ("md", to_markdown)):
            (out / f"{name}.{ending}").write_text(form(table) + "\n", encoding="utf-8")
    return "\n\n".join(to_text(table) for table in tables.values())
