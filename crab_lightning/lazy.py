"""Names of a package that are imported when they are first used.

``lightning`` and ``transformers`` take seconds to import. Therefore the packages of this project import their
modules only when one of their names is used.
"""

from __future__ import annotations

import ast
import logging
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from typing import Any


def lazy_exports(package: str, file: str) -> tuple[Callable[[str], Any], list[str]]:
    """Return ``__getattr__`` and ``__all__`` for the names that ``file`` imports under ``TYPE_CHECKING``.

    The block ``if TYPE_CHECKING:`` is the only list of names. Type checkers and this function read it.

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


def lazy_torchmetrics() -> None:
    """Make ``import torchmetrics`` fast: it then imports only the two classes that Lightning uses.

    These are ``Metric`` and ``MetricCollection``. The import of the whole package takes a second, since its
    metrics import libraries such as ``scipy.signal``. It happens at the first use of any other name of the
    package, and also if a later version keeps the two classes in other modules than version 1.9. Call this
    only in a process that runs a command, because it changes the import for the whole process.
    """
    spec = None if "torchmetrics" in sys.modules else find_spec("torchmetrics")
    if spec is None or spec.loader is None:
        return
    module, loader = module_from_spec(spec), spec.loader
    homes = {"Metric": "metric", "MetricCollection": "collections", "__version__": "__about__"}
    names = vars(module)

    def getattr_(name: str) -> Any:
        if name in homes:
            try:
                if homes[name] != "__about__":
                    import_module("torchmetrics.utilities")  # must come before ``metric``, which it imports
                found = getattr(import_module(f"torchmetrics.{homes[name]}"), name)
                return names.setdefault(name, found)
            except (ImportError, AttributeError):
                homes.clear()
        elif name.startswith("__") and name != "__all__":
            raise AttributeError(f"module 'torchmetrics' has no attribute {name!r}")
        if names.pop("__getattr__", None) is None:
            raise AttributeError(f"module 'torchmetrics' has no attribute {name!r}")
        loader.exec_module(module)
        return getattr(module, name)

    names |= {"__getattr__": getattr_, "_logger": logging.getLogger("torchmetrics")}
    sys.modules["torchmetrics"] = module
