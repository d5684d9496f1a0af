"""Output that does not end a run, also when the pipe is closed or the terminal cannot show a character."""

from __future__ import annotations

import errno
import io
import sys
from typing import Any


class _Lasting(io.FileIO):
    """A file whose reader may have gone: what is written after that is dropped."""

    def write(self, data: Any) -> int:
        """Write, or drop what nobody reads any more (``| head``, a connection that was lost)."""
        try:
            return super().write(data) or 0
        except OSError as err:
            if err.errno not in (errno.EPIPE, errno.EIO):
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
