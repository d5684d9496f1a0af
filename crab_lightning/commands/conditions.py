"""``probe`` and ``heads``: test a run again without sound, pictures or heads, which its answers may need."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

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
"""Maps each condition to the options of ``test`` that make it. The others are compared with the first."""


def probe(words: Sequence[str]) -> None:
    """Test a run four times, to see how much its answers depend on sound and on pictures.

    The run is tested with unchanged clips, with silence instead of sound, with grey pictures, and with the
    sound of other clips. If the score of a dataset falls without sound or without pictures, the answers
    depend on them. Further options go to `test`, e.g. --only ave,avqa or --data.root DIR.

    Raises:
        ValueError: If an option would change the comparison, or there is no run folder to write to.
    """
    own = ("--data.drop_modality", "--data.audio_swap", "--evaluator.windows", "--run.", "--ckpt_path")
    args, rest = _asked("probe", probe, words, own)
    from crab_lightning.runs.run_folder import find_checkpoint, results_folder

    checkpoint = find_checkpoint(args.run)
    home = results_folder(checkpoint, args.out, "probe")
    for name, options in CONDITIONS.items():
        whole = "--evaluator.windows=null"  # the sound of another clip has other windows
        run_condition(name, home / name, checkpoint, [*options, whole, *rest], reuse=args.reuse)
    summarise(home)


def heads(words: Sequence[str]) -> None:
    """Test an I-LoRA run with all its heads, and once more without each of them.

    Each test without a head is compared with the test with all heads, with paired intervals (Table 7 of the
    Crab+ paper). Further options go to `test`, e.g. --only ave,avqa.

    Raises:
        ValueError: If the run has no heads to leave out, or an option would change the comparison.
    """
    args, rest = _asked("heads", heads, words, ("--run.", "--ckpt_path", "--config"))
    from crab_lightning.adapters.kinds import drop_foreign_keys
    from crab_lightning.configuration.files import compose, naming_file
    from crab_lightning.reports.runs import find_results
    from crab_lightning.reports.tables import to_csv, to_markdown, to_text
    from crab_lightning.runs.run_folder import find_checkpoint, results_folder, run_of
    from crab_lightning.studies.comparison import comparison

    checkpoint = find_checkpoint(args.run)
    folder = run_of(checkpoint)
    config = compose([folder / "config.yaml"])
    with naming_file([folder / "config.yaml"]):
        drop_foreign_keys(config.get("model") or {})
    adapter = ((config.get("model") or {}).get("init_args") or {}).get("adapter", {})
    if adapter is None:
        raise ValueError(f"{folder}: this run has no adapters, so it has no heads to leave out")
    if adapter.get("kind", "ilora") not in ("ilora", "hydra_lora"):
        raise ValueError(
            f"{folder}: its adapters are of kind {adapter.get('kind')}, which has no heads that can be"
            " left out; I-LoRA (`ilora`) and HydraLoRA (`hydra_lora`) have such heads"
        )
    count = int(adapter.get("heads", 3))
    home = results_folder(checkpoint, args.out, "heads")
    home.mkdir(parents=True, exist_ok=True)
    names = ["no drop", *(f"drop head {i}" for i in range(1, count + 1))]
    # The complete model is tested last, so that a pattern that fits no layer is refused before any test.
    for head in (*range(1, count + 1), 0):
        name = names[head]
        place = home / name.replace(" ", "-")
        callbacks = list((config.get("trainer") or {}).get("callbacks") or [])
        if head:
            drop = {"head": head, "modules": args.modules}
            callbacks.append({"class_path": "crab_lightning.studies.heads.DropHead", "init_args": drop})
        path = home / f"{place.name}.yaml"
        own = config | {"trainer": (config.get("trainer") or {}) | {"callbacks": callbacks or None}}
        text = yaml.safe_dump(own, sort_keys=False, allow_unicode=True)
        replace_text(path, text)
        options = ["--config", str(path), *rest]
        run_condition(name, place, checkpoint, options, reuse=args.reuse, asked=text)
    table = comparison([replace(find_results(home / n.replace(" ", "-")), name=n) for n in names])
    table.title = f"{table.title}; heads dropped in {'all layers' if args.modules == '*' else args.modules}"
    for ending, form in (("md", to_markdown), ("csv", to_csv)):
        replace_text(home / f"heads.{ending}", form(table) + "\n")
    print(to_text(table))
    print(f"\nWrote {home / 'heads.md'} and heads.csv")


def _asked(command: str, about: Any, words: Sequence[str], taken: tuple[str, ...]) -> tuple[Any, list[str]]:
    """Return the command's own options and those that go to ``test``; refuse those that the command sets."""
    parser = Options(command, about)
    add, switch = parser.option, parser.switch
    add("run", CHECKPOINT, Path, metavar="RUN")
    if command == "heads":
        where = "layers in which a head is left out, as a pattern such as '*.layers.3.*'"
        add("--modules", where, default="*")
    home = f"folder in which the tests are written (default: {command}/ in the run folder)"
    add("--out", home, folder_to_write)
    switch("--reuse", "do not repeat a complete test with the same weights and options")
    args, rest = parser.parse_known_args(list(words))
    if wrong := [word for word in rest if word.startswith(taken)]:
        raise ValueError(f"{wrong[0].split('=')[0]} is set by `{command}` itself; leave it out")
    return args, rest


