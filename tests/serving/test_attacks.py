"""What a hostile or clumsy client sends ends in a clear 4xx, and costs bounded memory and time."""

from __future__ import annotations

import json
import os
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crab_lightning.serving.requests import RequestSizes
from tests.serving.test_server import Server, alone, media, message, model  # noqa: F401 - fixtures

DEEP = "[" * 900 + "]" * 900


@pytest.fixture(scope="module")
def server(model: Any, media: Path) -> Iterator[Server]:  # noqa: F811
    (media / "out.mp4").symlink_to("/etc/passwd")
    (media / "ring.mp4").symlink_to(media / "ring.mp4")
    os.mkfifo(media / "pipe.mp4")
    with Server(model, media_root=media, max_body_mb=3.0, max_prompt_tokens=2000, timeout_s=20) as running:
        yield running


def post(server: Server, body: bytes, **headers: str) -> tuple[int, str]:
    """Send a body as it is, and return the status and the message of the error."""
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}/v1/chat/completions", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, ""
    except urllib.error.HTTPError as err:
        return err.code, json.load(err)["error"]["message"]


def user(*parts: Any, **keys: Any) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": list(parts)}], **keys}).encode()


def video(url: Any) -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": url}}


TEXT = {"type": "text", "text": "What?"}


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (user({"type": ["text"]}), 400, "has the type"),
        (user({"type": {"a": 1}}, None, 7), 400, "has the type"),
        (user(TEXT, stream=True, stream_options=[1]), 400, "stream_options"),
        (user(TEXT, stream=True, stream_options={"include_usage": "x"}), 400, "stream_options"),
        (user({"type": "text", "text": "\ud800"}), 400, "an incomplete character"),
        (user(TEXT, task="\ud800"), 400, "'task'"),
        (user(TEXT, temperature=float("nan")), 400, "contains NaN, which is not JSON"),
        (user(TEXT, max_tokens=float("inf")), 400, "contains Infinity, which is not JSON"),
        (b'{"model": "a", "model": "b"}', 400, "the body has the key 'model' twice in one object"),
        (user(TEXT, seed=10**400), 400, "'seed' must be a whole number"),
        (b'{"seed": ' + b"9" * 5000 + b"}", 400, "not JSON"),
        (user(TEXT, model="m" * 100_000), 404, "there is no model 'mmm"),
        (b'{"messages": [{"role": ' + DEEP.encode() + b"}]}", 400, "has the role"),
        (b"[" * 100_000, 400, "the body is nested too deeply."),
        (b"\xff\xfe\x00", 400, "the body is not UTF-8 text (byte 0xff at 0)."),
        (b"", 400, "not JSON"),
        (user(TEXT, *[video("clip0.mp4")] * (RequestSizes().media + 1)), 400, "media; this server allows"),
        (user({"type": "text", "text": "a" * 1_000_001}), 400, "characters; this server allows"),
        (user({"type": "text", "text": "one two " * 5000}), 400, "tokens, including its media"),
        (user(TEXT, prompt_logprobs=0), 400, "the last message must be an answer of the assistant"),
        (user(TEXT, prompt_logprobs=5), 400, "'prompt_logprobs' must be a whole number"),
        (user(TEXT, video("http://[bad")), 400, "is not an address"),
        (user(TEXT, video("a\0b")), 400, "not a name of a file"),
        (user(TEXT, video("\ud800.mp4")), 400, "not a name of a file"),
        (user(TEXT, video("a" * 5000)), 400, "file"),
        (user(TEXT, video("ring.mp4")), 400, "file"),
        (user(TEXT, video("pipe.mp4")), 400, "is not a file"),
        (user(TEXT, video(".")), 400, "is not a file"),
        (user(TEXT, video("out.mp4")), 403, "is outside the media folder"),
        (user(TEXT, video("%2e%2e/%2e%2e/etc/passwd")), 403, "is outside the media folder"),
        (user(TEXT, video("data:video/mp4;base64," + "A" * 2_000_000)), 400, "cannot be used"),
    ],
    ids=str,
)
def test_hostile_request_is_a_clear_error(server: Server, body: bytes, status: int, said: str) -> None:
    code, message_ = post(server, body)
    assert (code, said in message_) == (status, True), (code, message_[:300])
    assert len(message_) < 1000, "what was sent is not sent back whole"


def test_odd_content_types_change_nothing(server: Server, model: Any, media: Path) -> None:  # noqa: F811
    body = json.dumps({"messages": message(media), "max_tokens": 2}).encode()
    for kind in ("text/plain", "multipart/form-data", "application/x-www-form-urlencoded", "\x01"):
        assert post(server, body, **{"Content-Type": kind})[0] == 200


def test_large_body_without_a_length_is_refused_while_it_comes(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), 20) as sock:
        sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            for _ in range(40):
                sock.sendall(b"20000\r\n" + b" " * 0x20000 + b"\r\n")
        except OSError:
            pass  # the server has closed the connection already
        said = b""
        try:
            said = sock.recv(4096)
        except ConnectionResetError:
            return
    assert b" 413 " in said.split(b"\r\n")[0]


def test_slow_bodies_end_and_leave_the_others_their_answers(model: Any, media: Path) -> None:  # noqa: F811
    with Server(model, timeout_s=2.0, max_requests=6) as slow:
        socks = [socket.create_connection(("127.0.0.1", slow.port), 20) for _ in range(6)]
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"
        for sock in socks:
            sock.sendall(head)
        time.sleep(0.3)
        assert post(slow, user(TEXT))[0] == 429, "bodies that come in are bounded"
        socks.pop().close()
        for sock in socks:
            assert sock.recv(4096).startswith(b"HTTP/1.1 408")
            sock.close()
        assert post(slow, user(TEXT, max_tokens=1))[0] == 200
    assert alone(model, message(media))
