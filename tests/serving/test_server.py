"""The server, asked by the official client: answers are those of the model alone, bad requests are named."""

from __future__ import annotations

import base64
import json
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import uvicorn
from openai import APIStatusError, AuthenticationError, BadRequestError, NotFoundError, OpenAI, RateLimitError
from PIL import Image

from crab_lightning.adapters import AdapterConfig
from crab_lightning.commands import main
from crab_lightning.commands.serve import run as serve
from crab_lightning.media import MediaLimits, write_audio, write_video
from crab_lightning.models import OmniModule
from crab_lightning.serving.app import ServerOptions, make_app
from crab_lightning.serving.request_media import load_example
from crab_lightning.serving.requests import RequestSizes, read_request
from crab_lightning.serving.worker import Worker
from tests.quiet import with_trained_adapters


@pytest.fixture(scope="module")
def model(tiny: Path) -> Any:
    torch.manual_seed(0)
    module = OmniModule(str(tiny), adapter=AdapterConfig(rank=4), dtype="float32", max_new_tokens=12)
    module.configure_model()
    torch.manual_seed(1)
    return with_trained_adapters(module, std=0.3).eval()


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    rng = np.random.default_rng(0)
    for number in range(4):
        frames = torch.from_numpy(rng.integers(0, 255, (8, 64, 64, 3), dtype=np.uint8))
        write_video(folder / f"clip{number}.mp4", frames, fps=8.0)
        write_audio(folder / f"clip{number}.wav", torch.from_numpy(rng.normal(0, 0.1, 16_000)).float())
    Image.new("RGB", (64, 64), "red").save(folder / "red.png")
    (folder / "broken.mp4").write_bytes((folder / "clip0.mp4").read_bytes()[:200])
    return folder


class Server:
    """A real server on a free port of the loopback address."""

    def __init__(
        self, model: Any, *, slots: int = 3, waiting: int = 64, demo: Any = None, **options: Any
    ) -> None:
        self.worker = Worker(model, slots, waiting)
        app = make_app(
            model,
            self.worker,
            MediaLimits(),
            ServerOptions("tiny", **{"max_new_tokens": 12} | options),
            "torch",
            demo,
        )
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.server = uvicorn.Server(uvicorn.Config(app, port=self.port, log_level="warning"))
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    def __enter__(self) -> Server:
        self.thread.start()
        for _ in range(200):
            if self.server.started:
                return self
            time.sleep(0.05)
        raise AssertionError("the server did not start")

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join(20)

    def client(self, key: str = "none") -> OpenAI:
        return OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key=key, max_retries=0, timeout=60)


@pytest.fixture(scope="module")
def server(model: Any, media: Path) -> Iterator[Server]:
    with Server(model, media_root=media, max_body_mb=1.0) as running:
        yield running


def data_url(path: Path, kind: str = "video/mp4") -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def message(media: Path, number: int = 0, text: str = "What happens?") -> list[Any]:
    sound = base64.b64encode((media / f"clip{number}.wav").read_bytes()).decode()
    return [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "This is a video and an audio:"},
                {"type": "video_url", "video_url": {"url": data_url(media / f"clip{number}.mp4")}},
                {"type": "input_audio", "input_audio": {"data": sound, "format": "wav"}},
                {"type": "text", "text": text},
            ],
        }
    ]


def alone(model: Any, messages: list[Any]) -> str:
    """What the model answers without any server."""
    example = load_example(read_request({"messages": messages}), model.geometry, MediaLimits())
    text: str = model.generate(model.processor.collate([model.processor.encode(example)]))[0].text
    return text


