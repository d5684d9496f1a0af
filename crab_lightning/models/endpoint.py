"""A model at an OpenAI-compatible endpoint, which is tested like a model of this package."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, NoReturn

from lightning.pytorch.utilities import rank_zero_warn

from crab_lightning.chat_endpoint import KEY_VARIABLE, client_of, said_by
from crab_lightning.models.asked import AskedModule, Predictions
from crab_lightning.processing import Processor
from crab_lightning.processing.endpoint import EndpointProcessor, SendVideo
from crab_lightning.structures import Batch, CandidateScores, Prediction, Sample


class EndpointError(ValueError):
    """The endpoint cannot be reached, refuses a question, or does not give what is needed."""


class EndpointModule(AskedModule):
    """Asks a hosted model (vLLM, a commercial service, ``serve``) the questions of a test.

    The key comes from the environment variable ``OPENAI_API_KEY``; if it is not set, the key is ``none``.

    Args:
        url: Base address, such as ``http://127.0.0.1:8000/v1``.
        name: Name of the model at the endpoint.
        video: ``frames`` sends the sampled frames as pictures; ``file`` sends the video file and the number
            of frames, for endpoints that read videos as this package does, such as ``serve``.
        parallel: Number of requests at the same time.
        timeout_s: Longest time for one request, in seconds.
        retries: How often a request is sent again after a temporary error.
        temperature: Sampling temperature; 0 always chooses the most probable token.
        max_candidates: Largest number of candidate answers of one question whose probabilities are computed,
            with one request for each. Questions with more candidates get a generated text instead, and a
            warning.
        options: The arguments of ``AskedModule``.

    Raises:
        ValueError: If the address does not begin with http:// or https://, or a number is out of its range.
    """

    paradigm: ClassVar[str] = "endpoint"

    def __init__(
        self,
        url: str,
        name: str,
        video: SendVideo = "frames",
        parallel: int = 8,
        timeout_s: float = 300.0,
        retries: int = 5,
        temperature: float = 0.0,
        max_candidates: int = 32,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"the address is {url!r}; it must be http://HOST:PORT/v1 or https://...")
        if parallel < 1 or retries < 0 or timeout_s <= 0:
            raise ValueError(
                f"parallel is {parallel}, retries is {retries}, timeout_s is {timeout_s}; parallel must be "
                "at least 1, retries at least 0 and timeout_s above 0"
            )
        self.url, self.name, self.video = url.rstrip("/"), name, video
        self.parallel, self.timeout_s, self.retries = parallel, timeout_s, retries
        self.temperature, self.max_candidates = temperature, max_candidates
        self._processor = EndpointProcessor(self.geometry, video)
        self._too_many: set[str] = set()
        self._client: Any = None

    @property
    def base_name(self) -> str:
        """Name of the model at the endpoint."""
        return self.name

    @property
    def processor(self) -> Processor:
        """The processor, which writes examples as messages."""
        return self._processor

    def configure_model(self) -> None:
        """Make the client of the endpoint; there are no weights to load.

        Raises:
            ImportError: If the package openai is not installed.
        """
        self._client = self._client or client_of(self.url, self.timeout_s, self.retries)

    def generate(self, batch: Batch) -> Predictions:
        """Ask B questions at the same time; ``decoding`` chooses text, candidate probabilities, or both.

        Raises:
            EndpointError: If the endpoint cannot be reached, refuses a question, or returns no probabilities
                that are needed.
        """
        self.configure_model()
        requests = [json.loads(bytes(batch.inputs[str(row)].cpu().numpy())) for row in range(len(batch))]
        with ThreadPoolExecutor(self.parallel) as pool:
            return Predictions(pool.map(self._answered, batch.samples, requests))

    def _answered(self, sample: Sample, request: dict[str, Any]) -> Prediction:
        candidates = self._candidates_of(sample)
        if len(candidates) > self.max_candidates:
            self._say_too_many(sample, len(candidates))
            candidates = ()
        writes = self.decoding != "likelihood" or not candidates
        reply = self._ask(sample, request, self.max_new_tokens if writes else 1)
        if not reply.choices:
            raise EndpointError(f"the reply of {self.url} to the question {sample.id} contains no answer")
        weights = self._weighed_candidates(sample, request, candidates, reply) if candidates else None
        if not writes:
            return Prediction(sample, "", candidates=weights)
        choice = reply.choices[0]
        tokens = reply.usage.completion_tokens if reply.usage is not None else 0
        text = (choice.message.content or "").strip()
        return Prediction(sample, text, tokens, choice.finish_reason == "length", weights)

    def _weighed_candidates(
        self, sample: Sample, request: dict[str, Any], candidates: Sequence[str], reply: Any
    ) -> CandidateScores:
        """Ask for the probability of each candidate after the prompt, with ``prompt_logprobs`` of vLLM.

        ``reply`` is that to the question without a candidate, which has its number of tokens.
        """
        if reply.usage is None:
            raise EndpointError(
                f"{self.url} does not return the number of tokens of a question, so the probabilities of "
                "candidate answers cannot be computed. Use --evaluator.decoding generate"
            )
        sums, counts = [], []
        for candidate in candidates:
            found = self._ask(sample, request, 1, candidate)
            rows = (found.model_extra or {}).get("prompt_logprobs")
            if not rows or len(rows) <= reply.usage.prompt_tokens:
                raise EndpointError(
                    f"{self.url} does not return the probabilities of answers (prompt_logprobs, which vLLM "
                    "and `serve` return). Use --evaluator.decoding generate"
                )
            tokens = [next(iter(row.values())) for row in rows[reply.usage.prompt_tokens :]]
            # Chat templates write white space after the end token.
            while (text := tokens[-1].get("decoded_token") or "") and not text.strip():
                tokens.pop()
            sums.append(sum(float(token["logprob"]) for token in tokens))
            counts.append(len(tokens))
        return CandidateScores(tuple(candidates), tuple(sums), tuple(counts))

    def _say_too_many(self, sample: Sample, count: int) -> None:
        if sample.dataset not in self._too_many:
            self._too_many.add(sample.dataset)
            rank_zero_warn(
                f"{sample.dataset}: {sample.id} has {count} candidate answers, and each needs one request. "
                f"Questions with more than {self.max_candidates} candidates get only a generated text. Set "
                "--model.init_args.max_candidates to raise the limit"
            )

    def _ask(
        self, sample: Sample, request: dict[str, Any], max_tokens: int, weighed: str | None = None
    ) -> Any:
        """Send one request and return the reply; with ``weighed``, ask for the probability of this answer."""
        from openai import APIConnectionError, APIError, APIStatusError

        extra = {key: value for key, value in request.items() if key != "content"}
        extra |= {"task": sample.task} if self.video == "file" else {}
        messages = [{"role": "user", "content": request["content"]}]
        if weighed is not None:
            messages.append({"role": "assistant", "content": weighed})
            extra |= {"prompt_logprobs": 0, "add_generation_prompt": False}
        try:
            return self._client.chat.completions.create(
                model=self.name,
                messages=messages,
                max_tokens=max_tokens,
                temperature=self.temperature,
                extra_body=extra,
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
                f"{said_by(err)}{hint}"
            ) from err
        except APIError as err:
            raise EndpointError(f"{self.url} failed on the question {sample.id}: {err.message}") from err

    def training_step(self, batch: Batch, batch_idx: int) -> NoReturn:
        """Raise ``EndpointError``, because the weights are not here."""
        raise EndpointError("a model at an endpoint can be tested, but not trained")

    def configure_optimizers(self) -> NoReturn:
        """Raise ``EndpointError``, because the weights are not here."""
        raise EndpointError("a model at an endpoint can be tested, but not trained")
