"""Commands in the place of ``fit`` and ``test``; engines call them by name in processes of their own."""

from __future__ import annotations

import json
import os
import resource
import signal
import time
from collections.abc import Sequence
from pathlib import Path


def _folder(words: Sequence[str]) -> Path:
    return Path(words[words.index("--run.folder") + 1])


def quick(words: Sequence[str]) -> None:
    """Note the call, and leave what a test leaves; a call that only prints its config leaves nothing."""
    if "--print_config" in words:
        return
    folder = _folder(words)
    with (folder / "calls").open("a") as file:
        file.write(f"{words[0]} {os.getpid()}\n")
    if words[0] == "test":
        (folder / "metrics.json").write_text(json.dumps({"test": {"datasets": {}}}))


def faulty(words: Sequence[str]) -> None:
    """Fail in one cell, die in another, and end well in the rest."""
    folder = _folder(words)
    if folder.name.startswith("lora.single.avqa"):
        raise ValueError("the rows are gone")
    if folder.name.startswith("lora.single.dfew"):
        os.kill(os.getpid(), signal.SIGKILL)
    quick(words)


def on_full_disk(words: Sequence[str]) -> None:
    """Meet the end of the disk in one cell, where nothing more can be written, and end well in the rest."""
    if _folder(words).name == "lora.multi.seed0":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    quick(words)


def interrupted(words: Sequence[str]) -> None:
    """End as Lightning ends an interrupted run."""
    raise SystemExit(1)


def patient(words: Sequence[str]) -> None:
    """Wait until it is asked to end."""
    (_folder(words) / "waits").touch()
    time.sleep(60)


def slow(words: Sequence[str]) -> None:
    """Take a while."""
    time.sleep(1.0)
    quick(words)


def faulty_on_ray(words: Sequence[str]) -> None:
    """Fail in one cell, and end well in the rest."""
    if _folder(words).name.startswith("lora.single.avqa"):
        raise ValueError("the rows are gone")
    quick(words)
