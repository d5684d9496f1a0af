"""A stub of an OpenAI-compatible endpoint on loopback: it writes texts from the answer that it is told.

It lies about a fifth of the questions, by their media, whenever it is asked about them.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def lies_about(content: list[dict[str, Any]]) -> bool:
    """Say whether the stub lies about a question with these media and this text."""
    asked = json.dumps(
        [part for part in content if "Right answer" not in part.get("text", "")], sort_keys=True
    )
    return int(hashlib.sha256(asked.encode()).hexdigest(), 16) % 5 == 0


class WritingEndpoint:
    """The running stub; ``trouble`` makes every third request fail at first, in one of several ways."""

    def __init__(self, trouble: bool = False) -> None:
        self.requests: Counter[str] = Counter()
        self.troubles: Counter[str] = Counter()
        self.trouble, self.lock = trouble, threading.Lock()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                """Stay quiet."""

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                kind = stub.note(hashlib.sha256(body).hexdigest())
                reply = stub.reply(json.loads(body))
                if kind in ("429", "500"):
                    self.send_response(int(kind))
                    if kind == "429":
                        self.send_header("Retry-After", "0.05")
                    self.send_header("Content-Length", "2")
                    self.end_headers()
                    self.wfile.write(b"{}")
                    return
                if kind == "slow":
                    time.sleep(1.5)
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(reply)))
                self.end_headers()
                try:
                    self.wfile.write(reply[: len(reply) // 2] if kind == "cut" else reply)
                except (BrokenPipeError, ConnectionResetError):
                    return
                if kind == "cut":
                    self.close_connection = True

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def note(self, name: str) -> str:
        """Count a request, and say what goes wrong with it."""
        with self.lock:
            self.requests[name] += 1
            if not self.trouble or self.requests[name] > 1 or len(self.requests) % 2:
                return ""
            kind = ("429", "500", "cut", "slow")[len(self.requests) // 2 % 4]
            self.troubles[kind] += 1
            return kind

    def reply(self, request: dict[str, Any]) -> bytes:
        """Return a chat completion."""
        content = request["messages"][1]["content"]
        assert any(part["type"] == "image_url" for part in content)
        assert any(part["type"] == "input_audio" for part in content)
        told = content[-1]["text"]
        found = re.match(r"The right answer is: (.*?)\n", told, re.DOTALL)
        if found is None:  # weak labels: every class is seen at first, and heard later
            names = re.match(r"These events .*?: (.*)\n", told)
            assert names is not None
            answer = "".join(
                f"<visual>{n},(0 4)</visual><audio>{n},(2 7)</audio>" for n in names[1].split(", ")
            )
            lie = "<visual>Speech,(0 4)</visual>"
        else:
            answer, lie = found[1], "<answer>nothing at all</answer> <event>Nothing, (0 1)</event>"
        text = f"Something moves in the picture and sounds at the same time, which decides it. {answer}"
        if lies_about(content[:-1]):
            text = text.replace(answer, lie)
        usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        whole = {"id": "x", "object": "chat.completion", "created": 0, "model": "stub", "choices": [choice]}
        return json.dumps(whole | {"usage": usage}).encode()

    def close(self) -> None:
        """Stop it."""
        self.server.shutdown()
        self.server.server_close()
