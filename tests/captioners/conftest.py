"""Sound files, and an endpoint on a real socket of this machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crab_lightning.media import write_audio


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """Return a data root with five sounds of 1.0 to 1.4 s in ``clips``."""
    folder = tmp_path / "root" / "clips"
    folder.mkdir(parents=True)
    for i in range(5):
        tone = np.sin(np.arange(16_000 + 1_600 * i) * 0.05 * (i + 1)).astype(np.float32) * 0.5
        write_audio(folder / f"recording-{i}_0.000.wav", tone, 16_000)
    return tmp_path / "root"


Answer = tuple[int, bytes, dict[str, str]]


def spoken(text: str | None) -> Answer:
    return 200, json.dumps({"choices": [{"message": {"content": text}}]}).encode(), {}


@dataclass
class Endpoint:
    """What the server answers to the n-th request, and what it was asked."""

    url: str = ""
    answer: Callable[[dict[str, Any], int], Answer] = lambda body, n: spoken(f"sound {n}")
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    state = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with state.lock:
                state.asked.append(body | {"path": self.path})
                state.headers.append({key.lower(): value for key, value in self.headers.items()})
                number = len(state.asked) - 1
            status, content, headers = state.answer(body, number)
            try:
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client has given up

        def log_message(self, *_: Any) -> None:
            """Stay silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    yield state
    server.shutdown()
    thread.join()
    server.server_close()
