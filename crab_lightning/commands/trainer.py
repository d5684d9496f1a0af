"""``fit``, ``validate``, ``test`` and ``predict``: read the config before large libraries are imported."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import yaml

from crab_lightning.commands.help_text import take
from crab_lightning.configuration.allowed_code import check_names, without_training
from crab_lightning.configuration.files import ConfigError, compose, find_config, naming_file
from crab_lightning.program import start_is_over
from crab_lightning.runs.hub import is_address, repository
from crab_lightning.runs.run_folder import AUTO, find_checkpoint, find_run

if TYPE_CHECKING:
    from crab_lightning.commands.lightning_cli import CrabCLI


def run(words: Sequence[str]) -> None:
    """Run ``fit``, ``validate``, ``test`` or ``predict``.

    Args:
        words: The name of the function and its options.
    """
    cli = command_line(words[0], words[1:])
    start_is_over()
    cli.start()


def command_line(function: str, words: Sequence[str], **methods: Callable[..., object]) -> CrabCLI:
    """Return Lightning's command line for a function, after the config is parsed and all objects are built.

    Args:
        function: ``fit``, ``validate``, ``test`` or ``predict``.
        words: Options of the function.
        methods: Functions that replace the methods of ``CrabCLI`` with the same names.
    """
    options = one_config(list(words), function)
    from crab_lightning.commands.lightning_cli import cli_for
    from crab_lightning.commands.output import quieten

    quieten()
    kind = cli_for(options.words)
    made: CrabCLI = type(kind.__name__, (kind,), methods)(function, *options)
    return made


class Given(NamedTuple):
    """Options of a function with at most one ``--config``, as text.

    Args:
        words: The options.
        run_name: The name of a new run with these configs.
        files: The config files, for error messages.
    """

    words: list[str]
    run_name: str | None = None
    files: Sequence[str] = ()


def one_config(words: list[str], function: str = "fit") -> Given:
    """Replace all ``--config`` options with one, whose value is the text of all config files merged.

    Flags take precedence over configs, whatever their order is, and an option that names a class is put
    before the options with its arguments. Without ``--config``, the config of the run
    in ``--ckpt_path`` is used. Only ``fit`` keeps the settings of training, see
    :func:`~crab_lightning.configuration.allowed_code.without_training`.

    Args:
        words: Options of the function.
        function: ``fit``, ``validate``, ``test`` or ``predict``.

    Raises:
        ConfigError: If a config is missing, is empty or cannot be read, or names a class that is not allowed.
    """
    _check_words(words, function)
    names, rest = take(words, ("--config", "-c"))
    rest = _classes_first(_with_paths(rest))
    stored: Path | None = None
    given, others = take(rest, ("--ckpt_path",))
    checkpoint = given[-1] if given else None  # the parser, too, takes the last one
    checkpoint = None if checkpoint == AUTO else checkpoint
    repo: str | None = None
    if checkpoint and is_address(checkpoint):
        repo = repository(checkpoint)[0].partition("/")[2]
        checkpoint = str(find_checkpoint(checkpoint))  # downloaded once; a folder from now on
        rest = [*others, "--ckpt_path", checkpoint]
    if not names:
        stored = find_run(find_checkpoint(Path(checkpoint))) if checkpoint else None
        if stored is None:
            return Given(rest)
        print(f"Using {stored / 'config.yaml'}", file=sys.stderr)
        names = [str(stored / "config.yaml")]
    content = compose(names, of_run=stored is not None)
    if not content:
        raise ConfigError(f"config {', '.join(names)} is empty")
    if stored is not None:
        from crab_lightning.adapters.kinds import drop_foreign_keys

        with naming_file(names):
            drop_foreign_keys(content.get("model") or {})
    if function != "fit":
        content, taken = without_training(content, of_run=stored is not None)
        if taken:
            print(
                f"{function} does not use these parts of the run's config: {', '.join(taken)}. "
                "Give --config to use your own",
                file=sys.stderr,
            )
    with naming_file(names):
        check_names(content)
    name = repo or content.get("run", {}).get("name") or find_config(names[0]).stem
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    return Given(["--config", text, *rest], name, names)


_HELPED = {"--model.help": "crab_lightning.models.{}", "--data.tasks.help": "crab_lightning.tasks.{}"}


def _with_paths(words: Sequence[str]) -> list[str]:
    """Return the options with the import path of a class whose name alone follows an option for help."""
    pairs = pairwise(["", *words])
    return [_HELPED.get(option, "{}").format(word) if word.isidentifier() else word for option, word in pairs]


def _classes_first(words: Sequence[str]) -> list[str]:
    """Return the options with those that name a class in front, because the parser needs the class first."""
    options: list[list[str]] = []
    for word in words:
        if word.startswith("-") or not options:
            options.append([word])
        else:
            options[-1].append(word)
    named = [option for option in options if option[0].partition("=")[0].endswith(".class_path")]
    others = [option for option in options if option not in named]
    named.sort(key=lambda option: option[0].partition("=")[0].count("."))  # outer classes before inner ones
    return [word for option in (*named, *others) for word in option]


def _check_words(words: Sequence[str], function: str) -> None:
    """Refuse words that belong to no option, and a run after ``--checkpoint``, which is a section of keys."""
    for before, word in zip(["", *words], words, strict=False):
        name, equals, value = word.partition("=")
        if before == "--checkpoint" or (name == "--checkpoint" and equals):
            value = value or word
            if not value.startswith("{"):
                raise ConfigError(
                    f"--checkpoint {value}: a run or a checkpoint is given as --ckpt_path {value}"
                )
        if word.startswith("-") or (before.startswith("-") and "=" not in before):
            continue
        remedy = f"`python cli.py {function} --help` lists the options"
        if word.endswith((".yaml", ".yml")):
            remedy = f"a config is given as --config {word}"
        elif equals and name.replace(".", "").replace("_", "").isalnum():
            remedy = f"did you mean --{word}?"
        elif Path(word).exists():
            remedy = f"a run or a checkpoint is given as --ckpt_path {word}"
        raise ConfigError(f"{word!r} belongs to no option; {remedy}")