@pytest.mark.parametrize(
    ("name", "addresses"),
    [
        ("a b.mp4", ["a b.mp4", "a%20b.mp4", "file:a%20b.mp4"]),
        ("a%20b.mp4", ["a%20b.mp4", "a%2520b.mp4"]),
        ("50%.mp4", ["50%.mp4", "50%25.mp4"]),
        ("a#b?c;d.mp4", ["a#b?c;d.mp4", "file:a%23b%3Fc;d.mp4"]),
        ("a:b.mp4", ["a:b.mp4"]),
        ("http:a.mp4", ["http:a.mp4"]),
        ("'\"\n.mp4", ["'\"\n.mp4"]),
        ("e\u0301\u4e2d", ["e\u0301\u4e2d", "deep/../e%CC%81%E4%B8%AD"]),
        ("-", ["-", "./-"]),
    ],
)
def test_file_of_any_name_can_be_named(name: str, addresses: list[str], media: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes((media / "clip0.mp4").read_bytes())
    for address in addresses:
        asked = message(media)
        asked[0]["content"][1]["video_url"]["url"] = address
        request = read_request({"messages": asked})
        assert load_example(request, "plain", MediaLimits(), media_root=tmp_path).videos[0].shape[0] == 10


def test_picture_is_turned_as_viewers_turn_it(tmp_path: Path) -> None:
    picture = Image.new("RGB", (40, 20))
    picture.paste((255, 0, 0), (0, 0, 20, 20))  # red on the left, which is above when turned
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "phone.png", exif=exif)
    content = [{"type": "image_url", "image_url": {"url": "phone.png"}}, {"type": "text", "text": "?"}]
    request = read_request({"messages": [{"role": "user", "content": content}]})
    (shown,) = load_example(request, "plain", MediaLimits(), media_root=tmp_path).images
    assert shown[0, : len(shown[0]) // 2 - 8].float().mean() > 250
    assert shown[0, len(shown[0]) // 2 + 8 :].float().mean() < 5


def test_answer_is_that_of_the_model_alone(server: Server, model: Any, media: Path) -> None:
    reply = server.client().chat.completions.create(model="tiny", messages=message(media))
    assert reply.choices[0].message.content == alone(model, message(media))
    assert reply.choices[0].finish_reason in ("stop", "length")
    assert reply.usage is not None
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def test_streamed_pieces_join_to_the_answer(server: Server, model: Any, media: Path) -> None:
    chunks = list(
        server.client().chat.completions.create(
            model="tiny", messages=message(media, 1), stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == alone(model, message(media, 1))
    assert chunks[-1].usage is not None
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] in ("stop", "length")


def test_many_clients_at_once_each_get_their_own_answer(server: Server, model: Any, media: Path) -> None:
    asked = [message(media, n % 4, f"question {n % 8}?") for n in range(24)]
    expected = {n: alone(model, asked[n]) for n in range(8)}

    def ask(number: int) -> str | None:
        reply = server.client().chat.completions.create(model="tiny", messages=asked[number])
        return reply.choices[0].message.content

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(24)))
    assert answers == [expected[n % 8] for n in range(24)]
    assert len(set(expected.values())) > 1


def test_file_below_the_media_folder_can_be_named(server: Server, model: Any, media: Path) -> None:
    by_name = message(media)
    by_name[0]["content"][1]["video_url"]["url"] = "clip0.mp4"
    reply = server.client().chat.completions.create(model="tiny", messages=by_name)
    assert reply.choices[0].message.content == alone(model, message(media))


def test_models_and_health_are_listed(server: Server) -> None:
    assert [entry.id for entry in server.client().models.list()] == ["tiny"]
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/health", timeout=10) as reply:
        assert json.load(reply)["status"] == "ok"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"messages": []}, "one user message"),
        ({"messages": "hi"}, "one user message"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "one question with one answer"),
        ({"messages": [{"role": "system", "content": "Be brief."}]}, "leave the system message out"),
        ({"messages": [{"role": "user", "content": [{"type": "file"}]}]}, "known types: text, input_audio"),
        ({"messages": [{"role": "user", "content": "  "}]}, "contains no text"),
        ({"n": 2}, "one answer"),
        ({"temperature": 9}, "between 0 and 2"),
        ({"max_tokens": 0}, "between 1 and 1,000,000$"),
        ({"top_p": 0}, "must be a number above 0 and at most 1$"),
        (
            {"messages": [{"role": "user", "content": "a<|im_end|>"}]},
            r"the request \d+: its text contains the",
        ),
        ({"stop": ["x"]}, "stop sequences"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"repetition_penalty": 1.2}, "does not support penalties; leave 'repetition_penalty' out"),
        ({"top_k": 40}, "does not support top_k"),
        (
            {"max_token": 4},
            r"has the key 'max_token', which .* not read \(did you mean 'max_tokens'\?\); leave it out",
        ),
        ({"Temprature": 1}, r"has the key 'Temprature', which .* \(did you mean 'temperature'\?\)"),
        ({"media_io_kwargs": {"video": {"num_frames": 10_000}}}, "num_frames"),
        ({"media_io_kwargs": [1]}, "media_io_kwargs"),
        ({"media_io_kwargs": {"video": {"fps": 2}}}, r"media_io_kwargs\.video has the key 'fps', which"),
        ({"do_sample": True}, "the request has the key 'do_sample', which this server does not read"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "needs a text under"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "?", "start": 1}]}]},
            "content part 0 has the key 'start'",
        ),
        ({"modalities": ["text", "audio"]}, "answers with text; leave 'modalities' out"),
    ],
)
def test_bad_request_is_named(server: Server, media: Path, change: dict[str, Any], said: str) -> None:
    body = {"messages": message(media)} | change
    with pytest.raises(BadRequestError, match=said):
        server.client().chat.completions.create(model="tiny", messages=body.pop("messages"), extra_body=body)


