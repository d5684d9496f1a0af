"""``data lmms-eval``: write the test sets as task files for lmms-eval."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from crab_lightning.commands.help_text import Options

if TYPE_CHECKING:
    from crab_lightning.structures import Conversation, DatasetSpec, Sample
    from crab_lightning.tasks.base import Task

GROUP = "crab_lightning"
_UTILS = Path(__file__).resolve().parents[1] / "assets" / "lmms_eval" / "utils.py"


class Function(str):
    """The name of a function, as lmms-eval reads it from YAML."""


def run(words: Sequence[str]) -> None:
    """Write the test sets and their questions as task files for lmms-eval.

    Any model that lmms-eval supports can then be tested on them. lmms-eval calls `score` of this package to
    score the answers. The two need separate Python environments.

    Raises:
        FileExistsError: If the folder exists.
        ValueError: If no chosen dataset has a test file, or a row is a conversation of several turns.
    """
    parser = Options("data lmms-eval", run)
    add, switch = parser.option, parser.switch
    add("--root", "data root, the folder that contains AVUIE_2/", Path, required=True)
    add("--out", "folder to write; it must not exist", Path, required=True)
    add("--only", "keys of the datasets to write, comma-separated (default: all that have a test file)")
    add("--config", "config with `tasks` and `datasets`", default="data/av_uie_v2.yaml")
    switch(
        "--explain",
        "end each question with an explanation of how to write the answer, and read answers leniently, for"
        " models that were not trained on these tasks",
    )
    add("--max_new_tokens", "longest answer in tokens", int, 512)
    args = parser.parse_args(words)
    from crab_lightning.configuration.files import find_config
    from crab_lightning.configuration.sections import data_section, one_dataset, read_rows_of
    from crab_lightning.data import has_test
    from crab_lightning.data.manifests.keys import chosen_datasets
    from crab_lightning.files import new_folder

    rows = data_section(args.config).get("datasets") or {}
    only = None if args.only is None else [name.strip() for name in args.only.split(",") if name.strip()]
    names, lenient = [], []
    with new_folder(args.out) as folder:
        for name in chosen_datasets(rows, only):
            data = one_dataset(args.config, args.root, name)
            if not has_test(data.root, name, data.datasets[name]):
                print(f"{name}: left out, since there is no test file under {args.root}")
                continue
            spec, _, samples = read_rows_of(data, name)
            task = data.tasks[spec.task]
            if args.explain and "lenient" in inspect.signature(type(task)).parameters:
                lenient.append(name)
            lines = [
                json.dumps(_row(sample, task, spec, args.root, args.explain), ensure_ascii=False)
                for sample in samples
            ]
            (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
            _write(folder / f"{GROUP}_{name}.yaml", _task_file(name, args.out, args.max_new_tokens))
            names.append(name)
            print(f"{name}: {len(samples):,} questions")
        if not names:
            raise ValueError(f"none of the datasets has a test file under {args.root}")
        _write(folder / f"{GROUP}.yaml", {"group": GROUP, "task": [f"{GROUP}_{name}" for name in names]})
        settings = {"root": str(args.root.absolute()), "lenient": lenient}
        settings["config"] = (
            args.config if args.config == "data/av_uie_v2.yaml" else str(find_config(args.config))
        )
        (folder / "settings.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        shutil.copy(_UTILS, folder / "utils.py")
    print(
        f"Wrote {args.out}. In the environment of lmms-eval: CRAB_LIGHTNING=/path/to/crab-lightning "
        f"lmms-eval --include_path {args.out} --tasks {GROUP} --model ..."
    )


def _row(sample: Sample, task: Task[Any], spec: DatasetSpec, root: Path, explain: bool) -> dict[str, str]:
    """Return a question as a flat dictionary of texts, which the JSON reader of ``datasets`` needs."""
    from crab_lightning.data.dataset import longer

    conversation = task.conversation(sample)
    if explain and (said := task.explanation(sample, spec)):
        conversation = longer(conversation, said)
    try:
        target = task.direct(sample)
    except (KeyError, ValueError):  # some test files lack the annotation in this form
        target = ""
    return {
        "id": sample.id,
        "content": json.dumps(_content(conversation, sample, root), ensure_ascii=False),
        "target": target,
    }


def _content(conversation: Conversation, sample: Sample, root: Path) -> list[dict[str, str]]:
    from crab_lightning.structures import Media, Reply

    media = {
        Media.VIDEO: iter(sample.videos),
        Media.IMAGE: iter(sample.images),
        Media.AUDIO: iter(sample.audios),
    }
    parts: list[dict[str, str]] = []
    for part in conversation:
        if isinstance(part, Reply):
            raise ValueError(
                f"{sample.id} is a conversation of several turns, which cannot be in these task files; leave "
                "the dataset out with --only"
            )
        if isinstance(part, str):
            parts.append({"type": "text", "text": part})
        else:
            path = next(media[part])
            path = path.relative_to(root) if path.is_relative_to(root) else path.absolute()
            parts.append({"type": part.value, "path": str(path)})
    return parts


def _task_file(name: str, out: Path, max_new_tokens: int) -> dict[str, Any]:
    return {
        "task": f"{GROUP}_{name}",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(out.absolute() / f"{name}.jsonl")}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": Function("utils.doc_to_text"),
        "doc_to_target": Function("utils.doc_to_target"),
        "doc_to_visual": Function("utils.doc_to_visual"),
        "doc_to_messages": Function("utils.doc_to_messages"),
        "process_results": Function("utils.process_results"),
        # Without `until`, lmms-eval ends an answer at its first empty line.
        "generation_kwargs": {
            "until": ["<|im_end|>"],
            "max_new_tokens": max_new_tokens,
            "temperature": 0,
            "do_sample": False,
        },
        "metric_list": [
            {"metric": "headline", "aggregation": Function("utils.score"), "higher_is_better": True}
        ],
        "metadata": [{"version": 1.0}],
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(yaml.dump(content, Dumper=_Dumper, sort_keys=False), encoding="utf-8")


class _Dumper(yaml.SafeDumper):
    """Writes names of functions in the form that lmms-eval reads."""


_Dumper.add_representer(Function, lambda dumper, name: dumper.represent_scalar("!function", str(name)))
