"""Read the options of the commands and show them in ``--help``."""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Never

from crab_lightning.configuration.files import ConfigError
from crab_lightning.program import told
from crab_lightning.spelling import did_you_mean

CHECKPOINT = "a run folder, a .ckpt file, an adapter folder, or hf://OWNER/NAME for adapters on a model hub"
RUN_CONFIG = "config file (default: the run's own config.yaml)"
DEVICE = "cpu, cuda, ... (default: a GPU if there is one)"


# Messages of argparse about a value, and the same in usual words.
_PLAINLY = [
    (re.compile(r"^argument (\S+): invalid float value: (.*)"), r"\1 is \2; it must be a number"),
    (re.compile(r"^argument (\S+): invalid int value: (.*)"), r"\1 is \2; it must be a whole number"),
    (
        re.compile(r"^argument (\S+): invalid choice: (.*) \(choose from (.*)\)"),
        r"\1 is \2; it must be one of \3",
    ),
    (re.compile(r"^argument (\S+): expected (?:at least )?(\w+) arguments?"), r"\1 needs \2 value"),
    (re.compile(r"^argument (\S+): not allowed with argument (\S+)"), r"\1 cannot be given together with \2"),
    (re.compile(r"^argument (\S+): "), r"\1: "),
]


class Options(argparse.ArgumentParser):
    """A parser that accepts no shortened options, and suggests the most similar option for an unknown one.

    Args:
        command: Words of the command, such as ``data check``.
        about: The description of the command, or the function of the command, whose docstring is used.
        options: Further arguments of ``ArgumentParser``.
    """

    def __init__(
        self, command: str, about: Callable[..., object] | str | None = None, **options: Any
    ) -> None:
        self._plain = f"cli.py {command}"
        own = {"prog": told(self._plain), "allow_abbrev": False, "formatter_class": DefaultsShown}
        text = described(about) if callable(about) else about
        super().__init__(**{"description": text, **own, **options})

    def option(
        self, name: str, about: str, kind: Any = None, default: Any = None, *, group: Any = None, **more: Any
    ) -> None:
        """Add an option, or a positional argument.

        Args:
            name: ``--name`` of the option. A name without the dashes makes a positional argument.
            about: The text in ``--help``.
            kind: Function that makes the value from a text. ``--help`` shows whole numbers as ``N``.
            default: The value when the option is left out.
            group: Group of options in which ``--help`` shows the option.
            more: Further arguments of ``add_argument``.
        """
        if kind is not None:
            more["type"] = kind
        if kind in (int, positive, zero_or_more):
            more.setdefault("metavar", "N")
        (group or self).add_argument(name, help=about, default=default, **more)

    def switch(self, name: str, about: str) -> None:
        """Add an option without a value. It is ``True`` if it is given, else ``False``."""
        self.add_argument(name, help=about, action="store_true")

    def format_help(self) -> str:
        """Return the help text, which names the program as the user typed it."""
        return told(super().format_help())

    def parse_args(self, args: Sequence[str], namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse the words. An unknown option is reported before a missing one: the user may have meant it."""
        # A file whose name begins with a dash is not an option.
        args = [
            f"./{word}"
            if word.startswith("-") and word not in self._option_string_actions and Path(word).is_file()
            else word
            for word in args
        ]
        seen: set[str] = set()
        for word in args:
            name = word.partition("=")[0]
            action = self._option_string_actions.get(name)
            if name in seen and action is not None and action.nargs in ("+", "*"):
                self.error(f"{name} is given twice; its values follow it once: {name} A B")
            seen.add(name)
            if name.startswith("--") and name not in self._option_string_actions:
                if name == "--":
                    break
                self.error(f"there is no option {name}{did_you_mean(name, self._option_string_actions)}")
        return super().parse_args(args, namespace)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the words, and check the numbers."""
        found, rest = super().parse_known_args(args, namespace)
        for action in self._actions:
            if action.type in (int, float, positive):
                self._check_number(action, getattr(found, action.dest, None))
        return found, rest

    def _check_number(self, action: argparse.Action, value: Any) -> None:
        """Refuse numbers below 0 and numbers that are not finite, which no option allows."""
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, (int, float)) and not 0 <= number < float("inf"):
                self.error(f"{'/'.join(action.option_strings)} is {number}; it must be at least 0")

    def error(self, message: str) -> Never:
        """End the command with one line, without the usage of all options."""
        for argparse_says, plain in _PLAINLY:
            message = argparse_says.sub(plain, message)
        self.exit(2, f"error: {message}; `{told(f'python {self._plain} --help')}` says more\n")


