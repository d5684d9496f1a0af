"""``ask``: one question to a trained run about any clip."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from crab_lightning.commands.help_text import Options
from crab_lightning.inference import question

if TYPE_CHECKING:
    from crab_lightning.data import AVDataModule
    from crab_lightning.structures import Prediction

_TEXT_FIELDS = ("question", "options", "expression")


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``ask``."""
    made = Options(
        prog="cli.py ask",
        description="Ask a trained run about your own clip, through the code path that trained it.",
    )
    add = made.add_argument
    add("--checkpoint", required=True, type=Path, help="a run folder, a .ckpt file or an adapter folder")
    add("--config", help="config file; the run's own config.yaml when left out")
    add("--task", required=True, help="a task or dataset of the config, or its initials (qa, er, ...)")
    add(
        "--dataset",
        help="dataset whose frames, audio window and classes are used; the first that fits when left out",
    )
    add("--video", nargs="+", default=[], type=Path, help="video file; two where the task compares videos")
    add("--image", type=Path, help="picture; a frame of the video when left out")
    add("--audio", nargs="+", default=[], type=Path, help="sound file; the video's own track when left out")
    add("--at_s", type=float, help="second of the clip that an image task looks at (default: its middle)")
    add("--question", help="question to be answered")
    add("--options", nargs="+", help="answers to choose from")
    add("--expression", help="what a referring task has to find")
    add("--before", action="store_true", help="show what the model said before training, too")
    add("--max_new_tokens", type=int, help="longest answer; the run's setting when left out")
    add("--device", default="auto", help="cpu, cuda, ... (default: a GPU where there is one)")
    add("--json", action="store_true", help="print one JSON object an answer and nothing else")
    return made


def run(words: Sequence[str]) -> None:
    """Parse the command line, ask, and print the raw and the parsed answer.

    Args:
        words: Options after ``ask``.

    Raises:
        AskError: If the task needs something that was not given.
    """
    args = parser().parse_args(list(words))
    for path in (*args.video, *args.audio, *([args.image] if args.image else [])):
        if not path.is_file():
            raise FileNotFoundError(f"{path} is not a file")
    from crab_lightning.inference.loading import load_run

    texts = {name: value for name in _TEXT_FIELDS if (value := getattr(args, name)) is not None}
    moments = {"before training": False, "after training": True} if args.before else {"": True}
    for moment, trained in moments.items():  # one after the other: two large models would not fit
        model, data = load_run(args.checkpoint, args.config, args.device, trained=trained)
        if args.max_new_tokens is not None:
            model.max_new_tokens = args.max_new_tokens
        with tempfile.TemporaryDirectory() as scratch:
            name = question.choose_dataset(
                data, args.task, args.dataset, len(args.video), len(args.audio), texts
            )
            spec, at_s = data.datasets[name], args.at_s
            sample = question.make_sample(
                name, spec, args.video, args.image, args.audio, at_s, texts, Path(scratch)
            )
            began = time.perf_counter()
            answer = question.put(model, data, sample)
            seconds = time.perf_counter() - began
        show(data, answer, seconds, as_json=args.json, moment=moment)
        del model


def show(data: AVDataModule, answer: Prediction, seconds: float, *, as_json: bool, moment: str = "") -> None:
    """Print the raw and the parsed answer.

    Args:
        data: Tasks and rows.
        answer: What the model wrote.
        seconds: How long it took.
        as_json: Print one JSON object.
        moment: Which of several models it was.
    """
    sample = answer.sample
    task, spec = data.tasks[sample.task], data.datasets[sample.dataset]
    note = ""
    try:
        parsed = task.parse(answer.text, sample, spec)
    except ValueError as err:
        # A run whose config lists no classes still has an answer worth reading.
        parsed, note = None, str(err)
    plain = None if parsed is None else task.jsonable(parsed)
    if plain is not None and spec.classes and isinstance(plain, int) and "options" not in sample.fields:
        plain = spec.classes[plain]
    if as_json:
        record = {
            "task": sample.task,
            "dataset": sample.dataset,
            "answer": answer.text,
            "parsed": plain,
            "truncated": answer.truncated,
            "tokens": answer.tokens,
            "seconds": round(seconds, 3),
        }
        record |= ({"moment": moment} if moment else {}) | ({"note": note} if note else {})
        print(json.dumps(record, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    console = Console()
    cut = ", cut off at the token limit" if answer.truncated else ""
    first = f"{moment}: " if moment else ""
    title = f"{first}{sample.task} as {sample.dataset}: {answer.tokens} tokens in {seconds:.1f} s{cut}"
    console.print(Panel(Text(answer.text or "(empty)"), title=title, title_align="left"))
    if parsed is None:
        console.print(Text(f"parsed: cannot be read{': ' + note if note else ''}"))
    elif "options" in sample.fields and isinstance(plain, int):
        console.print(Text(f"parsed: option {plain}, {sample.fields['options'][plain]}"))
    else:
        console.print(Text(f"parsed: {json.dumps(plain, ensure_ascii=False)}"))
