"""Print errors as one line of text, and with their type if a user cannot have caused them."""

from __future__ import annotations

import errno
import re
import sys
import traceback
from importlib.metadata import entry_points
from typing import Any

from crab_lightning.adapters.config import ENTRY_POINTS
from crab_lightning.configuration.allowed_code import PACKAGES, allowed_packages

SCORING = "while scoring "
"""Begins the note of an error that names the answer that was scored."""

_KNOWN = (ValueError, OSError, ImportError, NotImplementedError, MemoryError)
# These libraries are not imported here: their errors can only occur after another module has imported them.
_KNOWN_ELSEWHERE = (
    ("lightning.fabric.utilities.exceptions", "MisconfigurationException"),
    ("lightning.pytorch.utilities.exceptions", "MisconfigurationException"),
    ("lightning.fabric.utilities.exceptions", "MPSEnvironmentException"),
    ("safetensors", "SafetensorError"),
    ("pickle", "UnpicklingError"),
    ("zipfile", "BadZipFile"),
    ("torch", "OutOfMemoryError"),
    ("yaml", "YAMLError"),
    ("jsonargparse", "ArgumentError"),
    ("argparse", "ArgumentTypeError"),
    ("urllib3.exceptions", "HTTPError"),
    ("httpx", "HTTPError"),
    ("httpx2", "HTTPError"),
)


def is_known(err: BaseException) -> bool:
    """Return whether the files, the options or the machine of a user can have caused an error."""
    found: list[Any] = [getattr(sys.modules.get(module), name, None) for module, name in _KNOWN_ELSEWHERE]
    return isinstance(err, (*_KNOWN, *(kind for kind in found if isinstance(kind, type))))


def place_of(err: BaseException) -> str:
    """Return the file and line of the innermost frame in this package or in a package of the user."""
    if isinstance(err, SyntaxError) and err.filename is not None:
        return f"{err.filename}, line {err.lineno}"
    own = {*allowed_packages()}.difference(PACKAGES) | {"crab_lightning", "__main__"}
    own |= {point.module.partition(".")[0] for point in entry_points(group=ENTRY_POINTS)}
    places = [
        f"{frame.f_code.co_filename}, line {line}"
        for frame, line in traceback.walk_tb(err.__traceback__)
        if str(frame.f_globals.get("__name__")).partition(".")[0] in own
    ]
    return places[-1] if places else "another package"


def one_text(err: BaseException) -> str:
    """Return the text of an error, without an error number and without the traceback of a loader process."""
    if isinstance(err, OSError) and err.strerror:
        names = [str(name) for name in (err.filename, err.filename2) if name is not None]
        if not names and err.errno in (errno.ENOSPC, errno.EFBIG, errno.EROFS):
            return f"{err.strerror}: a file could not be written; free some space on that disk"
        return ": ".join([err.strerror, " -> ".join(names)]) if names else err.strerror
    if isinstance(err, UnicodeDecodeError):
        return f"a file must be UTF-8 text and is not ({err.reason} at byte {err.start})"
    if isinstance(err, MemoryError) and not str(err):
        return "there is not enough memory"
    as_options = getattr(err, "as_options", None)  # ``AskError`` names arguments as in Python
    text = str(err if as_options is None else as_options()).strip()
    if text.startswith("Caught ") and "Traceback (most recent call last):" in text:
        # A loader process sends its traceback as text. The message follows the last name of the error.
        text = re.split(rf"^(?:[\w.]+\.)?{type(err).__name__}: ", text, flags=re.MULTILINE)[-1].rstrip()
    notes = [note for note in getattr(err, "__notes__", ()) if note.startswith(SCORING)]
    return ", ".join([text or type(err).__name__, *notes[:1]])