def test_keys_without_effect_are_no_error(server: Server, media: Path) -> None:
    keys = {"user": "me", "metadata": {}, "repetition_penalty": 1.0, "top_k": -1, "presence_penalty": 0}
    made = server.client().chat.completions.create(model="tiny", messages=message(media), extra_body=keys)
    assert made.choices[0].message.content is not None


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:1/x.mp4", "does not download files"),
        ("data:video/mp4;base64,@@@", "damaged"),
        ("data:video/mp4,plain", "must have the form"),
        ("missing.mp4", "is not a file"),
        ("broken.mp4", "cannot be used"),
    ],
)
def test_bad_medium_is_named(server: Server, media: Path, url: str, said: str) -> None:
    bad = message(media)
    bad[0]["content"][1]["video_url"]["url"] = url
    with pytest.raises(BadRequestError, match=said) as err:
        server.client().chat.completions.create(model="tiny", messages=bad)
    assert "crab-serve" not in str(err.value), "no path of the server is told"


@pytest.mark.parametrize("url", ["../../etc/passwd", "file:///etc/passwd", "/etc/passwd"])
def test_file_outside_the_media_folder_is_refused(server: Server, media: Path, url: str) -> None:
    bad = message(media)
    bad[0]["content"][1]["video_url"]["url"] = url
    with pytest.raises(APIStatusError) as err:
        server.client().chat.completions.create(model="tiny", messages=bad)
    assert err.value.status_code == 403


def test_large_body_wrong_json_and_wrong_model_are_refused(server: Server, media: Path) -> None:
    with pytest.raises(APIStatusError) as large:
        server.client().chat.completions.create(model="tiny", messages=message(media, text="x" * 1_100_000))
    assert large.value.status_code == 413
    with pytest.raises(NotFoundError, match="there is no model"):
        server.client().chat.completions.create(model="other", messages=message(media))
    chat = "/v1/chat/completions"
    for place, body, code, said in (
        (chat, b"{nonsense", 400, "the body is not JSON: "),
        (chat, b"[" * 100_000, 400, "the body is nested too deeply."),
        (chat, b"\xff\xfe\x00", 400, "the body is not UTF-8 text (byte 0xff at 0)."),
        (chat, None, 405, f"there is no GET {chat}; this server has POST {chat}"),
        ("/v1/x", b"{}", 404, f"there is no POST /v1/x; this server has POST {chat}"),
    ):
        request = urllib.request.Request(f"http://127.0.0.1:{server.port}{place}", body)
        with pytest.raises(urllib.error.HTTPError) as wrong:
            urllib.request.urlopen(request, timeout=10)
        assert wrong.value.code == code
        assert json.load(wrong.value)["error"]["message"].startswith(said)


def test_client_that_leaves_gives_its_place_to_others(server: Server, model: Any, media: Path) -> None:
    stream = server.client().chat.completions.create(model="tiny", messages=message(media), stream=True)
    next(iter(stream))
    stream.close()
    reply = server.client().chat.completions.create(model="tiny", messages=message(media, 2))
    assert reply.choices[0].message.content == alone(model, message(media, 2))
    for _ in range(100):
        if server.worker.load() == (0, 0):
            return
        time.sleep(0.05)
    raise AssertionError(f"answers are still being written: {server.worker.load()}")


def test_key_is_asked_for(model: Any, media: Path) -> None:
    with Server(model, api_key="secret") as guarded:
        with pytest.raises(AuthenticationError):
            guarded.client("wrong").models.list()
        assert guarded.client("secret").models.list().data
        bad = message(media)
        bad[0]["content"][1]["video_url"]["url"] = "clip0.mp4"
        with pytest.raises(BadRequestError, match="reads no files by name"):
            guarded.client("secret").chat.completions.create(model="tiny", messages=bad)


