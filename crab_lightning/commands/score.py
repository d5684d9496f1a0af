"""``score``: score an answer file without a model."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crab_lightning.commands.file_arguments import folder_to_write
from crab_lightning.commands.help_text import Options
from crab_lightning.files import read_json, replace_json, replace_text

if TYPE_CHECKING:
    from crab_lightning.reports.answer_files import Joined


def run(words: Sequence[str]) -> None:
    """Score an answer file without a model.

    The file is predictions/<dataset>.jsonl of a run, or inference_<task>.jsonl of the released scripts. No
    media are needed.

    Raises:
        FileNotFoundError: If the answer file or the data root is missing.
        ValueError: If the config, the options of the task or the answers are wrong.
    """
    parser = Options("score", run)
    add, switch = parser.option, parser.switch
    add(
        "--root",
        "data root, the folder that contains AVUIE_2/ or the folders of your own datasets",
        Path,
        required=True,
    )
    add("--dataset", "key of the dataset in the data config, e.g. ave", required=True)
    add("--predictions", "the answer file, in JSON lines", Path, required=True)
    add(
        "--data-config",
        "config with `tasks` and `datasets`, at its top level or under `data`, e.g. a run's config.yaml",
        default="data/av_uie_v2.yaml",
    )
    add("--protocol", "scoring protocol of masks: crabplus, avsbench, framewise or refavs")
    switch(
        "--lenient",
        "also read answers that the released scripts reject; such scores cannot be compared with theirs",
    )
    add(
        "--duplicates",
        "what to do when the file has several different answers to one sample: `last` scores the last one,"
        " `refuse` ends with an error",
        default="last",
        choices=["last", "refuse"],
    )
    add(
        "--out",
        "folder in which metrics.json and predictions/ are written, for `compare` and `report`",
        folder_to_write,
    )
    switch("--json", "print JSON only")
    args = parser.parse_args(words)
    if args.out is not None:
        _refuse_other_results(args.out)
    if not args.predictions.is_file():
        raise FileNotFoundError(f"--predictions {args.predictions} is not a file")
    if not args.root.is_dir():
        raise FileNotFoundError(f"--root {args.root} is not a folder; give the folder that contains the data")
    from crab_lightning.configuration.sections import one_dataset, read_rows_of
    from crab_lightning.evaluation.likelihoods import scores_of
    from crab_lightning.evaluation.long_clips import parts_of
    from crab_lightning.evaluation.scores import DatasetScores
    from crab_lightning.reports.answer_files import answer_text, join_answers, read_answers
    from crab_lightning.structures import Prediction

    data = one_dataset(args.data_config, args.root, args.dataset, args.protocol, args.lenient)
    records = read_answers(args.predictions)  # after the options are checked, since the file may be large
    spec, task = data.datasets[args.dataset], data.tasks[data.datasets[args.dataset].task]
    ids = [str(r["id"]) for r in records if "id" in r]
    of_train = bool(ids) and all(name.startswith(f"{args.dataset}/train/") for name in ids)
    spec, train, asked = read_rows_of(data, args.dataset, of_train)
    joined = join_answers(
        records, asked, args.dataset, spec.layout, lambda s: str(task.prompt(s)[-1]), args.duplicates
    )
    whole = asked[0].split == "test"
    missing = [sample for sample in asked if whole and sample.id not in joined.answers]
    if not whole:
        joined.notes.append(
            "rows of train.json: the file does not say which of them were asked, so none is counted as"
            " missing"
        )
    majority = None
    with suppress(ValueError):  # if no training row contains an answer
        majority = task.majority(train, spec)
    scores = DatasetScores(args.dataset, task, spec, majority)
    lines = []
    for sample in asked:
        if (record := joined.answers.get(sample.id)) is not None:
            said = Prediction(
                sample,
                str(answer_text(record)),
                record.get("tokens", 0),
                bool(record.get("truncated", False)),
                scores_of(record),
            )
            if parts := parts_of(record, sample):
                clip = replace(sample, whole_s=float(record["whole_s"]))
                lines.append(scores.add_windows(clip, parts))
            else:
                lines.append(scores.add(said))
    for sample in missing:
        scores.add_missing(sample)
    result = scores.result(scores.sums(), None)
    options = {"lenient": args.lenient, "protocol": args.protocol}
    if args.out is not None:
        write_run(args.out, args.dataset, result, lines if joined.per_sample else [], options, whole)
    content = {"dataset": args.dataset, "options": options, "join": joined.counts(), "result": result}
    print(json.dumps(content, indent=2)) if args.json else _print(args, result, joined)


def _refuse_other_results(folder: Path) -> None:
    """Refuse a folder with results that ``score`` did not write, because it would replace them."""
    path = folder / "metrics.json"
    results = read_json(path, "Remove it, or give another --out") if path.is_file() else {}
    if any(not isinstance(part, dict) or "scored_without_model" not in part for part in results.values()):
        raise ValueError(f"--out {folder} contains the results of a run, which are kept; give another folder")


def write_run(
    folder: Path,
    dataset: str,
    result: dict[str, Any],
    lines: Sequence[dict[str, Any]],
    options: dict[str, Any],
    whole: bool,
) -> None:
    """Add the scores and answers of a dataset to a folder that `compare` and `report` read as a run."""
    from crab_lightning.evaluation.metric_values import mean_headline

    path = folder / "metrics.json"
    remedy = "Remove it, or give another --out"
    content = read_json(path, remedy) if path.is_file() else {}
    test = content.setdefault("test", {"datasets": {}, "scored_without_model": {}, "whole_split": True})
    test["datasets"][dataset] = result
    test.setdefault("scored_without_model", {})[dataset] = options
    test["whole_split"] = test["whole_split"] and whole
    names = {"headline": "strict", "headline_valid_only": "valid_only", "headline_majority": "majority"}
    test["mean"] = {name: mean_headline(test["datasets"], protocol) for name, protocol in names.items()}
    replace_json(path, content)
    if lines:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        replace_text(folder / "predictions" / f"{dataset}.jsonl", text)


def _print(args: argparse.Namespace, result: dict[str, Any], joined: Joined) -> None:
    from crab_lightning.evaluation.tables import print_results

    print_results({args.dataset: result}, str(args.predictions), everything=True)
    print(f"Matched by {joined.by}: {len(joined.answers):,} of {joined.records:,} records.", end=" ")
    print(
        f"Records of other tasks: {joined.other_tasks:,}; replaced duplicates: {joined.duplicates:,} "
        f"({joined.conflicts:,} of them with another answer); records without a row: "
        f"{joined.unmatched:,}."
    )
    if args.lenient:
        joined.notes.append(
            "read leniently, so the scores cannot be compared with those of the released scripts"
        )
    if not result["strict"]:
        joined.notes.append(f"{result['task']} has no metric as configured; only the counts are shown")
    elif args.protocol and not any(name.startswith(args.protocol) for name in result["strict"]):
        joined.notes.append(
            f"no mask was made, so nothing is scored under {args.protocol}: give a --data-config whose task"
            f" {result['task']} has a mask_decoder"
        )
    for note in joined.notes:
        print(f"Note: {note}")
    if args.out is not None:
        print(f"Wrote {args.out}")
