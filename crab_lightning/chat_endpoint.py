"""A model at an address with OpenAI's chat completions, such as vLLM or a hosted service."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

KEY_VARIABLE = "OPENAI_API_KEY"
_OF_ONE_REQUEST = (400, 413, 415, 422)  # only this request is refused; the next one may be accepted


class EndpointFailed(ValueError):
    """The endpoint cannot be used: every other request would fail as well."""


class RequestRefused(ValueError):
    """The endpoint refuses one request; it may accept others."""


class _Malformed(ValueError):
    """A reply that is not a chat completion."""


@dataclass(frozen=True)
class Reply:
    """One text of a model.

    Args:
        text: The text.
        cut_off: Whether the text ends at the token limit.
        prompt_tokens: Number of tokens that the model has read, as the model counts them.
        completion_tokens: Number of tokens that the model has written.
    """

    text: str
    cut_off: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0


def client_of(url: str, timeout_s: float, retries: int) -> Any:
    """Return OpenAI's client for an address.

    The key comes from the environment variable ``OPENAI_API_KEY``; without the variable, the word ``none`` is
    sent as the key. After a temporary error, the client waits as long as the endpoint requires.

    Args:
        url: Base address, such as ``http://127.0.0.1:8000/v1``.
        timeout_s: Longest time for one request, in seconds.
        retries: How often a request is sent again after a temporary error.

    Raises:
        ImportError: If the package ``openai`` is missing.
    """
    try:
        from openai import OpenAI
    except ImportError as err:
        raise ImportError(
            "asking an endpoint needs the package openai: pip install 'crab_lightning[endpoint]'"
        ) from err
    key = os.environ.get(KEY_VARIABLE, "none")
    return OpenAI(base_url=url, api_key=key, timeout=timeout_s, max_retries=retries)


def said_by(err: Any) -> str:
    """Return the beginning of what an endpoint said in an ``openai.APIStatusError``.

    The message of the error is not enough: newer versions of the package leave out most replies.
    """
    said = err.body.get("message") if isinstance(err.body, dict) else None
    return " ".join(str(said or err.body or err.message).split())[:300]


class ChatEndpoint:
    """Asks a model at an address with OpenAI's chat completions; several threads may ask at the same time.

    Args:
        url: Base address, such as ``http://127.0.0.1:8000/v1``.
        model: Name of the model at this address.
        timeout_s: Longest time for one request, in seconds.
        retries: How often a request is sent again after a temporary error.

    Raises:
        ValueError: If the address does not begin with http:// or https://, or a number is out of its range.
        ImportError: If the package ``openai`` is missing.
    """

    def __init__(self, url: str, model: str, timeout_s: float, retries: int) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"{url!r} is not an address of an endpoint, such as http://HOST:PORT/v1")
        if retries < 0 or timeout_s <= 0:
            raise ValueError("--retries must be at least 0 and --timeout above 0")
        self.url, self.model, self.timeout_s, self.retries = url.rstrip("/"), model, timeout_s, retries
        self._client = client_of(self.url, timeout_s, retries)

    def ask(self, messages: Sequence[dict[str, Any]], max_tokens: int, temperature: float = 0.0) -> Reply:
        """Return the reply to a conversation.

        Args:
            messages: The conversation in OpenAI's form.
            max_tokens: Largest number of tokens of the reply.
            temperature: Sampling temperature; 0 always chooses the most probable token.

        Raises:
            RequestRefused: If the endpoint refuses this request.
            EndpointFailed: If the endpoint cannot be reached, refuses the key, or does not return a chat
                completion.
        """
        problem = None
        for attempt in range(self.retries + 1):
            if problem is not None:
                time.sleep(min(0.25 * 2**attempt, 8.0))
            try:
                return _reply(self._sent(messages, max_tokens, temperature))
            except _Malformed as err:
                problem = err
        raise EndpointFailed(f"{self.url}: {problem}, {self.retries + 1} times") from problem

    def _sent(self, messages: Sequence[dict[str, Any]], max_tokens: int, temperature: float) -> str:
        from openai import APIConnectionError, APIStatusError, APITimeoutError

        request: Any = {"messages": list(messages), "max_tokens": max_tokens, "temperature": temperature}
        try:
            found = self._client.chat.completions.with_raw_response.create(model=self.model, **request)
        except APITimeoutError as err:
            raise EndpointFailed(f"{self.url} did not answer for {self.timeout_s:g} s (--timeout)") from err
        except APIConnectionError as err:
            raise EndpointFailed(f"{self.url} cannot be reached: {err.__cause__ or err}") from err
        except APIStatusError as err:
            said = said_by(err)
            if err.status_code in _OF_ONE_REQUEST:
                raise RequestRefused(f"the endpoint answered {err.status_code}: {said}") from err
            hint = f"; is {KEY_VARIABLE} set?" if err.status_code in (401, 403) else ""
            raise EndpointFailed(f"{self.url} answered with status {err.status_code}: {said}{hint}") from err
        text: str = found.http_response.text
        return text


def _reply(body: str) -> Reply:
    """Read a chat completion; its text is empty if the model wrote none."""
    try:
        content = json.loads(body)
        choice, usage = content["choices"][0], content.get("usage") or {}
        text = choice["message"]["content"]
        counts = [int(usage.get(key) or 0) for key in ("prompt_tokens", "completion_tokens")]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as err:
        raise _Malformed(f"it answered {body[:200]!r}, which is not a chat completion ({err!r})") from err
    if isinstance(text, list):  # parts, as some servers write them
        text = "".join(str(part.get("text", "")) for part in text if isinstance(part, dict))
    if text is not None and not isinstance(text, str):
        raise _Malformed(f"its message has the content {text!r}, which is not a text")
    return Reply((text or "").strip(), choice.get("finish_reason") == "length", *counts)
