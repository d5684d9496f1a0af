"""What writes a text: a model behind an OpenAI-compatible address, or one on this machine."""

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
_ABOUT_THE_ROW = (400, 413, 415, 422)  # the next row may be fine


class WriterError(ValueError):
    """The writer cannot go on: any further row would fail as well."""


class RowRefused(ValueError):
    """The writer refuses one row; it may take the others."""


@dataclass(frozen=True)
class Reply:
    """One text.

    Args:
        text: The text.
        cut_off: Whether it ends at the token limit.
        prompt_tokens: Tokens that were read, as the model counts them.
        completion_tokens: Tokens that were written.
    """

    text: str
    cut_off: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Writer(Protocol):
    """Writes a text in answer to a conversation in the form of OpenAI's chat completions.

    Args:
        parallel: Calls that may run at the same time.
        settings: What the texts depend on, as :func:`writer_settings` returns it.
    """

    parallel: int
    settings: dict[str, Any]

    def write(self, messages: Sequence[Message]) -> Reply:
        """Return the text.

        Raises:
            RowRefused: If this conversation is refused.
            WriterError: If any other would fail as well.
        """
        ...


def writer_settings(model: str, max_new_tokens: int = 512, temperature: float = 0.0) -> dict[str, Any]:
    """Return what texts depend on: a model may move to another address, or to this machine.

    Args:
        model: Name of the model.
        max_new_tokens: Longest text in tokens.
        temperature: 0 takes the likeliest token at each step.
    """
    return {"model": model, "max_new_tokens": max_new_tokens, "temperature": temperature}


class NoWriter:
    """Stands in the place of a writer where nothing is asked, as when parts of several machines are joined.

    Args:
        settings: What the texts depend on, from :func:`writer_settings`.
    """

    parallel = 1

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings

    def write(self, messages: Sequence[Message]) -> Reply:
        """Not possible: raises :class:`WriterError`."""
        raise WriterError("there is no model to ask")


class EndpointWriter:
    """Asks an OpenAI-compatible endpoint, such as vLLM, a hosted service or Gemini's compatible address.

    The key comes from the environment variable ``OPENAI_API_KEY``; without it none is sent.

    Args:
        url: Base address, such as ``http://127.0.0.1:8000/v1``.
        model: Name of the model there.
        max_new_tokens: Longest text in tokens.
        temperature: sampling temperature; 0 always chooses the most probable token.
        parallel: Requests at the same time.
        timeout_s: Longest time for one request, in seconds.
        retries: How often a request that failed for a passing reason is sent again.

    Raises:
        ValueError: If the address is no http(s) address or a number is out of its range.
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
            max_retries=retries,  # of passing errors: it waits as long as the endpoint says
        )

    def write(self, messages: Sequence[Message]) -> Reply:
        """Return the text."""
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
        """Return the text; ``None`` for an answer that is no chat completion, as a cut-off one."""
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
        choices = getattr(reply, "choices", None)  # a server that is no endpoint answers with a page
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
    """Keeps every reply under the hash of what was asked, so that nothing is paid for twice.

    Args:
        writer: What writes.
        folder: Where replies are kept; several processes may share it.
    """

    def __init__(self, writer: Writer, folder: Path) -> None:
        self.writer, self.folder, self.parallel = writer, folder, writer.parallel
        self.settings, self.asked = writer.settings, 0

    def write(self, messages: Sequence[Message]) -> Reply:
        """Return the kept text, or ask for it and keep it."""
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
