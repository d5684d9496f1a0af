"""``score``: score an answer file without a model."""

from __future__ import annotations

import argparse
import inspect
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crab_lightning.commands.file_arguments import folder_to_write
from crab_lightning.commands.help_text import Options
from crab_lightning.data.manifests.files import ANNOTATIONS
from crab_lightning.files import read_json, replace_json, replace_text
from crab_lightning.spelling import did_you_mean

if TYPE_CHECKING:
    from crab_lightning.data import AVDataModule
    from crab_lightning.reports.answer_files import Joined
    from crab_lightning.structures import DatasetSpec, Sample


def run(words: Sequence[str]) -> None:
    """Score an answer file and print the table.

    Args:
        words: The command's name and its options.

    Raises:
        ValueError: If the config, the task's options or the answers make no sense.
    """
    parser = Options(
        "score",
        "Score an answer file without a model: predictions/<dataset>.jsonl of a run, or"
        " inference_<task>.jsonl of the released scripts. No media are needed.",
    )
    add = parser.add_argument
    add("--root", required=True, type=Path, help="data root, the folder that holds AVUIE_2/")
    add("--dataset", required=True, help="key of the dataset in the data config, e.g. ave")
    add("--predictions", required=True, type=Path, help="the answer file, JSON lines")
    add(
        "--data-config",
        default="data/av_uie_v2.yaml",
        help="config with `tasks` and `datasets`, at its top level or under `data`, e.g. a run's config.yaml",
    )
    add("--protocol", help="scoring protocol of masks: crabplus, avsbench, framewise or refavs")
    add(
        "--lenient",
        action="store_true",
        help="also read answers that the released scripts reject; such scores cannot be compared with theirs",
    )
    add(
        "--duplicates",
        choices=["last", "refuse"],
        default="last",
        help="what to do when the file has several different answers to one sample: `last` scores the"
        " last one, `refuse` ends with an error",
    )
    add(
        "--out",
        type=folder_to_write,
        help="folder in which metrics.json and predictions/ are written, for `compare` and `report`",
    )
    add("--json", action="store_true", help="print JSON only")
    args = parser.parse_args(words[1:])
    if not args.predictions.is_file():
        raise FileNotFoundError(f"--predictions {args.predictions} is not a file")
    if not (args.root / ANNOTATIONS).is_dir():
        raise FileNotFoundError(f"--root {args.root} holds no {ANNOTATIONS}/; give the folder that does")
    from crab_lightning.evaluation.likelihoods import scores_of
    from crab_lightning.evaluation.long_clips import parts_of
    from crab_lightning.evaluation.scores import DatasetScores
    from crab_lightning.reports.answer_files import answer_text, join_answers, read_answers
    from crab_lightning.structures import Prediction

    data = load_dataset(args.data_config, args.root, args.dataset, args.protocol, args.lenient)
    records = read_answers(args.predictions)  # after the options are checked: it may be large
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
    with suppress(ValueError):  # where no training row holds an answer
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


def load_dataset(
    config: str, root: Path, dataset: str, protocol: str | None = None, lenient: bool = False
) -> AVDataModule:
    """Make a data module of one dataset, no manifest read.

    Args:
        config: A data section, or a run's config with one.
        root: Data root.
        dataset: The one row that is kept.
        protocol: The one protocol whose metrics are computed, for tasks that know several.
        lenient: Given to the task as ``lenient``.

    Raises:
        ConfigError: If the config has no such dataset, or its task no such option.
    """
    from jsonargparse import ArgumentParser

    from crab_lightning.configuration.allowed_code import class_of, parsed_config
    from crab_lightning.configuration.files import ConfigError, compose
    from crab_lightning.data import AVDataModule

    content = compose([config])
    section = dict(content.get("data", content))
    rows = section.get("datasets") or {}
    if dataset not in rows:
        near = did_you_mean(dataset, rows)
        raise ConfigError(f"--dataset {dataset}{near}: {config} has: {', '.join(rows) or 'no datasets'}")
    key = rows[dataset]["task"]
    row = dict((section.get("tasks") or {}).get(key) or {})
    kind = class_of(str(row.get("class_path")))
    if lenient:
        if "lenient" not in inspect.signature(kind).parameters:
            raise ConfigError(f"--lenient: task {key} ({kind.__name__}) has only one way of reading answers")
        row["init_args"] = {**(row.get("init_args") or {}), "lenient": True}
    if protocol is not None:
        if protocol not in (known := getattr(kind, "protocols", ())):
            there = f"has: {', '.join(known)}" if known else "has no named protocols"
            raise ConfigError(f"--protocol {protocol}: task {key} ({kind.__name__}) {there}")
        rows = {dataset: {**rows[dataset], "metrics": [protocol]}}
    section |= {"root": str(root), "tasks": {key: row}, "datasets": {dataset: rows[dataset]}}
    section.pop("only", None)  # of a run on some of the rows; here it is one row anyway
    made = ArgumentParser(exit_on_error=False)
    made.add_class_arguments(AVDataModule, "data", fail_untyped=False)
    data: AVDataModule = made.instantiate_classes(parsed_config(made, {"data": section})).data
    return data


def read_rows_of(
    data: AVDataModule, dataset: str, of_train: bool = False
) -> tuple[DatasetSpec, list[Sample], list[Sample]]:
    """Read a dataset's manifests, media unseen.

    Args:
        data: From :func:`load_dataset`.
        dataset: Its one dataset.
        of_train: Whether the training file was asked.

    Returns:
        The row with classes filled in, the training rows (empty without that file), and the rows that were
        asked: of the test file, or of the training file where asked or where there is no other.
    """
    from crab_lightning.data import has_test, read_manifest
    from crab_lightning.data.manifests.files import manifest_path
    from crab_lightning.data.manifests.rows import limited

    spec = data.datasets[dataset]
    task = data.tasks[spec.task]
    tested = has_test(data.root, dataset, spec)
    stored = manifest_path(data.root, dataset, spec, "train")
    needs_train = of_train or not tested
    train = (
        read_manifest(data.root, dataset, spec, "train", task=task, check_media=False)
        if needs_train or stored.is_file()
        else []
    )
    test = read_manifest(data.root, dataset, spec, "test", task=task, check_media=False) if tested else []
    if spec.classes is None:
        spec = replace(spec, classes=task.class_names([*train, *test]))
    asked = (
        [replace(s, split="val") for s in train]
        if needs_train
        else list(limited(test, spec.limit, data.seed))
    )
    if not asked:
        raise ValueError(f"data.datasets.{dataset}: the manifest under {data.root} has no rows")
    return spec, train, asked


def write_run(
    folder: Path,
    dataset: str,
    result: dict[str, Any],
    lines: Sequence[dict[str, Any]],
    options: dict[str, Any],
    whole: bool,
) -> None:
    """Add a dataset's scores to a folder that reads like a run folder."""
    from crab_lightning.evaluation.scores import mean_headline

    path = folder / "metrics.json"
    remedy = "Remove it, or give another --out"
    content: dict[str, Any] = read_json(path, remedy) if path.is_file() else {}
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
    print(f"Joined by {joined.by}: {len(joined.answers):,} of {joined.records:,} records.", end=" ")
    print(
        f"Records of other tasks {joined.other_tasks:,}, replaced duplicates {joined.duplicates:,}"
        f" ({joined.conflicts:,} said something else), of no row {joined.unmatched:,}."
    )
    if args.lenient:
        joined.notes.append("lenient reading: not comparable with scores of the released scripts")
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
