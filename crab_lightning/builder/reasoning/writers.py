"""The writers of texts: a model at an OpenAI-compatible address, and a store of earlier replies."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from crab_lightning.builder.reasoning.prompts import Message
from crab_lightning.files import replace_json

KEY_VARIABLE = "OPENAI_API_KEY"
_ABOUT_THE_ROW = (400, 413, 415, 422)  # only this row is refused; the next one may be accepted


class WriterError(ValueError):
    """The writer cannot continue, because every other row would fail as well."""


class RowRefused(ValueError):
    """The writer refuses one row; it may accept others."""


@dataclass(frozen=True)
class Reply:
    """One text of a writer.

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


class Writer(Protocol):
    """Writes a text as the reply to a conversation in the form of OpenAI's chat completions.

    Args:
        parallel: Number of calls that may run at the same time.
        settings: The settings on which the texts depend, as :func:`writer_settings` returns them.
    """

    parallel: int
    settings: dict[str, Any]

    def write(self, messages: Sequence[Message]) -> Reply:
        """Return the reply to a conversation.

        Raises:
            RowRefused: If the writer refuses this conversation.
            WriterError: If every other conversation would fail as well.
        """
        ...


def writer_settings(model: str, max_new_tokens: int = 512, temperature: float = 0.0) -> dict[str, Any]:
    """Return the settings on which texts depend; the address of the model is not one of them.

    Args:
        model: Name of the model.
        max_new_tokens: Largest number of tokens of a text.
        temperature: Sampling temperature; 0 always chooses the most probable token.
    """
    return {"model": model, "max_new_tokens": max_new_tokens, "temperature": temperature}


class NoWriter:
    """A writer for calls that request nothing, for example when the decisions of several machines are merged.

    Args:
        settings: The settings on which the texts depend, from :func:`writer_settings`.
    """

    parallel = 1

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings

    def write(self, messages: Sequence[Message]) -> Reply:
        """Raise an error, since there is no model.

        Raises:
            WriterError: Always.
        """
        raise WriterError("there is no model to ask")


class EndpointWriter:
    """Asks an OpenAI-compatible endpoint, such as vLLM, a hosted service or Gemini's compatible address.

    The key comes from the environment variable ``OPENAI_API_KEY``; without the variable, the word ``none`` is
    sent as the key.

    Args:
        url: Base address, such as ``http://127.0.0.1:8000/v1``.
        model: Name of the model at this address.
        max_new_tokens: Largest number of tokens of a text.
        temperature: Sampling temperature; 0 always chooses the most probable token.
        parallel: Number of requests at the same time.
        timeout_s: Longest time for one request, in seconds.
        retries: How often a request is sent again after a temporary error.

    Raises:
        ValueError: If the address does not begin with http:// or https://, or a number is out of its range.
        ImportError: If the package ``openai`` is missing.
    """

    def __init__(
        self,
        url: str,
        model: str,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        parallel: int = 8,
        timeout_s: float = 120.0,
        retries: int = 5,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"--endpoint is {url!r}; http://HOST:PORT/v1 or https://... is expected")
        if parallel < 1 or retries < 0 or timeout_s <= 0 or max_new_tokens < 1:
            raise ValueError(
                "--parallel and --max-new-tokens must be at least 1, --retries at least 0 and --timeout "
                "above 0"
            )
        try:
            from openai import OpenAI
        except ImportError as err:
            raise ImportError(
                "asking an endpoint needs the package openai: pip install 'crab_lightning[endpoint]'"
            ) from err
        self.url, self.model, self.parallel = url.rstrip("/"), model, parallel
        self.max_new_tokens, self.temperature, self.retries = max_new_tokens, temperature, retries
        self.settings = writer_settings(model, max_new_tokens, temperature)
        self._client = OpenAI(
            base_url=self.url,
            api_key=os.environ.get(KEY_VARIABLE, "none"),
            timeout=timeout_s,
            max_retries=retries,  # after temporary errors; the client waits as long as the endpoint says
        )

    def write(self, messages: Sequence[Message]) -> Reply:
        """Return the reply of the endpoint.

        Raises:
            RowRefused: If the endpoint refuses this conversation.
            WriterError: If the endpoint cannot be reached, refuses the key, or does not return a chat
                completion.
        """
        wait_s = 0.5
        for left in range(self.retries, -1, -1):
            found = self._ask(messages)
            if found is not None:
                return found
            if left:
                time.sleep(wait_s)
                wait_s = min(2 * wait_s, 8.0)
        raise WriterError(
            f"{self.url} answered {self.retries + 1} times with something that is not a chat completion"
        )

    def _ask(self, messages: Sequence[Message]) -> Reply | None:
        """Return the reply; ``None`` if the endpoint does not return a complete chat completion."""
        from openai import APIConnectionError, APIError, APIStatusError

        more: Any = {"messages": list(messages)}
        try:
            reply = self._client.chat.completions.create(
                model=self.model, max_tokens=self.max_new_tokens, temperature=self.temperature, **more
            )
        except APIConnectionError as err:
            raise WriterError(f"{self.url} cannot be reached: {err.__cause__ or err}") from err
        except APIStatusError as err:
            said = " ".join(str(err.message).split())[:300]
            if err.status_code in _ABOUT_THE_ROW:
                raise RowRefused(f"the endpoint answered {err.status_code}: {said}") from err
            hint = f"; is {KEY_VARIABLE} set?" if err.status_code in (401, 403) else ""
            raise WriterError(f"{self.url} answered with status {err.status_code}: {said}{hint}") from err
        except (APIError, json.JSONDecodeError, UnicodeDecodeError):
            return None
        choices = getattr(reply, "choices", None)  # a server that is not an endpoint returns a page
        if not choices or choices[0].message is None:
            return None
        usage = reply.usage
        return Reply(
            (choices[0].message.content or "").strip(),
            choices[0].finish_reason == "length",
            usage.prompt_tokens if usage is not None else 0,
            usage.completion_tokens if usage is not None else 0,
        )


class CachedWriter:
    """Stores every reply under the hash of its request, so that no request is paid for twice.

    Args:
        writer: The writer that is asked if a reply is not stored.
        folder: Folder of the stored replies; several processes may share it.
    """

    def __init__(self, writer: Writer, folder: Path) -> None:
        self.writer, self.folder, self.parallel = writer, folder, writer.parallel
        self.settings, self.asked = writer.settings, 0

    def write(self, messages: Sequence[Message]) -> Reply:
        """Return the stored reply, or ask the writer and store its reply.

        Raises:
            RowRefused: If the writer refuses this conversation.
            WriterError: If the writer cannot continue.
            ValueError: If a stored reply is damaged.
        """
        request = json.dumps([self.settings, list(messages)], sort_keys=True, ensure_ascii=False)
        name = hashlib.sha256(request.encode()).hexdigest()
        path = self.folder / name[:2] / f"{name}.json"
        try:
            return Reply(**json.loads(path.read_bytes()))
        except FileNotFoundError:
            pass
        except (ValueError, TypeError) as err:
            raise ValueError(
                f"{path} is not a stored reply: {err}. Remove the file, and the question is asked again"
            ) from err
        self.asked += 1
        reply = self.writer.write(messages)
        replace_json(path, asdict(reply), indent=None)
        return reply