def described(function: Callable[..., object]) -> str:
    """Return the docstring of a command's function up to its first section, such as ``Raises:``."""
    return re.split(r"\n\n(?:Args|Returns|Raises):", inspect.getdoc(function) or "")[0]


def take(words: Sequence[str], options: Sequence[str], needs: str = "a value") -> tuple[list[str], list[str]]:
    """Split off the values of some options, given as ``--option value`` or ``--option=value``.

    Args:
        words: Words of a command line.
        options: The options.
        needs: Name of the value in the error message.

    Returns:
        The values, and the other words.

    Raises:
        ConfigError: If the last word is one of the options, so that its value is missing.
    """
    values: list[str] = []
    rest: list[str] = []
    following = iter(words)
    for word in following:
        option, equals, value = word.partition("=")
        if option not in options:
            rest.append(word)
            continue
        found = value if equals else next(following, None)
        if found is None:
            raise ConfigError(f"{option} needs {needs}")
        values.append(found)
    return values, rest


def positive(text: str) -> int:
    """Return a whole number of at least 1; this is the type of an option.

    Raises:
        ArgumentTypeError: If the text is not such a number.
    """
    return _whole(text, 1)


def zero_or_more(text: str) -> int:
    """Return a whole number of at least 0; this is the type of an option.

    Raises:
        ArgumentTypeError: If the text is not such a number.
    """
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return int(text)


def port(text: str) -> int:
    """Return the number of a port; this is the type of an option. 0 means any free port.

    Raises:
        ArgumentTypeError: If the text is not a whole number from 0 to 65535.
    """
    if not text.isdecimal() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; ports are numbers from 0 to 65535")
    return int(text)


class DefaultsShown(argparse.ArgumentDefaultsHelpFormatter):
    """Adds default values, except ``None``, ``False``, empty values and those that the text states itself."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Wrap each paragraph by itself. A paragraph that is indented, such as an example, stays."""
        wrapped = super()._fill_text
        return "\n\n".join(p if p[:1] == " " else wrapped(p, width, indent) for p in text.split("\n\n"))

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default is None or action.default is False or action.default in ("", [])
        if silent or "(default: " in (action.help or ""):
            return action.help
        return super()._get_help_string(action)


def add_only(parser: argparse.ArgumentParser, about: str, *, required: bool = False) -> None:
    """Add ``--only KEY,KEY`` and its old name ``--datasets``. ``args.datasets`` is the list of keys."""
    parser.add_argument(
        "--only",
        "--datasets",
        dest="datasets",
        action=_Keys,
        nargs="+",
        default=None,
        required=required,
        metavar="KEYS",
        help=f"{about}, comma-separated (ave,meld); --datasets is the old name",
    )


def add_selection(
    parser: argparse.ArgumentParser, only: str = "only these keys of data.datasets", *, required: bool = False
) -> None:
    """Add ``--root``, ``--config`` and ``--only``; ``only`` and ``required`` go to :func:`add_only`."""
    parser.add_argument("--root", type=Path, required=True, help="folder that contains AVUIE_2/")
    parser.add_argument(
        "--config",
        default="data/av_uie_v2.yaml",
        help="config with `datasets`, at its top level or under `data`; its `tasks` are added to those"
        " of data/av_uie_v2.yaml",
    )
    add_only(parser, only, required=required)


class _Keys(argparse.Action):
    """Reads keys that are separated by commas or spaces, for the new and the old name of the option."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Store the keys."""
        if option_string == "--datasets":
            print("--datasets is the old name of --only; use --only KEY,KEY", file=sys.stderr)
        keys = [key.strip() for value in values for key in value.split(",") if key.strip()]
        if not keys:
            parser.error(f"{option_string} names no dataset")
        setattr(namespace, self.dest, keys)
