"""What is printed of an error: one line that says what is wrong, and whether a user can have caused it."""

from __future__ import annotations

import errno
import re
import sys
import traceback
from typing import Any

from crab_lightning.configuration.allowed_code import PACKAGES, allowed_packages

_KNOWN = (ValueError, OSError, ImportError, NotImplementedError, MemoryError)
# Of libraries that are not imported for this: their errors can only come up where they are already.
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
    """Return whether an error is of a kind that a user's files, options or machine cause."""
    found: list[Any] = [getattr(sys.modules.get(module), name, None) for module, name in _KNOWN_ELSEWHERE]
    return isinstance(err, (*_KNOWN, *(kind for kind in found if isinstance(kind, type))))


def place_of(err: BaseException) -> str:
    """Return file and line of the innermost frame of this project, or of a package that a config may name."""
    own = {*allowed_packages()}.difference(PACKAGES) | {"crab_lightning", "__main__"}
    places = [
        f"{frame.f_code.co_filename}, line {line}"
        for frame, line in traceback.walk_tb(err.__traceback__)
        if str(frame.f_globals.get("__name__")).partition(".")[0] in own
    ]
    return places[-1] if places else "another package"


def one_text(err: BaseException) -> str:
    """Return what an error says, without an error number, and without the traceback of a loader process."""
    if isinstance(err, OSError) and err.strerror:
        names = [str(name) for name in (err.filename, err.filename2) if name is not None]
        if not names and err.errno in (errno.ENOSPC, errno.EFBIG, errno.EROFS):
            return f"{err.strerror}: a file could not be written; make room on the disk that is written to"
        return ": ".join([err.strerror, " -> ".join(names)]) if names else err.strerror
    if isinstance(err, UnicodeDecodeError):
        return f"a file must be UTF-8 text and is not ({err.reason} at byte {err.start})"
    if isinstance(err, MemoryError) and not str(err):
        return "there is not enough memory"
    as_options = getattr(err, "as_options", None)  # of ``AskError``, which names arguments as Python has them
    text = str(err if as_options is None else as_options()).strip()
    if text.startswith("Caught ") and "Traceback (most recent call last):" in text:
        # A loader process sends its traceback as text; what was said stands behind the error's name, last.
        text = re.split(rf"^(?:[\w.]+\.)?{type(err).__name__}: ", text, flags=re.MULTILINE)[-1].rstrip()
    return text or type(err).__name__
