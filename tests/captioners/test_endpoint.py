"""Captions over HTTP on real sockets: what is sent, how failures are told apart, and what is left behind."""

from __future__ import annotations

import base64
import io
import json
import socket
import time
import wave
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from crab_lightning.captioners import CaptionerError, EndpointCaptioner, find_clips, write_captions
from crab_lightning.commands import main
from crab_lightning.data.captions.files import CaptionSource, read_captions
from tests.captioners.conftest import Endpoint, spoken


def captioner(endpoint: Endpoint, **options: Any) -> EndpointCaptioner:
    return EndpointCaptioner(endpoint.url, "ears-1", **options)


def seconds_of(body: dict[str, Any]) -> float:
    part = body["messages"][0]["content"][0]["input_audio"]
    with wave.open(io.BytesIO(base64.b64decode(part["data"]))) as file:
        return float(file.getnframes() / file.getframerate())


def captions(out: Path) -> list[str]:
    return [json.loads(line)["caption"] for line in out.read_text().splitlines()]


def test_the_request_is_a_chat_completion_with_sound(
    endpoint: Endpoint, sounds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a-key")
    path = sorted((sounds / "clips").iterdir())[2]
    assert captioner(endpoint, prompt="What?", max_new_tokens=7).describe([path]) == ["sound 0"]
    (body,) = endpoint.asked
    assert body["path"] == "/v1/chat/completions"
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("ears-1", 7, 0)
    sound, text = body["messages"][0]["content"]
    assert sound["type"] == "input_audio"
    assert sound["input_audio"]["format"] == "wav"
    assert seconds_of(body) == pytest.approx(1.2)
    assert text == {"type": "text", "text": "What?"}
    assert endpoint.headers[0]["authorization"] == "Bearer a-key"


def test_rows_stand_in_the_order_of_the_clips_whichever_answer_comes_first(
    endpoint: Endpoint, sounds: Path
) -> None:
    def answer(body: dict[str, Any], n: int) -> Any:
        seconds = seconds_of(body)
        time.sleep(0.15 * (1.4 - seconds) + 0.01)  # the last clip is answered first
        return spoken(f"{seconds:.1f}")

    endpoint.answer = answer
    clips, _ = find_clips(sounds / "clips")
    out = sounds / "captions.jsonl"
    report = write_captions(clips, captioner(endpoint, parallel=4), out)
    assert report.added == 5
    assert captions(out) == ["1.0", "1.1", "1.2", "1.3", "1.4"]


def test_what_fails_in_passing_is_asked_again_after_the_wait_that_was_asked_for(
    endpoint: Endpoint, sounds: Path
) -> None:
    busy = {"Retry-After": "0.4"}
    replies = [(429, b"busy", busy), (503, b"", busy), (200, b"<html>", {}), spoken("a hum")]
    times: list[float] = []

    def answer(body: dict[str, Any], n: int) -> Any:
        times.append(time.monotonic())
        return replies[n]

    endpoint.answer = answer
    path = next((sounds / "clips").iterdir())
    assert captioner(endpoint).describe([path]) == ["a hum"]
    assert all(after - before >= 0.4 for before, after in pairwise(times))


def test_an_endpoint_that_stays_silent_is_named_with_the_time_out(endpoint: Endpoint, sounds: Path) -> None:
    def answer(body: dict[str, Any], n: int) -> Any:
        time.sleep(0.3)
        return spoken("late")

    endpoint.answer = answer
    path = next((sounds / "clips").iterdir())
    with pytest.raises(CaptionerError, match=r"/v1 did not answer for 0\.05 s \(--timeout\)"):
        captioner(endpoint, timeout_s=0.05, retries=1).describe([path])
    assert len(endpoint.asked) == 2


def test_an_endpoint_that_hangs_up_is_named(sounds: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    asked = EndpointCaptioner(f"http://127.0.0.1:{port}/v1", "m", retries=0)
    with pytest.raises(CaptionerError, match=rf"127\.0\.0\.1:{port}/v1 cannot be reached: .*refused"):
        asked.describe([next((sounds / "clips").iterdir())])


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"<html>Bad gateway</html>", "is not a chat completion"),
        (b'{"choices": []}', "is not a chat completion"),
        (b'{"error": "no"}', "is not a chat completion"),
        (b'{"choices": [{"message": {"content": 7}}]}', "content 7, which is not a text"),
    ],
)
def test_a_malformed_answer_is_quoted(body: bytes, named: str, endpoint: Endpoint, sounds: Path) -> None:
    endpoint.answer = lambda asked, n: (200, body, {})
    with pytest.raises(CaptionerError, match=named):
        captioner(endpoint, retries=1).describe([next((sounds / "clips").iterdir())])
    assert len(endpoint.asked) == 2


def test_a_refused_key_stops_at_once(endpoint: Endpoint, sounds: Path) -> None:
    endpoint.answer = lambda asked, n: (401, b'{"error": "bad key"}', {})
    with pytest.raises(CaptionerError, match=r"status 401: bad key.*is OPENAI_API_KEY set"):
        captioner(endpoint).describe([next((sounds / "clips").iterdir())])
    assert len(endpoint.asked) == 1


