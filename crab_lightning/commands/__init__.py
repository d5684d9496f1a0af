"""The sub-commands of the command line, and the dispatcher, which imports only the command that is called."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from argparse import ArgumentError
from collections.abc import Sequence
from importlib import import_module

from crab_lightning import __version__
from crab_lightning.commands.errors import is_known, one_text, place_of
from crab_lightning.commands.help_text import take
from crab_lightning.commands.output import keep_output_open, lost_output
from crab_lightning.configuration.allowed_code import OPTION, allow_code_of
from crab_lightning.lazy import lazy_torchmetrics
from crab_lightning.program import start_quickly, told, warn_without_places
from crab_lightning.spelling import did_you_mean

__all__ = ["COMMANDS", "main", "program"]

COMMANDS: dict[str, tuple[str, str]] = {
    "fit": ("trainer:run", "Train adapters on a mixture of datasets."),
    "validate": ("trainer:run", "Compute the loss and generate answers on the validation split."),
    "test": ("trainer:run", "Answer the test splits and score them."),
    "predict": ("trainer:run", "Answer the test splits without scoring."),
    "plan": ("plan:run", "Estimate the memory and the time of a run."),
    "score": ("score:run", "Score a file of answers without a model."),
    "compare": ("compare:run", "Compare the scores of runs, with confidence intervals."),
    "report": ("report:run", "Write a run's results as one HTML page."),
    "probe": ("conditions:probe", "Test a run without sound, without pictures, and with swapped sound."),
    "routes": ("routes:run", "Record how the routers of a run weight its adapter heads."),
    "heads": ("conditions:heads", "Test an I-LoRA run without each of its heads."),
    "study plan": ("study:plan", "List the runs of a study and estimate how long they take."),
    "study run": ("study:run", "Train and test all the runs of a study."),
    "study status": ("study:status", "Show which runs of a study are finished."),
    "study submit": ("study:submit", "Submit the runs of a study to SLURM."),
    "study report": ("study:report", "Report whether training tasks together helps or hurts them."),
    "ask": ("ask:run", "Ask a trained run about your own clip."),
    "evaluate": ("evaluate:run", "Ask a model behind an OpenAI-compatible API all test questions."),
    "serve": ("serve:run", "Serve a trained run over HTTP, with the API of OpenAI."),
    "demo": ("serve:demo", "Open a web page where you upload a clip and ask about it."),
    "adapter convert": ("adapter:convert", "Convert released Crab+ weights to an adapter folder, or back."),
    "adapter export": ("adapter:export", "Write the LoRA of a run as a PEFT folder or a merged checkpoint."),
    "adapter inspect": (
        "adapter:inspect",
        "Show the kind, the sizes and the largest values of adapter weights.",
    ),
    "adapter pull": ("adapter_hub:pull", "Download adapters from a model hub."),
    "adapter push": ("adapter_hub:push", "Upload the adapters of a run to a model hub, with a model card."),
    "segment": ("segment:run", "Draw a mask over the object that sounds, or over a named object."),
    "showcase": ("showcase:run", "Ask a trained run one question of each task about a clip."),
    "data mini": ("data:mini", "Write Mini AV-UIE, a synthetic data root with all 19 datasets."),
    "data points": ("points:run", "Compute the boxes and points in training texts from masks."),
    "data cache": ("data:cache", "Decode every clip once, so that runs read it faster."),
    "data caption": ("caption:run", "Let a model write captions of sounds, to train connectors (stage 1)."),
    "data lmms-eval": ("lmms_eval:run", "Write the test sets as task files for lmms-eval."),
    "data check": ("data:check", "Check the manifests, media and answers of a data root."),
    "build import": ("build:import_", "Import a dataset from the files that its owner publishes."),
    "build reason": ("build_reason:run", "Let a model write reasoning texts, and check them."),
    "build review": ("build_review:run", "Let people accept, reject or correct reasoning texts."),
    "build stats": ("build:stats", "Count what a data root contains, and compare it with the Crab+ paper."),
    "model tiny": ("model:tiny", "Write a tiny random checkpoint for tests."),
    "model beats-convert": ("model:beats", "Write a published BEATs checkpoint as a safetensors folder."),
    "model pocket": ("model:pocket", "Write a small checkpoint whose text model is pre-trained."),
    "model encoders": ("model:encoders", "Train a tiny CLIP and BEATs on the synthetic data."),
    "model pretrain": ("model:pretrain", "Pre-train the mini base model that the demo fine-tunes."),
    "model sam2-mini": ("model:mini_sam2", "Train the tiny SAM2 for the synthetic data."),
    "model sam2-convert": (
        "model:sam2",
        "Write an official SAM2.1 .pt file as a transformers folder.",
    ),
}
"""Maps the words of a command to ``module:function`` in this room and to one line of help.

