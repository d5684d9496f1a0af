"""The writers of texts: a model at an OpenAI-compatible address, and a store of earlier replies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from crab_lightning.builder.reasoning.prompts import Message
from crab_lightning.chat_endpoint import ChatEndpoint, EndpointFailed, Reply, RequestRefused
from crab_lightning.files import replace_json


class WriterError(ValueError):
    """The writer cannot continue, because every other row would fail as well."""


class RowRefused(ValueError):
    """The writer refuses one row; it may accept others."""


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
        self.parallel, self.max_new_tokens, self.temperature = parallel, max_new_tokens, temperature
        self.settings = writer_settings(model, max_new_tokens, temperature)
        self._endpoint = ChatEndpoint(url, model, timeout_s, retries)

    def write(self, messages: Sequence[Message]) -> Reply:
        """Return the reply of the endpoint.

        Raises:
            RowRefused: If the endpoint refuses this conversation.
            WriterError: If the endpoint cannot be reached, refuses the key, or does not return a chat
                completion.
        """
        try:
            return self._endpoint.ask(messages, self.max_new_tokens, self.temperature)
        except RequestRefused as err:
            raise RowRefused(str(err)) from err
        except EndpointFailed as err:
            raise WriterError(str(err)) from err


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