def words(endpoint: Endpoint, sounds: Path, *more: str) -> list[str]:
    made = ["data", "caption", "--audio", str(sounds / "clips"), "--out", str(sounds / "captions.jsonl")]
    return [*made, "--captioner", endpoint.url, "--model", "ears-1", "--retries", "0", *more]


def test_a_stopped_call_goes_on_and_ends_with_the_same_file(
    endpoint: Endpoint, sounds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = sounds / "captions.jsonl"
    endpoint.answer = lambda body, n: spoken(f"{seconds_of(body):.1f}")
    assert main(words(endpoint, sounds)) == 0
    whole = out.read_bytes()
    out.unlink()

    endpoint.answer = lambda body, n: (
        (500, b"down", {}) if seconds_of(body) > 1.25 else spoken(f"{seconds_of(body):.1f}")
    )
    assert main(words(endpoint, sounds, "--parallel", "2")) == 1
    said = capsys.readouterr().err
    assert "answered with status 500: down" in said
    assert "3 of 5 captions are in" in said
    assert captions(out) == ["1.0", "1.1", "1.2"]
    with out.open("ab") as file:
        file.write(b'{"id": "cut o')  # killed while it wrote

    endpoint.asked.clear()
    endpoint.answer = lambda body, n: spoken(f"{seconds_of(body):.1f}")
    assert main(words(endpoint, sounds)) == 0
    assert len(endpoint.asked) == 2
    assert out.read_bytes() == whole


def test_a_clip_that_is_refused_leaves_the_others_and_takes_its_place_later(
    endpoint: Endpoint, sounds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (sounds / "clips" / "recording-1_0.000.wav").write_bytes(b"no sound")
    endpoint.answer = lambda body, n: (
        (400, b"too loud", {}) if seconds_of(body) > 1.35 else spoken(f"{seconds_of(body):.1f}")
    )
    assert main(words(endpoint, sounds)) == 1
    said = capsys.readouterr().err
    assert "2 sounds have no caption" in said
    assert "recording-1_0.000.wav" in said
    assert "the endpoint answered 400: too loud" in said
    assert main(words(endpoint, sounds, "--allow-broken", "2")) == 0

    donor = (sounds / "clips" / "recording-0_0.000.wav").read_bytes()
    (sounds / "clips" / "recording-1_0.000.wav").write_bytes(donor)
    assert main(words(endpoint, sounds, "--allow-broken", "1")) == 0
    assert captions(sounds / "captions.jsonl") == ["1.0", "1.0", "1.2", "1.3"]


def test_an_empty_caption_is_none(endpoint: Endpoint, sounds: Path) -> None:
    endpoint.answer = lambda body, n: spoken([None, " \n", "a\n bell "][n])
    path = next((sounds / "clips").iterdir())
    first, second, third = captioner(endpoint).describe([path] * 3)
    assert str(first) == str(second) == "the caption is empty"
    assert third == "a bell"


def test_captions_of_two_kinds_are_not_mixed(
    endpoint: Endpoint, sounds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(endpoint, sounds, "--limit", "2")) == 0
    assert main(words(endpoint, sounds, "--prompt", "Which animal?")) == 1
    assert "was begun with prompt 'Describe this audio in one sentence.'" in capsys.readouterr().err


def test_stage_1_reads_what_was_written_in_the_order_of_the_segment_list(
    endpoint: Endpoint, sounds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    segments = sounds / "segments.csv"
    rows = [f'{name}, 0.000, 10.000, "/m/04rlf"\n' for name in ("recording-3", "nowhere0000", "recording-0")]
    segments.write_text("# Segments csv\n" + "".join(rows))
    endpoint.answer = lambda body, n: spoken(f"{seconds_of(body):.1f}")
    assert main(words(endpoint, sounds, "--audioset", str(segments))) == 0
    assert "1 recordings of" in capsys.readouterr().out
    source = CaptionSource("captions.jsonl", "audio_captions", segments="segments.csv")
    found = read_captions("captions", source, sounds)
    assert [sample.target for sample in found.samples] == ["1.3", "1.0"]
    assert found.broken == []
    assert found.unlisted == 0


def test_a_folder_without_the_listed_recordings_says_how_files_are_named(sounds: Path) -> None:
    with pytest.raises(ValueError, match=r"none of the 1 listed .* as abcdefghijk\.wav \(found: recording-0"):
        find_clips(sounds / "clips", ["abcdefghijk"])


def test_ids_behind_a_y_are_found(sounds: Path) -> None:
    donor = next((sounds / "clips").iterdir())
    (sounds / "clips" / "YY234567890a.wav").write_bytes(donor.read_bytes())
    (clip,) = find_clips(sounds / "clips", ["Y234567890a"])[0]
    assert clip.path.name == "YY234567890a.wav"
