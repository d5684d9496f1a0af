"""``ask``: ask a trained run a question about any clip."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from crab_lightning.commands.file_arguments import check_picture, config_file, file_to_read, file_to_write
from crab_lightning.commands.help_text import CHECKPOINT, DEVICE, RUN_CONFIG, Options, positive
from crab_lightning.files import replace_text

if TYPE_CHECKING:
    from rich.console import Console

    from crab_lightning.inference.answer import Answer
    from crab_lightning.inference.loading import TrainedRun
    from crab_lightning.inference.question import Question

_SHOWN = 10


def run(words: Sequence[str]) -> None:
    """Ask a trained run one question about your own clip. The clip is prepared as in training.

    Raises:
        AskError: If the task needs something that was not given, or options do not fit together.
    """
    parser = Options("ask", run, formatter_class=argparse.HelpFormatter)
    add, switch = parser.option, parser.switch
    add("--checkpoint", CHECKPOINT, Path, required=True)
    add("--config", RUN_CONFIG, config_file)
    add("--task", "a task or dataset of the config, or the initials of a task (qa, er, ...)", required=True)
    add(
        "--dataset",
        "dataset whose frames, audio window and classes are used (default: the first that fits)",
    )
    add("--folder", "ask about every clip of this folder and its sub-folders; needs --out", Path)
    add(
        "--out",
        "with --folder: file for the answers, one JSON object a line; an existing file is continued",
        file_to_write,
    )
    add("--batch", "with --folder: number of clips that are answered at the same time", positive, 8)
    add("--workers", "with --folder: number of clips that are read at the same time", int, 2)
    add("--video", "video file; two where the task compares videos", file_to_read, [], nargs="+")
    add("--image", "picture (default: a frame of the video)", file_to_read)
    add("--audio", "sound file (default: the video's own track)", file_to_read, [], nargs="+")
    switch("--silent", "replace all sound by silence")
    add("--at_s", "second of the clip that an image task looks at (default: its middle)", float)
    add(
        "--windows",
        "ask about a long clip in windows of LENGTH seconds, which start every HOP seconds, and draw a"
        " timeline; for tasks that name events with their times",
        metavar="LENGTH[,HOP]",
    )
    add("--question", "question to be answered")
    add("--options", "answers to choose from", nargs="+")
    add("--expression", "name of the object that a referring task has to find")
    switch("--untaught", "also allow a task or dataset on which the run was not trained")
    switch("--before", "also show the answer of the model before training")
    add(
        "--routes",
        "write a page that shows which head of I-LoRA worked on which token of the question and answer",
        file_to_write,
        metavar="PAGE.html",
    )
    add("--max_new_tokens", "longest answer, in tokens (default: the run's setting)", positive)
    add("--device", DEVICE, default="auto")
    switch("--json", "print only one JSON object for each answer")
    args = parser.parse_args(words)
    if args.folder is not None or args.out is not None:
        run_folder(args)
        return
    check_picture(args.image)
    from crab_lightning.inference.answer import windows_of_text
    from crab_lightning.inference.loading import load_run
    from crab_lightning.inference.question import Question
    from crab_lightning.inference.question_files import AskError
    from crab_lightning.studies.heads import heads_of

    given = {"question": args.question, "options": args.options, "expression": args.expression}
    texts = {name: value for name, value in given.items() if value is not None}
    question = Question(
        args.task, args.video, args.audio, args.image, texts, args.dataset, args.at_s, args.silent,
        args.untaught,
    )  # fmt: skip
    windows = None if args.windows is None else windows_of_text(args.windows)
    if windows is not None and args.routes is not None:
        raise AskError("--routes shows one answer, and --windows asks for several; leave one of them out")
    moments = {"before training": False, "after training": True} if args.before else {"": True}
    for moment, trained in moments.items():  # one at a time: two large models do not fit
        asked = load_run(args.checkpoint, args.config, args.device, trained=trained, check=question.check)
        if args.max_new_tokens is not None:
            asked.model.max_new_tokens = args.max_new_tokens
        if args.routes is not None and trained and not heads_of(asked.model.model):
            raise AskError("--routes needs adapters with a router, such as I-LoRA; this run has none")
        answer = asked.put(question, windows)
        show(answer, args.options, as_json=args.json, moment=moment)
        if args.routes is not None and trained:
            write_routes(asked, question, answer, args.routes)
        del asked


def write_routes(run: TrainedRun, question: Question, answer: Answer, path: Path) -> None:
    """Write a page that shows which head worked on which token.

    Args:
        run: The run that answered.
        question: The question.
        answer: The answer of the run to this question.
        path: HTML file to write.
    """
    from crab_lightning.adapters.names import depth_of
    from crab_lightning.studies.token_routes import answer_page, routes_of_answer

    found, names = routes_of_answer(run, question, answer.text)
    page = answer_page(answer, found, names, [depth_of(name) for name in names])
    replace_text(path, page)
    print(f"Wrote {path}", file=sys.stderr)


def run_folder(args: argparse.Namespace) -> None:
    """Ask about every clip of a folder.

    Args:
        args: Options of ``ask``.

    Raises:
        AskError: If an option is missing, or is not for folders.
        NotADirectoryError: If ``--folder`` is not a folder.
    """
    from crab_lightning.commands.output import StepBar
    from crab_lightning.inference.folder import ask_folder
    from crab_lightning.inference.loading import load_run
    from crab_lightning.inference.question_files import AskError

    if args.folder is None or args.out is None:
        raise AskError("--folder and --out belong together: the clips, and the file for their answers")
    single = ("video", "audio", "image", "before", "json", "windows", "routes")
    if given := [f"--{name}" for name in single if getattr(args, name)]:
        raise AskError(f"{' and '.join(given)}: these options are for one clip; leave them out with --folder")
    if not args.folder.is_dir():
        raise NotADirectoryError(f"--folder {args.folder} is not a folder")
    run = load_run(args.checkpoint, args.config, args.device)
    if args.max_new_tokens is not None:
        run.model.max_new_tokens = args.max_new_tokens
    with StepBar() as bar:
        done = ask_folder(
            run,
            args.task,
            args.folder,
            args.out,
            question=args.question,
            options=args.options,
            expression=args.expression,
            dataset=args.dataset,
            at_s=args.at_s,
            silent=args.silent,
            untaught=args.untaught,
            batch=args.batch,
            workers=args.workers,
            report=bar,
        )
    print(f"{args.out}: {done.answered} clips have an answer, {done.before} of them from an earlier call")
    if done.broken:
        print(f"{len(done.broken)} clips could not be asked about; the file says why under `error`:")
        for name, error in list(done.broken.items())[:_SHOWN]:
            print(f"  {one_line(name)}: {one_line(error)}")
        if len(done.broken) > _SHOWN:
            print(f"  and {len(done.broken) - _SHOWN} more")
    if done.gone:
        print(f"{done.gone} answers belong to clips that are no longer in the folder; they are kept")
    if done.passed_over:
        print(f"{done.passed_over} other files do not have the name of a clip, and were skipped")


def one_line(text: str) -> str:
    """Return a text with its control characters written as escapes. Names of files may contain them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def show(answer: Answer, options: Sequence[str] | None, *, as_json: bool, moment: str = "") -> None:
    """Print the raw and the parsed answer.

    Args:
        answer: The answer.
        options: The answers from which the model had to choose, if the user gave any.
        as_json: Print one JSON object.
        moment: ``before training`` or ``after training``, if both models are asked.
    """
    if as_json:
        record = {
            "task": answer.task,
            "dataset": answer.dataset,
            "answer": answer.text,
            "parsed": answer.value,
            "truncated": answer.truncated,
            "tokens": answer.tokens,
            "seconds": answer.seconds,
        }
        if answer.windows:
            record |= {"whole_s": answer.whole_s, "windows": list(answer.windows)}
        record |= ({"moment": moment} if moment else {}) | ({"note": answer.note} if answer.note else {})
        print(json.dumps(record, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    console = Console()
    if answer.windows:
        _show_windows(console, answer, moment)
        return
    cut = ", cut off at the token limit" if answer.truncated else ""
    first = f"{moment}: " if moment else ""
    title = f"{first}{answer.task} as {answer.dataset}: {answer.tokens} tokens in {answer.seconds:.1f} s{cut}"
    console.print(Panel(Text(answer.text or "(empty)"), title=title, title_align="left"))
    if answer.value is None:
        parsed = f"cannot be read{': ' + answer.note if answer.note else ''}"
    elif options and isinstance(answer.value, int):
        parsed = f"option {answer.value}, {options[answer.value]}"
    else:
        parsed = json.dumps(answer.value, ensure_ascii=False)
    console.print(Text(f"parsed: {parsed}"), soft_wrap=True)


def _show_windows(console: Console, answer: Answer, moment: str) -> None:
    """Print the answer about each window, and one timeline of the clip."""
    from rich.text import Text

    from crab_lightning.inference.answer import timeline

    first = f"{moment}: " if moment else ""
    console.print(
        Text(
            f"{first}{answer.task} as {answer.dataset}: {len(answer.windows)} windows of a clip of "
            f"{answer.whole_s:g} s, {answer.tokens} tokens in {answer.seconds:.1f} s"
        )
    )
    for window in answer.windows:
        console.print(
            Text(f"{window['start_s']:g} to {window['end_s']:g} s: {window['answer'] or '(empty)'}")
        )
        if beyond := window["beyond_window"]:
            console.print(Text(f"  cut off at the end of this window: {', '.join(beyond)}"))
    for line in timeline(answer.value, answer.whole_s):
        console.print(Text(line), soft_wrap=True)
    if answer.value is None:
        console.print(Text(f"No event can be read{': ' + answer.note if answer.note else ''}."))
