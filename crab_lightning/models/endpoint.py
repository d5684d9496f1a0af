"""A model behind an OpenAI-compatible address, asked and scored like a model of this package."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, NoReturn

from torch import Tensor, nn

from crab_lightning.models.answering import Predictions, PromptInputs
from crab_lightning.models.base import AVModule
from crab_lightning.processing import Geometry, Processor
from crab_lightning.processing.endpoint import EndpointProcessor, SendVideo
from crab_lightning.structures import Batch, Prediction, Sample

KEY_VARIABLE = "OPENAI_API_KEY"


class EndpointError(ValueError):
    """The endpoint cannot be reached, or refuses what it is asked."""


class EndpointModule(AVModule):
    """Asks a hosted model (vLLM, a commercial service, ``serve``) the questions of a test.

    The key comes from the environment variable ``OPENAI_API_KEY``; without it none is sent.

    Args:
        url: Base address, such as ``http://127.0.0.1:8000/v1``.
        name: Name of the model there.
        max_new_tokens: Longest answer, in tokens.
        geometry: How media are prepared: ``released`` or ``plain``.
        video: ``frames`` sends the sampled frames as pictures; ``file`` sends the video file and the number
            of frames, for endpoints that read videos as this package does, such as ``serve``.
        parallel: Requests at the same time.
        timeout_s: Longest time for one request, in seconds.
        retries: How often a request that failed for a passing reason is sent again.
        temperature: Sampling temperature; 0 always chooses the most probable token.

    Raises:
        ValueError: If the address is no http(s) address or a number is out of its range.
    """

    paradigm: ClassVar[str] = "endpoint"

    def __init__(
        self,
        url: str,
        name: str,
        max_new_tokens: int = 512,
        geometry: Geometry = "released",
        video: SendVideo = "frames",
        parallel: int = 8,
        timeout_s: float = 300.0,
        retries: int = 5,
        temperature: float = 0.0,
    ) -> None:
        super().__init__(max_new_tokens=max_new_tokens, geometry=geometry)
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"the address is {url!r}; http://HOST:PORT/v1 or https://... is expected")
        if parallel < 1 or retries < 0 or timeout_s <= 0:
            raise ValueError("parallel must be at least 1, retries at least 0 and timeout_s above 0")
        self.url, self.name, self.video = url.rstrip("/"), name, video
        self.parallel, self.timeout_s, self.retries = parallel, timeout_s, retries
        self.temperature = temperature
        self._client: Any = None

    @property
    def base_name(self) -> str:
        """Name of the model at the endpoint."""
        return self.name

    def make_processor(self) -> Processor:
        """Return what writes examples as messages."""
        return EndpointProcessor(self.geometry, self.video)

    def configure_model(self) -> None:
        """Make the client; there are no weights."""
        if self._client is not None:
            return
        try:
            from openai import OpenAI
        except ImportError as err:
            raise ImportError(
                "asking an endpoint needs the package openai: pip install 'crab_lightning[endpoint]'"
            ) from err
        self._client = OpenAI(
            base_url=self.url,
            api_key=os.environ.get(KEY_VARIABLE, "none"),
            timeout=self.timeout_s,
            max_retries=self.retries,  # of passing errors: it waits as long as the endpoint says
        )

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Return ``{"predictions": [...]}``."""
        return {"predictions": self.generate(batch)}

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Return ``{"predictions": [...]}``."""
        return {"predictions": self.generate(batch)}

    def generate(self, batch: Batch) -> Predictions:
        """Ask B questions side by side.

        Raises:
            EndpointError: If the endpoint cannot be reached, or refuses a question.
            ValueError: If candidates should be weighed, for which an endpoint shows too little.
        """
        if self.decoding != "generate":
            raise ValueError(
                f"evaluator.decoding is {self.decoding!r}; an endpoint does not give the probability of"
                f" an answer. Set it to generate"
            )
        self.configure_model()
        requests = [bytes(batch.inputs[str(row)].cpu().numpy()) for row in range(len(batch.samples))]
        with ThreadPoolExecutor(self.parallel) as pool:
            return Predictions(pool.map(self._ask, batch.samples, requests))

    def _ask(self, sample: Sample, request: bytes) -> Prediction:
        from openai import APIConnectionError, APIError, APIStatusError

        asked = json.loads(request)
        extra = {key: value for key, value in asked.items() if key != "content"}
        try:
            reply = self._client.chat.completions.create(
                model=self.name,
                messages=[{"role": "user", "content": asked["content"]}],
                max_tokens=self.max_new_tokens,
                temperature=self.temperature,
                extra_body=extra | ({"task": sample.task} if self.video == "file" else {}),
            )
        except APIConnectionError as err:
            raise EndpointError(
                f"{self.url} cannot be reached: {err.__cause__ or err}. The answers so far are kept."
                f" Start the same command again to continue"
            ) from err
        except APIStatusError as err:
            hint = f"; is {KEY_VARIABLE} set?" if err.status_code in (401, 403) else ""
            raise EndpointError(
                f"{self.url} refused the question {sample.id} with status {err.status_code}: "
                f"{' '.join(str(err.message).split())[:300]}{hint}"
            ) from err
        except APIError as err:
            raise EndpointError(f"{self.url} failed on the question {sample.id}: {err.message}") from err
        if not reply.choices:
            raise EndpointError(f"{self.url} answered the question {sample.id} without any choice")
        choice = reply.choices[0]
        tokens = reply.usage.completion_tokens if reply.usage is not None else 0
        text = (choice.message.content or "").strip()
        return Prediction(sample, text, tokens, choice.finish_reason == "length")

    # What weights are needed for

    def load_base(self) -> nn.Module:
        """Not possible: the weights are elsewhere."""
        self._has_no_weights()

    def decoder(self) -> nn.Module:
        """Not possible: the weights are elsewhere."""
        self._has_no_weights()

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Not possible: the weights are elsewhere."""
        self._has_no_weights()

    def modalities(self, batch: Batch) -> Tensor:
        """Not possible: the tokens are elsewhere."""
        self._has_no_weights()

    def prompt_inputs(self, batch: Batch) -> PromptInputs:
        """Not possible: the tokens are elsewhere."""
        self._has_no_weights()

    def read_tokens(
        self, ids: Tensor, positions: Tensor, mask: Tensor, cache: Any, media: Mapping[str, Tensor]
    ) -> Tensor:
        """Not possible: the weights are elsewhere."""
        self._has_no_weights()

    def answer_head(self) -> nn.Module:
        """Not possible: the weights are elsewhere."""
        self._has_no_weights()

    def text_config(self) -> Any:
        """Not possible: the config is elsewhere."""
        self._has_no_weights()

    def unread_media(self) -> Any:
        """Not possible: the weights are elsewhere."""
        self._has_no_weights()

    def announce_step(self, samples: Sequence[Sample]) -> None:
        """Do nothing: there are no adapters here."""

    def _has_no_weights(self) -> NoReturn:
        raise EndpointError("a model behind an endpoint can be tested, but not trained, sharded or exported")
