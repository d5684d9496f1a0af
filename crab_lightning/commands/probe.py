"""``probe``: how much a run's answers depend on what it hears and sees."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crab_lightning.commands.file_arguments import folder_to_write
from crab_lightning.commands.help_text import CHECKPOINT, Options
from crab_lightning.files import read_json, replace_json, replace_text

if TYPE_CHECKING:
    from crab_lightning.reports.runs import FinishedRun
    from crab_lightning.reports.tables import PlainTable

CONDITIONS: dict[str, tuple[str, ...]] = {
    "intact": ("--data.drop_modality=null", "--data.audio_swap=false"),
    "no_audio": ("--data.drop_modality=audio", "--data.audio_swap=false"),
    "no_vision": ("--data.drop_modality=vision", "--data.audio_swap=false"),
    "swapped_audio": ("--data.drop_modality=null", "--data.audio_swap=true"),
}
"""Name of a condition -> options of ``test`` that make it; the first is what the others are compared with."""


def run(words: Sequence[str]) -> None:
    """Run the four tests, print the table and write it.

    Args:
        words: The command's name and its options.

    Raises:
        ValueError: If an option would change what is compared, or there is no run folder to write to.
    """
    parser = Options(
        "probe",
        "Test a run four times: as it is, with silence for sound, with grey for pictures, and with the sound "
        "of other clips. If the score of a dataset falls when the sound or the pictures are taken away, its "
        "answers depend on them. Further options go to `test`, e.g. --only ave,avqa or --data.root DIR.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help=CHECKPOINT)
    parser.add_argument(
        "--out",
        type=folder_to_write,
        help="folder in which the tests are written (default: probe/ in the run folder)",
    )
    parser.add_argument(
        "--reuse", action="store_true", help="keep the complete tests of the same weights and options"
    )
    args, rest = parser.parse_known_args(list(words[1:]))
    taken = ("--data.drop_modality", "--data.audio_swap", "--evaluator.windows", "--run.", "--ckpt_path")
    if wrong := [word for word in rest if word.startswith(taken)]:
        raise ValueError(f"{wrong[0].split('=')[0]} is set by `probe` itself; leave it out")
    from crab_lightning.runs.run_folder import find_checkpoint, results_folder

    checkpoint = find_checkpoint(args.run)
    home = results_folder(checkpoint, args.out, "probe")
    for name, options in CONDITIONS.items():
        whole = "--evaluator.windows=null"  # the sound of another clip has other windows
        run_condition(name, home / name, checkpoint, [*options, whole, *rest], reuse=args.reuse)
    summarise(home)


def run_condition(
    name: str, place: Path, checkpoint: Path, options: Sequence[str], *, reuse: bool, asked: str = ""
) -> None:
    """Test a run once, unless the same test is there and may be kept.

    Args:
        name: Name of the test, for what is printed.
        place: Folder of its results.
        checkpoint: The weights.
        options: Further options of ``test``.
        reuse: Keep a complete test of the same weights with the same options.
        asked: What else the results depend on.
    """
    from crab_lightning.commands import trainer

    files = sorted(checkpoint.rglob("*")) if checkpoint.is_dir() else [checkpoint]
    stamps = [[str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in files if f.is_file()]
    now = {"options": list(options), "asked": asked, "weights": stamps}
    record = place / "asked.json"
    if reuse and _is_complete(place):
        before = read_json(record, "Remove it; the test is then made again") if record.is_file() else None
        if before == now:
            print(f"{name}: kept from {place}", file=sys.stderr)
            return
        print(f"{name}: {place} was made with other options or weights", file=sys.stderr)
    print(f"{name}: testing", file=sys.stderr)
    record.unlink(missing_ok=True)
    trainer.run(["test", "--ckpt_path", str(checkpoint), "--run.folder", str(place), *options])
    replace_json(record, now)
    gc.collect()  # the next test loads the model again


def summarise(home: Path) -> None:
    """Print the table of finished conditions and write ``probe.md`` and ``probe.json`` beside them."""
    from crab_lightning.commands.compare import comparison
    from crab_lightning.reports.runs import find_results
    from crab_lightning.reports.tables import to_markdown, to_text

    runs = [replace(find_results(home / name), name=name) for name in CONDITIONS]
    table = comparison(runs)
    table.title = f"{table.title}, with each sense as it is, taken away or misled"
    _add_majority(table, runs[0])
    print(to_text(table))
    replace_text(home / "probe.md", to_markdown(table) + "\n")
    replace_json(home / "probe.json", dependence(runs))
    print(f"\nWrote {home / 'probe.md'} and probe.json")


def _add_majority(table: PlainTable, intact: FinishedRun) -> None:
    """Add the score of the most frequent training answer: a condition near it leaves nothing to go by."""
    from crab_lightning.metrics.scale import read_scale

    known: dict[tuple[str, str], str] = {}
    for dataset, entry in intact.datasets.items():
        scale, metric = read_scale(entry, entry["headline"]), entry["headline"]
        known[dataset, scale.label(str(metric))] = scale.text((entry.get("majority") or {}).get(metric))
    place = table.columns.index(list(CONDITIONS)[-1]) + 1
    table.columns.insert(place, "majority")
    for row in table.rows:
        row.insert(place, known.get((row[0], row[1]), "–"))


def dependence(runs: Sequence[FinishedRun]) -> dict[str, Any]:
    """Return, for each dataset, the primary metric under every condition and the loss by each condition.

    Args:
        runs: Results by condition, the intact one first.

    Returns:
        Dataset -> ``headline``, ``scores`` and ``majority`` (fractions), and ``loss``: for each other
        condition the mean fall of a sample's score with its paired 95 % interval, ``None`` where samples have
        no score of their own.
    """
    from crab_lightning.reports.bootstrap import paired_difference

    intact, others = runs[0], runs[1:]
    table: dict[str, Any] = {}
    for dataset, entry in intact.datasets.items():
        headline = entry["headline"]
        whole = intact.scores(dataset)
        fall: dict[str, Any] = {}
        for other in others:
            found = paired_difference(other.scores(dataset), whole)
            fall[other.name] = found and {
                "mean": found.mean,
                "low": found.low,
                "high": found.high,
                "samples": found.samples,
            }
        strict = {run.name: (run.datasets.get(dataset) or {}).get("strict", {}) for run in runs}
        table[dataset] = {
            "headline": headline,
            "scores": {name: scores.get(headline) for name, scores in strict.items()},
            "majority": entry["majority"].get(headline),
            "loss": fall,
        }
    return table


def _is_complete(folder: Path) -> bool:
    """Return whether a test ended in this folder and was not taken up again since."""
    path = folder / "metrics.json"
    if not path.is_file() or (folder / "predictions" / ".parts-test").exists():
        return False
    content = read_json(path, "Remove it; `probe` then makes this condition again")
    return bool(content.get("test", {}).get("whole_split"))