def run_condition(
    name: str, place: Path, checkpoint: Path, options: Sequence[str], *, reuse: bool, asked: str = ""
) -> None:
    """Test a run once, unless the same test was made before and may be kept.

    Args:
        name: Name of the test in messages.
        place: Folder for the results.
        checkpoint: A checkpoint file or adapter folder with the weights.
        options: Further options of ``test``.
        reuse: Keep a complete test of the same weights with the same options.
        asked: A text on which the results also depend, such as the config of this test.
    """
    from crab_lightning.commands import trainer

    files = sorted(checkpoint.rglob("*")) if checkpoint.is_dir() else [checkpoint]
    stamps = [[str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in files if f.is_file()]
    now = {"options": list(options), "asked": asked, "weights": stamps}
    record = place / "asked.json"
    if reuse and _is_complete(place):
        before = read_json(record, "Remove it; the test is then made again") if record.is_file() else None
        if before == now:
            print(f"{name}: using the earlier test in {place}", file=sys.stderr)
            return
        print(f"{name}: {place} was made with other options or weights", file=sys.stderr)
    print(f"{name}: testing", file=sys.stderr)
    record.unlink(missing_ok=True)
    trainer.run(["test", "--ckpt_path", str(checkpoint), "--run.folder", str(place), *options])
    replace_json(record, now)
    gc.collect()  # the next test loads the model again


def summarise(home: Path) -> None:
    """Print the table of all conditions, and write ``probe.md`` and ``probe.json`` into ``home``."""
    from crab_lightning.reports.runs import find_results
    from crab_lightning.reports.tables import to_markdown, to_text
    from crab_lightning.studies.comparison import comparison

    runs = [replace(find_results(home / name), name=name) for name in CONDITIONS]
    table = comparison(runs)
    table.title = f"{table.title}, as it is, without sound or pictures, and with swapped sound"
    _add_majority(table, runs[0])
    print(to_text(table))
    replace_text(home / "probe.md", to_markdown(table) + "\n")
    replace_json(home / "probe.json", dependence(runs))
    print(f"\nWrote {home / 'probe.md'} and probe.json")


def _add_majority(table: PlainTable, intact: FinishedRun) -> None:
    """Add a column with the score of the most frequent training answer, which needs no clip at all."""
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
    """Return, for each dataset, the primary metric under every condition, and how the conditions change it.

    Args:
        runs: The results of each condition. The first are those of the intact clips.

    Returns:
        A dictionary for each dataset. ``headline`` names the primary metric, and ``scores`` and ``majority``
        contain its values as fractions. ``loss`` contains, for each other condition, the mean fall of a
        sample's score with its paired 95 % interval, or ``None`` if single samples have no score.
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
            fall[other.name] = None if found is None else asdict(found)
        strict = {run.name: (run.datasets.get(dataset) or {}).get("strict", {}) for run in runs}
        table[dataset] = {
            "headline": headline,
            "scores": {name: scores.get(headline) for name, scores in strict.items()},
            "majority": entry["majority"].get(headline),
            "loss": fall,
        }
    return table


def _is_complete(folder: Path) -> bool:
    """Return whether this folder contains a complete test that was not started again since."""
    path = folder / "metrics.json"
    if not path.is_file() or (folder / "predictions" / ".parts-test").exists():
        return False
    content = read_json(path, "Remove it; `probe` then makes this condition again")
    return bool(content.get("test", {}).get("whole_split"))
