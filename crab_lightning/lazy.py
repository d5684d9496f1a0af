"""Public names of a package that are imported when they are first used.

``lightning`` and ``transformers`` take seconds to import, so no package of this project imports its own
modules before somebody asks for one of their names.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def lazy_exports(package: str, file: str) -> tuple[Callable[[str], Any], list[str]]:
    """Return ``__getattr__`` and ``__all__`` for the names that ``file`` imports under ``TYPE_CHECKING``.

    The block ``if TYPE_CHECKING:`` is the only list of names: type checkers read it, and so does this.

    Args:
        package: ``__name__`` of the package.
        file: ``__file__`` of the package.

    Returns:
        The two values, to be assigned to ``__getattr__`` and ``__all__``.
    """
    blocks = [
        node for node in ast.parse(Path(file).read_text(encoding="utf-8")).body if isinstance(node, ast.If)
    ]
    imports = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    homes = {name.asname or name.name: (node.module, name.name) for node in imports for name in node.names}

    def getattr_(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, attribute = homes[name]
        return getattr(import_module(str(module)), attribute)

    return getattr_, sorted(homes)
