"""The web application with OpenAI's chat completions, a list of models and a health check."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from crab_lightning.json_text import parse_json
from crab_lightning.media import MediaLimits
from crab_lightning.models.engine import Sampling
from crab_lightning.serving.request_media import load_example
from crab_lightning.serving.requests import (
    ChatRequest,
    MessagesError,
    RequestError,
    RequestSizes,
    read_request,
    shown,
)
from crab_lightning.serving.worker import Job, Overloaded, Worker
from crab_lightning.structures import Encoded, Prediction


@dataclass(frozen=True)
class ServerOptions:
    """Limits and permissions of a server.

    Args:
        name: Name of the model in answers and in the list of models.
        api_key: Key that every request must send as bearer token; ``None`` requires no key.
        media_root: Folder in which requests may name files; ``None`` allows no files.
        max_body_mb: Largest size of a request in megabytes.
        max_new_tokens: Largest number of tokens of an answer.
        timeout_s: Longest time, in seconds, from the arrival of a question to the end of the answer.
        decoders: Number of requests whose media are decoded at the same time.
        max_requests: Number of requests that are read and decoded at the same time; further requests get the
            status 429.
        max_prompt_tokens: Largest number of tokens of a question, including its media.
        sizes: Limits of the content of one request.
        grace_s: Time in seconds to finish answers when the server is stopped.
    """

    name: str
    api_key: str | None = None
    media_root: Path | None = None
    max_body_mb: float = 64.0
    max_new_tokens: int = 512
    timeout_s: float = 300.0
    decoders: int = 2
    max_requests: int = 128
    max_prompt_tokens: int = 32_768
    sizes: RequestSizes = field(default_factory=RequestSizes)
    grace_s: float = 10.0


class LimitedBody:
    """Middleware that refuses a request body as soon as it is larger than allowed.

    Args:
        app: The application.
        most: Largest number of bytes.
    """

    def __init__(self, app: ASGIApp, most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the application and count its bytes.

        Raises:
            RequestError: If the body is too large.
        """
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self.most:
                raise RequestError(f"the request is larger than {self.most / 1e6:g} MB", 413)
            return message

        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.most:
            error = RequestError(f"the request is larger than {self.most / 1e6:g} MB", 413)
            await failed(error)(scope, receive, send)
            return
        await self.app(scope, counted, send)


