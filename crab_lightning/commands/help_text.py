"""How the commands take and show their options."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Never


class Options(argparse.ArgumentParser):
    """A parser that takes no shortened option, and answers an unknown one with the closest."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})

    def parse_args(self, args: Sequence[str], namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse; an unknown option is named before what is missing, which it may be meant for."""
        # A file whose name begins with a dash is no option.
        args = [
            f"./{word}"
            if word.startswith("-") and word not in self._option_string_actions and Path(word).is_file()
            else word
            for word in args
        ]
        for word in args:
            name = word.partition("=")[0]
            if name.startswith("--") and name not in self._option_string_actions:
                if name == "--":
                    break
                close = get_close_matches(name, self._option_string_actions, 1)
                hint = f" (did you mean {close[0]}?)" if close else ""
                self.error(f"there is no option {name}{hint}")
        return super().parse_args(args, namespace)

    def error(self, message: str) -> Never:
        """End the command with one line, without the usage of all options."""
        self.exit(2, f"error: {message}; `python {self.prog} --help` says more\n")


class DefaultsShown(argparse.ArgumentDefaultsHelpFormatter):
    """Adds the defaults that say something: not ``None``, ``False`` or empty, nor one told in words."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default is None or action.default is False or action.default in ("", [])
        if silent or "(default: " in (action.help or ""):
            return action.help
        return super()._get_help_string(action)
