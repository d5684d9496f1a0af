"""Write the reference pages of the documentation from the code; every build calls this."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import yaml

from crab_lightning.commands import COMMANDS
from crab_lightning.data.manifests.layout import card

REPO = Path(__file__).resolve().parents[1]
PAGES = REPO / "docs" / "reference"
ROOMS = {
    "models": "Models",
    "adapters": "Adapters",
    "data": "Data",
    "evaluation": "Evaluation",
    "runs": "Runs",
    "dashboards": "Dashboards",
    "distributed": "Several processes",
    "segmentation": "Masks",
    "media": "Media",
    "processing": "Processing",
    "encoders": "Encoders",
    "captioners": "Captioners",
    "mini": "Mini AV-UIE",
}
TRAINER = ("fit", "validate", "test", "predict")
SOUND = {
    "units": "the whole clip",
    "one_unit": "one of {units} parts: that of the picture",
    "head": "the first {head_s:g} s",
    "strided": "around every {every}th of {units} parts, {before:g} parts before to {after:g} after",
}


def write(name: str, text: str) -> None:
    """Write one generated page; an unchanged one is left alone, so that Sphinx need not read it again."""
    page = PAGES / f"{name}.md"
    page.parent.mkdir(exist_ok=True)
    if not page.is_file() or page.read_text(encoding="utf-8") != text:
        page.write_text(text, encoding="utf-8")


def help_of(command: str) -> str:
    """Return what ``python cli.py COMMAND --help`` prints at 80 columns."""
    words = [sys.executable, "cli.py", *command.split(), "--help"]
    environment = os.environ | {"COLUMNS": "80", "PYTHONPATH": str(REPO)}
    done = subprocess.run(words, cwd=REPO, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"`{' '.join(words[1:])}` ended with {done.returncode}: {done.stderr}")
    return done.stdout.replace(" \b", "").rstrip()  # jsonargparse takes back a space before `[=flags]`


def exports(room: str) -> list[tuple[str, str]]:
    """Return the public names of a room and the modules in which they stand."""
    tree = ast.parse((REPO / "crab_lightning" / room / "__init__.py").read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return sorted(
        (alias.asname or alias.name, str(node.module))
        for node in imports
        for alias in node.names
        if str(node.module).startswith(f"crab_lightning.{room}.") and not alias.name.startswith("_")
    )


def python_page(title: str, intro: str, rooms: dict[str, str]) -> str:
    """Return a page with the docstrings of the public names of some rooms."""
    parts = [f"# {title}\n\n{intro}\n"]
    for room, heading in rooms.items():
        parts.append(f"\n## {heading}: `crab_lightning.{room}`\n")
        parts += [documented(module, name) for name, module in exports(room)]
    return "".join(parts)


def documented(module: str, name: str) -> str:
    """Return the directive that shows the docstring of one public name."""
    value = getattr(import_module(module), name)
    if isinstance(value, type):
        kind, options = "autoclass", ":members:\n"
    elif callable(value):
        kind, options = "autofunction", ""
    else:
        return ""  # constants are named in the docstrings of what uses them
    return (
        f"\n### {name}\n\n```{{eval-rst}}\n.. {kind}:: {module}.{name}\n"
        + (f"   {options}" if options else "")
        + "```\n"
    )


def task_cards() -> str:
    """Return one line for each task, from the shipped data config and the classes' docstrings."""
    parts = ["# Tasks\n\nThe key of each task in a config, its datasets, and the docstring of its class.\n"]
    config = yaml.safe_load((REPO / "configs/data/av_uie_v2.yaml").read_text(encoding="utf-8"))
    for key, entry in config["tasks"].items():
        rows = ", ".join(f"`{name}`" for name, row in config["datasets"].items() if row["task"] == key)
        name = entry["class_path"].rsplit(".", 1)[1]
        module = dict(exports("tasks"))[name]
        parts.append(f"\n## `{key}`\n\nDatasets: {rows}.\n{documented(module, name)}")
    return "".join(parts)


def dataset_cards() -> str:
    """Return a table of the datasets with what their rows of the shipped config say."""
    config = yaml.safe_load((REPO / "configs/data/av_uie_v2.yaml").read_text(encoding="utf-8"))
    lines = [
        "# Datasets",
        "",
        "The 19 task files of AV-UIE v2, as `configs/data/av_uie_v2.yaml` reads them. The column *sound*",
        "says which part of the sound of a clip the model hears. The column *frames* says how many frames of",
        "a video it sees, or that it sees one picture. The [glossary](../glossary.md#codes-of-datasets)",
        "explains the keys.",
        "",
        "| key | name | task | frames | sound | metrics |",
        "|---|---|---|---|---|---|",
    ]
    for key, row in config["datasets"].items():
        facts = card(row["layout"])
        sound = SOUND[row["audio"]["kind"]].format(**row["audio"])
        frames = "a picture" if "images" in facts["media"] else row.get("frames", 10)
        metrics = ", ".join(f"`{metric}`" for metric in row.get("metrics", [])) or "all of the task"
        lines.append(f"| `{key}` | {facts['display']} | `{row['task']}` | {frames} | {sound} | {metrics} |")
    return "\n".join(lines) + "\n"


def config_page(text: str) -> str:
    """Return the page of the config keys: all options that ``fit`` has, section by section."""
    return (
        "# Config keys\n\nEvery key of a config file is also an option of the command line: `data.root` in\n"
        "a file is `--data.root` on the command line. `model` is a class with arguments, so an error\n"
        "about `model.max_new_tokens` means the key `model.init_args.max_new_tokens` of a file. The command\n"
        "line takes both forms. This is what `python cli.py fit --help` prints:\n\n"
        f"```text\n{text}\n```\n"
    )


def generate() -> None:
    """Write all pages."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        texts = dict(zip(COMMANDS, pool.map(help_of, COMMANDS), strict=True))
    parts = ["# Commands\n\nThis page shows what `python cli.py COMMAND --help` prints for each command.\n"]
    for command, (_, about) in COMMANDS.items():
        if command in TRAINER:
            text = texts[command].split("\n\nCustomize every aspect")[0]
            more = "\n\nAll other keys: [config keys](config.md).\n"
        else:
            text, more = texts[command], "\n"
        parts.append(f"\n## {command}\n\n{about}\n\n```text\n{text}\n```{more}")
    write("commands", "".join(parts))
    write("config", config_page(texts["fit"]))
    write("python", python_page("Classes and functions", "The public names of each subpackage.", ROOMS))
    write(
        "metrics",
        python_page(
            "Metrics",
            "Each metric states its range, whether a larger value is better, and its source.",
            {"metrics": "Metrics"},
        ),
    )
    write("tasks", task_cards())
    write("datasets", dataset_cards())
