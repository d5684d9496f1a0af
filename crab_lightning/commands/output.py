"""Output that does not end a run, also when the pipe is closed or the terminal cannot show a character."""

from __future__ import annotations

import errno
import io
import sys
from typing import Any

# Its reader has gone, or it is a log on a full disk: what a run says is no reason to end it.
_LOST = (
    errno.EPIPE,
    errno.EIO,
    errno.ENOSPC,
    errno.EFBIG,
    *((errno.EDQUOT,) if hasattr(errno, "EDQUOT") else ()),
)


class _Lasting(io.FileIO):
    """A file whose reader may have gone, or whose disk may be full: what is written after that is dropped."""

    def write(self, data: Any) -> int:
        """Write, or drop what nobody can read (``| head``, a lost connection, a log on a full disk)."""
        try:
            return super().write(data) or 0
        except OSError as err:
            if err.errno not in _LOST:
                raise
            return len(data)


def keep_output_open() -> None:
    """Let this process's output survive its reader, and write what the encoding lacks as an escape."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not getattr(sys, f"__{name}__") or not isinstance(stream, io.TextIOWrapper):
            continue  # a test's or a notebook's own
        raw = _Lasting(stream.fileno(), "w", closefd=False)
        lasting = io.TextIOWrapper(
            io.BufferedWriter(raw),
            encoding=stream.encoding,
            errors="backslashreplace",
            line_buffering=stream.line_buffering or name == "stderr",
        )
        setattr(sys, name, lasting)
