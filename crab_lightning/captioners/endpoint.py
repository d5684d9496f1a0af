"""Captions from an endpoint with OpenAI's chat completions API that accepts sound."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crab_lightning.captioners.base import PROMPT, CaptionerError, ClipRefused, heard, tidy
from crab_lightning.chat_endpoint import ChatEndpoint, EndpointFailed, RequestRefused
from crab_lightning.media import MediaError, wav_bytes


class EndpointCaptioner:
    """Asks an endpoint (OpenAI, vLLM and others) for a caption of each clip, which is sent as 16 kHz WAV.

    The key comes from the environment variable ``OPENAI_API_KEY``; without the variable, the word ``none`` is
    sent as the key.

    Args:
        url: Base address, such as ``http://127.0.0.1:8000/v1``.
        model: Name of the model at the endpoint.
        prompt: Text of the question.
        max_new_tokens: Largest number of tokens of a caption.
        parallel: Number of requests at the same time.
        timeout_s: Longest time for one request, in seconds.
        retries: How often a request is sent again after a temporary error.

    Raises:
        ValueError: If the address does not begin with http:// or https://, there is no model name, or a
            number is out of its range.
        ImportError: If the package ``openai`` is missing.
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
    ) -> None:
        if not model:
            raise CaptionerError("an endpoint may have several models; give the name of one with --model")
        self.prompt, self.max_new_tokens, self.parallel = prompt, max_new_tokens, parallel
        self._endpoint = ChatEndpoint(url, model, timeout_s, retries)
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
            except (MediaError, ClipRefused, RequestRefused) as err:
                found.append(err)
            except EndpointFailed as err:
                raise CaptionerError(str(err)) from err
        return found

    def _ask(self, sound: bytes) -> str:
        data = base64.b64encode(sound).decode("ascii")
        content = [
            {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}},
            {"type": "text", "text": self.prompt},
        ]
        return self._endpoint.ask([{"role": "user", "content": content}], self.max_new_tokens).text
