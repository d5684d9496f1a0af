"""How the commands show their options."""

from __future__ import annotations

import argparse


class DefaultsShown(argparse.ArgumentDefaultsHelpFormatter):
    """Adds the defaults that say something: not ``None``, ``False`` or empty, nor one told in words."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default is None or action.default is False or action.default in ("", [])
        if silent or "(default: " in (action.help or ""):
            return action.help
        return super()._get_help_string(action)