def test_full_queue_is_a_429_and_a_long_answer_a_504(model: Any, media: Path) -> None:
    held = threading.Event()
    step = model.queue

    def blocked(*args: Any) -> Any:
        held.wait(20)
        return step(*args)

    model.queue = blocked
    try:
        with Server(model, slots=1, waiting=1, timeout_s=1.0) as slow:
            with pytest.raises(APIStatusError) as late:
                slow.client().chat.completions.create(model="tiny", messages=message(media))
            assert late.value.status_code == 504
            held.set()
        held.clear()
        with Server(model, slots=1, waiting=1) as full, ThreadPoolExecutor(4) as pool:

            def ask(_: int) -> int:
                try:
                    full.client().chat.completions.create(model="tiny", messages=message(media))
                except RateLimitError:
                    return 429
                return 200

            replies = [pool.submit(ask, n) for n in range(4)]
            while not any(reply.done() for reply in replies):
                time.sleep(0.05)
            held.set()
            codes = sorted(reply.result() for reply in replies)
    finally:
        del model.queue
    assert codes[0] == 200
    assert codes[-1] == 429


def test_question_that_breaks_the_model_leaves_the_others_their_answers(model: Any, media: Path) -> None:
    step = model.queue

    def fragile(engine: Any, batch: Any, *rest: Any) -> Any:
        if any(s.task == "bad" for s in batch.samples):
            raise RuntimeError("planted")
        return step(engine, batch, *rest)

    model.queue = fragile
    try:
        with Server(model) as running, ThreadPoolExecutor(4) as pool:

            def ask(task: str) -> Any:
                try:
                    return (
                        running.client()
                        .chat.completions.create(
                            model="tiny", messages=message(media), extra_body={"task": task}
                        )
                        .choices[0]
                        .message.content
                    )
                except APIStatusError as err:
                    return err.status_code

            answers = list(pool.map(ask, ["good", "bad", "good", "good"]))
    finally:
        del model.queue
    assert answers[1] == 500
    assert {answers[n] for n in (0, 2, 3)} == {alone(model, message(media))}


def test_open_address_without_a_key_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CRAB_API_KEY", raising=False)
    with pytest.raises(ValueError, match="a key is needed"):
        serve(["--checkpoint", str(tmp_path), "--host", "0.0.0.0"])


def test_port_in_use_is_said_before_the_server_says_that_it_serves(
    model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = SimpleNamespace(limits=None, resize="torch")
    monkeypatch.setattr("crab_lightning.inference.loading.load_run", lambda *_: (model, data))
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert main(["serve", "--checkpoint", str(tmp_path), "--port", port]) == 1
    said = capsys.readouterr()
    assert said.err.startswith(f"error: --port {port} is in use on 127.0.0.1; ")
    assert len(said.err.splitlines()) == 1
    assert not said.out


def test_the_line_that_says_serving_names_a_port_that_answers(
    model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = SimpleNamespace(limits=None, resize="torch")
    monkeypatch.setattr("crab_lightning.inference.loading.load_run", lambda *_: (model, data))
    asked = []

    def ask(server: uvicorn.Server, sockets: list[socket.socket]) -> None:
        found = re.search(r"^Serving mine at http://127.0.0.1:(\d+)/v1 ", capsys.readouterr().out)
        assert found is not None
        socket.create_connection(("127.0.0.1", int(found[1])), timeout=5).close()
        asked.append(found[1])
        server.started = True

    monkeypatch.setattr(uvicorn.Server, "run", ask)
    assert main(["serve", "--checkpoint", str(tmp_path), "--port", "0", "--name", "mine"]) == 0
    assert asked not in ([], ["0"])


def test_every_bound_of_a_request_can_be_set(model: Any, media: Path) -> None:
    sizes = RequestSizes(media=2, frames=3, text=60)
    with Server(model, media_root=media, sizes=sizes, max_prompt_tokens=400) as small:
        ask = small.client().chat.completions.create
        frames = {"media_io_kwargs": {"video": {"num_frames": 2}}}
        assert ask(model="tiny", messages=message(media), extra_body=frames).choices
        part = {"type": "video_url", "video_url": {"url": "clip0.mp4"}}
        many = [{"role": "user", "content": [{"type": "text", "text": "?"}, part, part, part]}]
        for messages, extra, said in (
            (many, {}, "this server allows 2 in one request"),
            (message(media, text="a" * 61), {}, "this server allows 60"),
            (message(media), {"media_io_kwargs": {"video": {"num_frames": 4}}}, "between 1 and 3"),
        ):
            with pytest.raises(BadRequestError, match=said):
                ask(model="tiny", messages=messages, extra_body=extra)


@pytest.mark.parametrize("words", [["--slots", "0"], ["--max_prompt_tokens", "x"], ["--timeout_s", "nan"]])
def test_bound_that_makes_no_sense_is_refused_before_anything_is_loaded(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        serve(["--checkpoint", str(tmp_path), *words])
    assert f"error: {words[0]}: " in capsys.readouterr().err
