"""Captions from an endpoint with OpenAI's chat completions API that accepts sound."""

from __future__ import annotations

import base64
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any

from crab_lightning.captioners.base import PROMPT, CaptionerError, ClipRefused, heard, tidy
from crab_lightning.media import MediaError, wav_bytes

KEY_VARIABLE = "OPENAI_API_KEY"
_ABOUT_THE_CLIP = (400, 413, 415, 422)  # errors of one clip; the next clip may get a caption
_PASSING = (408, 409, 425, 429, 500, 502, 503, 504)  # temporary errors
_LONGEST_WAIT_S = 60.0


class EndpointCaptioner:
    """Asks an endpoint (OpenAI, vLLM and others) for a caption of each clip, which is sent as 16 kHz WAV.

    The key comes from the environment variable ``OPENAI_API_KEY``; if it is not set, no key is sent.

    Args:
        url: Base address, such as ``http://127.0.0.1:8000/v1``.
        model: Name of the model at the endpoint.
        prompt: Text of the question.
        max_new_tokens: Largest number of tokens of a caption.
        parallel: Number of requests at the same time.
        timeout_s: Longest time in seconds without data from the endpoint.
        retries: How often a request is sent again after a temporary error.
        wait_s: Seconds before the first retry, if the endpoint does not say; it doubles with every retry.
        sleep: Function that waits; tests replace it.

    Raises:
        CaptionerError: If the address does not begin with http:// or https://, or there is no model name.
    """

    group = 1

    def __init__(
        self,
        url: str,
        model: str,
        prompt: str = PROMPT,
        max_new_tokens: int = 100,
        parallel: int = 4,
        timeout_s: float = 60.0,
        retries: int = 4,
        wait_s: float = 1.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise CaptionerError(f"{url!r} is not an address of an endpoint, such as http://HOST:PORT/v1")
        if not model:
            raise CaptionerError("an endpoint may have several models; give the name of one with --model")
        self.url = url.rstrip("/") + "/chat/completions"
        self.model, self.prompt, self.max_new_tokens = model, prompt, max_new_tokens
        self.parallel, self.timeout_s, self.retries = parallel, timeout_s, retries
        self.wait_s, self._sleep = wait_s, sleep
        # The address is not a setting, because a model may move to another one.
        self.settings: dict[str, Any] = {"model": model, "prompt": prompt, "max_new_tokens": max_new_tokens}

    def describe(self, paths: Sequence[Path]) -> list[str | Exception]:
        """Return the caption of each clip, or the error because of which it has none.

        Raises:
            CaptionerError: If the endpoint cannot be reached, refuses all requests, or its replies are not
                chat completions.
        """
        found: list[str | Exception] = []
        for path in paths:
            try:
                found.append(tidy(self._ask(wav_bytes(heard(path)))))
            except (MediaError, ClipRefused) as err:
                found.append(err)
        return found

    def _ask(self, sound: bytes) -> str:
        content = [
            {
                "type": "input_audio",
                "input_audio": {"data": base64.b64encode(sound).decode("ascii"), "format": "wav"},
            },
            {"type": "text", "text": self.prompt},
        ]
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self.max_new_tokens,
            "temperature": 0,
        }
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY_VARIABLE):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers)
        wait_s = self.wait_s
        for attempt in range(self.retries + 1):
            try:
                with urllib.request.urlopen(request, timeout=self.timeout_s) as reply:
                    return caption_of(reply.read())
            except urllib.error.HTTPError as err:
                said = " ".join(err.read()[:300].decode("utf-8", "replace").split())
                if err.code in _ABOUT_THE_CLIP:
                    raise ClipRefused(f"the endpoint answered {err.code}: {said}") from err
                problem = f"it answered {err.code} {err.reason}: {said}"
                if err.code not in _PASSING:
                    hint = f"; is {KEY_VARIABLE} set?" if err.code in (401, 403) else ""
                    raise CaptionerError(f"{self.url}: {problem}{hint}") from err
                wait_s = _asked_wait_s(err.headers.get("Retry-After"), wait_s)
            except TimeoutError:
                problem = f"it did not answer for {self.timeout_s:g} s (--timeout)"
            except urllib.error.URLError as err:  # not reachable, or no reply to the connection
                silent = isinstance(err.reason, TimeoutError)
                problem = (
                    f"it did not answer for {self.timeout_s:g} s (--timeout)" if silent else str(err.reason)
                )
            except (HTTPException, ConnectionError) as err:
                problem = f"its answer was interrupted ({err!r})"
            except MalformedAnswer as err:
                problem = str(err)
            if attempt < self.retries:
                self._sleep(min(wait_s, _LONGEST_WAIT_S))
                wait_s *= 2
        raise CaptionerError(f"{self.url}: {problem}, {self.retries + 1} times")


class MalformedAnswer(ValueError):
    """A reply is not a chat completion."""


def caption_of(body: bytes) -> str:
    """Return the text of a chat completion; it is empty if the model wrote none.

    Args:
        body: The reply of an endpoint.

    Raises:
        MalformedAnswer: If the reply is not a chat completion.
    """
    try:
        reply: Any = json.loads(body)
        text = reply["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError) as err:
        start = body[:200].decode("utf-8", "replace")
        raise MalformedAnswer(f"it answered {start!r}, which is not a chat completion ({err!r})") from err
    if isinstance(text, list):  # parts, as some servers write them
        text = "".join(str(part.get("text", "")) for part in text if isinstance(part, dict))
    if text is not None and not isinstance(text, str):
        raise MalformedAnswer(f"its message has the content {text!r}, which is not a text")
    return text or ""


def _asked_wait_s(header: str | None, usual_s: float) -> float:
    """Return the seconds in a Retry-After header, or ``usual_s`` if it is absent or contains a date."""
    try:
        return max(0.0, float(header)) if header is not None else usual_s
    except ValueError:
        return usual_s