The function gets the words that follow the command. For ``fit``, ``validate``, ``test`` and ``predict`` it
gets the command, too. ``--help`` shows the docstring of the function, up to its first section.
"""

_PROG = "cli.py"
_FOOT = (
    f"`python {_PROG} COMMAND --help` explains a command.\n"
    "--debug (or CRAB_DEBUG=1) shows the traceback of an error.\n"
    "--allow-code-of PACKAGE lets a config name classes of your own package."
)


def _help(prefix: str = "") -> str:
    """Return the list of the commands that begin with ``prefix``, one in each line."""
    rows = {name: text for name, (_, text) in COMMANDS.items() if not prefix or name.split()[0] == prefix}
    width = max(map(len, rows)) + 2
    usage = f"usage: {_PROG} {prefix + ' ' if prefix else ''}COMMAND ..."
    lines = [
        usage,
        "",
        "Fine-tune, evaluate and understand one audio-visual LLM on many audio-visual tasks.",
        "",
    ]
    return told("\n".join([*lines, "commands:", *(f"  {n:<{width}}{t}" for n, t in rows.items()), "", _FOOT]))


def _find(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the longest command that ``words`` begin with, and what follows it."""
    for count in (2, 1):
        name = " ".join(words[:count])
        if len(words) >= count and name in COMMANDS:
            return name, list(words[count:])
    return None, list(words)


def program() -> int:
    """Run :func:`main` in a process of its own, which starts and ends faster; return the exit status."""
    start_quickly()
    warn_without_places()
    lazy_torchmetrics()
    try:
        return main()
    finally:
        gc.freeze()  # otherwise Python examines all objects once more when the process ends


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command and return the exit status.

    Only this function turns errors into text. An error that a user can cause is printed in one line. Any
    other error is printed with its type, since it is probably a fault of this program.

    Args:
        argv: The words after the program's name. By default, those of this process are used.

    Returns:
        0 after success, 1 after an error, 2 after a mistake in the command line, 130 after Ctrl-C, and 141 if
        the program that reads the output has ended, as ``head`` does.

    Raises:
        SystemExit: If the command ends by itself, for example after ``--help``.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    keep_output_open()
    if words == ["--version"]:
        print(f"crab_lightning {__version__}")
        return 0
    debug = "--debug" in words or os.environ.get("CRAB_DEBUG", "0") not in ("", "0")
    words = [word for word in words if word != "--debug"]
    name = ""
    try:
        values, words = take(words, (OPTION,), "the name of a package")
        packages = [name for value in values for name in value.split(",")]
        name_, rest = _find(words)
        if name_ is None:
            return _no_command(words)
        name = name_
        allow_code_of(packages)
        module, function = COMMANDS[name][0].split(":")
        # Inside the try: an import may itself report what is wrong (a missing extra, a broken install).
        run = getattr(import_module(f"{__name__}.{module}"), function)
        run([name, *rest] if module == "trainer" else rest)
        sys.stdout.flush()  # a closed pipe has to show here, not when Python ends
        if module != "trainer" and (lost := lost_output()):  # a run writes its results to files
            return _output_is_lost(lost)
    except KeyboardInterrupt:  # fit and test have already said how to continue
        if debug:
            raise
        print(f"\n{name}: stopped by Ctrl-C", file=sys.stderr)
        return 130
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning ends a run that is interrupted with 1
            raise SystemExit(130) from stop
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.flush()
            if not stop.code and (lost := lost_output()):
                return _output_is_lost(lost)
            raise
        return _reader_is_gone()
    except BrokenPipeError as err:
        if err.filename is not None and not debug:
            print(f"error: {one_text(err)}", file=sys.stderr)
            return 1
        return _reader_is_gone()
    except Exception as err:
        if debug:
            raise
        text = one_text(err)
        if not is_known(err):
            text = f"{type(err).__name__}: {text} (this is probably a fault of the code in {place_of(err)};"
            text += " --debug shows how it got there)"
        print(f"error: {told(text)}", file=sys.stderr)
        return 2 if isinstance(err, ArgumentError) else 1  # 2: a mistake in the command line
    return 0


def _output_is_lost(err: OSError) -> int:
    print(f"error: the output is incomplete: {one_text(err)}", file=sys.stderr)
    return 1


def _no_command(words: Sequence[str]) -> int:
    """Print the list of commands, or an error that names the unknown command."""
    groups = {command.split()[0] for command in COMMANDS if " " in command}
    prefix = words[0] if words and words[0] in groups else ""
    asked = words[len(prefix.split()) :]
    if not asked or asked[0] in ("-h", "--help"):
        print(_help(prefix))
        sys.stdout.flush()
        return 0
    name = " ".join((prefix, asked[0])).strip()
    known = [command for command in COMMANDS if command.startswith(prefix)]
    print(
        f"error: there is no command '{name}'{did_you_mean(name, known)}; there are: {', '.join(known)}",
        file=sys.stderr,
    )
    return 2


def _reader_is_gone() -> int:
    """Discard all further output, because the program that read it has ended."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141