def failed(err: RequestError, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return the response for an error, in OpenAI's format."""
    kind = "invalid_request_error" if err.status < 500 else "server_error"
    content = {"error": {"message": str(err), "type": kind, "param": err.param, "code": None}}
    return JSONResponse(content, err.status, headers)


def make_app(
    model: Any,
    worker: Worker,
    limits: MediaLimits,
    options: ServerOptions,
    resize: Any,
    demo: Any = None,
) -> FastAPI:
    """Return the application.

    Args:
        model: The loaded model.
        worker: The worker, which answers questions with the model.
        limits: Limits of each media file, as in training.
        options: Limits and permissions of the server.
        resize: Method of resizing frames, as in training.
        demo: Data module of the run, for the web page at ``/``; without it there is no page.
    """
    decoding = asyncio.Semaphore(options.decoders)
    held = 0

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(worker.stop, options.grace_s)

    app = FastAPI(title="crab_lightning", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(LimitedBody, most=int(options.max_body_mb * 1e6))

    @app.exception_handler(RequestError)
    async def refused(_: Request, err: RequestError) -> Response:
        return failed(err, {"Retry-After": "1"} if err.status == 429 else None)

    @app.exception_handler(HTTPException)
    async def absent(request: Request, err: HTTPException) -> Response:
        what = f"there is no {request.method} {request.url.path}; this server has POST /v1/chat/completions"
        said = what if err.status_code in (404, 405) else str(err.detail)
        return failed(RequestError(said, err.status_code), dict(err.headers or {}))

    @app.exception_handler(Exception)
    async def broke(_: Request, err: Exception) -> Response:
        return failed(RequestError("the server failed on this request; the server's log has the reason", 500))

    @app.middleware("http")
    async def guard(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        if options.api_key is not None and request.url.path != "/health":
            given = request.headers.get("authorization", "")
            if not hmac.compare_digest(given.encode(), f"Bearer {options.api_key}".encode()):
                error = RequestError("the API key is missing or wrong; send 'Authorization: Bearer KEY'", 401)
                return failed(error, {"WWW-Authenticate": "Bearer"})
        return await call(request)

    @app.get("/health")
    async def health() -> Response:
        writing, waiting = worker.load()
        content = {"status": "ok" if worker.alive else "failed", "writing": writing, "waiting": waiting}
        return JSONResponse(content, 200 if worker.alive else 503)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        entry = {"id": options.name, "object": "model", "created": 0, "owned_by": "crab_lightning"}
        return {"object": "list", "data": [entry]}

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        nonlocal held
        if held >= options.max_requests:
            raise RequestError(f"{held} requests are already being read; try again later", 429)
        deadline = time.monotonic() + options.timeout_s
        held += 1
        try:
            asked = await _read(request, deadline)
            encoded = await _encoded(asked, deadline)
        finally:
            held -= 1
        most = min(asked.max_tokens or options.max_new_tokens, options.max_new_tokens)
        job, changed = _submitted(encoded, most, asked.sampling, asked.weighed)
        number = f"chatcmpl-{uuid.uuid4().hex}"
        if asked.stream:
            pieces = _pieces(job, changed, number, deadline, usage=asked.include_usage)
            return StreamingResponse(pieces, media_type="text/event-stream")
        try:
            await _finished(job, changed, request, deadline)
        finally:
            job.cancel()
        return JSONResponse(_completion(job, number) if job.likelihood is None else _weighed(job, number))

    async def _read(request: Request, deadline: float) -> ChatRequest:
        try:
            async with asyncio.timeout(max(deadline - time.monotonic(), 0)):
                data = await request.body()
        except TimeoutError:
            raise RequestError(
                f"the request did not arrive completely within {options.timeout_s:g} s", 408
            ) from None
        except ClientDisconnect:
            raise RequestError("the client has closed the connection", 499) from None
        try:
            body = parse_json(data)
        except ValueError as err:
            raise RequestError(f"the body {err}") from err
        asked = read_request(body, options.sizes)
        if body.get("model") not in (None, options.name):
            raise RequestError(
                f"there is no model {shown(body['model'])}; this server has {options.name!r}", 404, "model"
            )
        return asked

    def _submitted(
        encoded: Encoded, most: int, sampling: Sampling, weighed: str | None = None
    ) -> tuple[Job, asyncio.Event]:
        changed = asyncio.Event()
        loop = asyncio.get_running_loop()

        def notify() -> None:
            loop.call_soon_threadsafe(changed.set)

        job = Job(encoded, most, sampling, notify, weighed)
        try:
            worker.submit(job)
        except Overloaded as err:
            raise RequestError(str(err), 429) from err
        return job, changed

    async def _encoded(asked: ChatRequest, deadline: float) -> Encoded:
        begun = False

        def work() -> Encoded:
            example = load_example(
                asked, model.geometry, limits, media_root=options.media_root, resize=resize
            )
            try:
                encoded: Encoded = model.processor.encode(example)
                if asked.weighed is not None:
                    model.processor.answer_tokens(asked.weighed)  # raises for a reserved token in the answer
            except ValueError as err:
                raise RequestError(f"this model cannot read this question: {err}") from err
            tokens = int(encoded.inputs["input_ids"].shape[0])
            if tokens > options.max_prompt_tokens:
                raise MessagesError(
                    f"the question has {tokens:,} tokens, including its media; this server allows "
                    f"{options.max_prompt_tokens:,}. Send fewer frames, shorter sound or less text"
                )
            return encoded

        async def in_turn() -> Encoded:
            nonlocal begun
            async with decoding:
                begun = True
                return await asyncio.to_thread(work)

        turn = asyncio.ensure_future(in_turn())
        try:
            await asyncio.wait({turn}, timeout=max(deadline - time.monotonic(), 0))
        finally:
            if not turn.done():
                # A thread cannot be stopped, so a request that is being decoded keeps its place to the end.
                turn.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
                if not begun:
                    turn.cancel()
        if not turn.done():
            raise RequestError(f"there was no answer within {options.timeout_s:g} s", 504)
        return turn.result()

    async def _news(job: Job, changed: asyncio.Event, deadline: float) -> None:
        """Wait until the job has a new token, has ended or has failed."""
        left = deadline - time.monotonic()
        try:
            await asyncio.wait_for(changed.wait(), max(left, 0))
        except TimeoutError:
            job.cancel()
            raise RequestError(f"there was no answer within {options.timeout_s:g} s", 504) from None
        changed.clear()
        if job.error is not None:
            raise RequestError(f"the model failed on this question: {job.error}", 500) from job.error

    async def _finished(job: Job, changed: asyncio.Event, request: Request, deadline: float) -> None:
        while not job.done:
            waiter = asyncio.ensure_future(_news(job, changed, deadline))
            gone = asyncio.ensure_future(_disconnected(request))
            done, pending = await asyncio.wait({waiter, gone}, return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                task.cancel()
            if waiter not in done:
                raise RequestError("the client has closed the connection", 499)
            waiter.result()

    async def _pieces(
        job: Job, changed: asyncio.Event, number: str, deadline: float, *, usage: bool
    ) -> AsyncIterator[str]:
        sent = ""
        try:
            yield _event(number, {"role": "assistant", "content": ""})
            while not job.done:
                await _news(job, changed, deadline)
                assert job.answer is not None
                text = model.processor.decode(list(job.answer.tokens))
                # A character may consist of several tokens; an incomplete character is not sent.
                if not text.endswith("\ufffd") and text.startswith(sent) and text != sent:
                    yield _event(number, {"content": text[len(sent) :]})
                    sent = text
            assert job.answer is not None
            text = model.processor.decode(list(job.answer.tokens))
            if text != sent:
                yield _event(number, {"content": text[len(sent) :]})
            yield _event(number, {}, "length" if job.answer.truncated else "stop")
            if usage:
                chunk = _head(number, "chat.completion.chunk") | {"choices": [], "usage": _usage(job)}
                yield f"data: {json.dumps(chunk)}\n\n"
        except RequestError as err:
            yield f"data: {bytes(failed(err).body).decode()}\n\n"
        finally:
            job.cancel()
        yield "data: [DONE]\n\n"

    def _head(number: str, kind: str) -> dict[str, Any]:
        return {"id": number, "object": kind, "created": int(time.time()), "model": options.name}

    def _event(number: str, delta: dict[str, str], finish: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        chunk = _head(number, "chat.completion.chunk") | {"choices": [choice]}
        return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"

    def _usage(job: Job) -> dict[str, int]:
        assert job.answer is not None
        prompt, written = int(job.encoded.inputs["input_ids"].shape[0]), len(job.answer.tokens)
        return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}

    def _completion(job: Job, number: str) -> dict[str, Any]:
        assert job.answer is not None
        message = {"role": "assistant", "content": model.processor.decode(list(job.answer.tokens))}
        finish = "length" if job.answer.truncated else "stop"
        choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
        return _head(number, "chat.completion") | {"choices": [choice], "usage": _usage(job)}

    def _weighed(job: Job, number: str) -> dict[str, Any]:
        """Return the log-probabilities of a given answer as vLLM does, with null for tokens of the prompt."""
        assert job.likelihood is not None
        tokens, values = job.likelihood
        prompt = int(job.encoded.inputs["input_ids"].shape[0])
        rows = [
            {str(token): {"logprob": value, "rank": None, "decoded_token": model.processor.decode([token])}}
            for token, value in zip(tokens, values, strict=True)
        ]
        message = {"role": "assistant", "content": ""}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        total = prompt + len(tokens)
        usage = {"prompt_tokens": total, "completion_tokens": 0, "total_tokens": total}
        return _head(number, "chat.completion") | {
            "choices": [choice],
            "usage": usage,
            "prompt_logprobs": [None] * prompt + rows,
        }

    async def _asked(encoded: Encoded, most: int) -> Prediction:
        job, changed = _submitted(encoded, most, Sampling())
        deadline = time.monotonic() + options.timeout_s
        try:
            while not job.done:
                await _news(job, changed, deadline)
        finally:
            job.cancel()
        assert job.answer is not None
        found: Prediction = model.prediction(job.answer)
        return found

    if demo is not None:
        from crab_lightning.serving.demo import add_demo

        add_demo(app, demo, _asked, options.max_new_tokens)
    return app


async def _disconnected(request: Request) -> None:
    """Return when the client has closed the connection."""
    while not await request.is_disconnected():
        await asyncio.sleep(0.2)
