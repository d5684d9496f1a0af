"""Reads chat requests, and refuses those that the server cannot answer."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crab_lightning.models.engine import Sampling
from crab_lightning.spelling import did_you_mean
from crab_lightning.structures import SYSTEM_MESSAGE, Conversation, DatasetSpec, Media

_PARTS = {"video_url": Media.VIDEO, "image_url": Media.IMAGE, "audio_url": Media.AUDIO}
_UNSUPPORTED = {
    "audio": "spoken answers",
    "frequency_penalty": "penalties",
    "functions": "functions",
    "guided_choice": "guided answers",
    "guided_grammar": "guided answers",
    "guided_json": "guided answers",
    "guided_regex": "guided answers",
    "logit_bias": "changed token probabilities",
    "logprobs": "token probabilities",
    "min_p": "min_p",
    "min_tokens": "a smallest number of tokens",
    "presence_penalty": "penalties",
    "repetition_penalty": "penalties",
    "stop": "stop sequences",
    "structured_outputs": "guided answers",
    "tools": "tools",
    "top_k": "top_k",
    "top_logprobs": "token probabilities",
}
_WITHOUT_EFFECT: dict[str, Any] = {"repetition_penalty": 1, "top_k": -1}
_HARMLESS = (
    "add_generation_prompt",
    "metadata",
    "modalities",
    "parallel_tool_calls",
    "prompt_cache_key",
    "safety_identifier",
    "service_tier",
    "store",
    "tool_choice",
    "user",
)
"""Keys that do not change the answer of this server."""
_READ = (
    "max_completion_tokens",
    "max_tokens",
    "media_io_kwargs",
    "messages",
    "model",
    "n",
    "prompt_logprobs",
    "response_format",
    "seed",
    "stream",
    "stream_options",
    "task",
    "temperature",
    "top_p",
)
_SHOWN = 80


class RequestError(ValueError):
    """A request that cannot be answered.

    Args:
        message: Text that says what is wrong and what to do.
        status: HTTP status.
        param: Key of the request that is wrong; ``None`` if no single key is.
    """

    def __init__(self, message: str, status: int = 400, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param = status, param


class MessagesError(RequestError):
    """A request whose messages cannot be answered."""

    def __init__(self, message: str) -> None:
        super().__init__(message, param="messages")


@dataclass(frozen=True)
class RequestSizes:
    """Limits of the content of one request.

    Args:
        media: Number of media; without a limit, a small request could name a file many times.
        frames: Number of frames of one video.
        text: Number of characters of all texts together.
    """

    media: int = 16
    frames: int = 256
    text: int = 1_000_000


@dataclass(frozen=True)
class ChatRequest:
    """The content of a chat request.

    Args:
        conversation: The user's turn: texts and placeholders of media, in order.
        media: The media in the same order, as data addresses or file addresses.
        sampling: How tokens are chosen; the likeliest tokens unless a temperature is given.
        max_tokens: Largest number of tokens of the answer; with ``None`` the server decides.
        stream: Whether the answer is sent piece by piece.
        include_usage: Whether a streamed answer ends with the numbers of tokens.
        frames: Number of frames sampled from each video.
        task: Task key, for adapters that differ by task.
        weighed: Answer whose log-probabilities are requested; no text is generated then.
    """

    conversation: Conversation
    media: tuple[tuple[Media, str], ...]
    sampling: Sampling
    max_tokens: int | None
    stream: bool
    include_usage: bool
    frames: int
    task: str
    weighed: str | None = None


def read_request(body: Any, sizes: RequestSizes | None = None) -> ChatRequest:
    """Read the JSON body of ``/v1/chat/completions``.

    In addition to OpenAI's keys there are ``media_io_kwargs`` (``{"video": {"num_frames": 10}}``, as in vLLM)
    and ``task``, the task key that a run with one adapter for each task needs. With ``prompt_logprobs: 0``,
    as in vLLM, the last message is an answer of the assistant, whose log-probabilities are requested.

    Args:
        body: The parsed JSON.
        sizes: Limits of the request; the default limits when left out.

    Raises:
        RequestError: If a key is missing, has a wrong value, or is not supported.
    """
    if not isinstance(body, dict):
        raise RequestError("the body must be a JSON object with the key 'messages'")
    sizes = sizes or RequestSizes()
    _check_keys(body, (*_READ, *_HARMLESS), "the request", also=_UNSUPPORTED)
    for key, what in _UNSUPPORTED.items():
        if body.get(key) not in (None, [], {}, False, 0, _WITHOUT_EFFECT.get(key)):
            raise RequestError(f"this server does not support {what}; leave '{key}' out", param=key)
    if body.get("n") not in (None, 1):
        raise RequestError("this server gives only one answer to a request; leave 'n' out", param="n")
    if body.get("modalities") not in (None, ["text"]):
        raise RequestError("this server answers with text; leave 'modalities' out", param="modalities")
    if (body.get("response_format") or {"type": "text"}) != {"type": "text"}:
        raise RequestError(
            "this server answers in plain text; leave 'response_format' out", param="response_format"
        )
    limit_key = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    limit = _number(body, limit_key, None, 1, 1_000_000, whole=True)
    seed = _number(body, "seed", 0, -(2**63), 2**63 - 1, whole=True)
    temperature = _number(body, "temperature", 0.0, 0, 2)
    sampling = Sampling(float(temperature), float(_number(body, "top_p", 1.0, 1e-9, 1)), seed)
    stream = body.get("stream") or False
    if not isinstance(stream, bool):
        raise RequestError("'stream' must be true or false", param="stream")
    stream_options = body.get("stream_options") or {}
    usage = stream_options.get("include_usage") if isinstance(stream_options, dict) else stream_options
    if usage not in (None, True, False):
        raise RequestError(
            "'stream_options' must have the form {\"include_usage\": true}", param="stream_options"
        )
    task = body.get("task") or ""
    if not isinstance(task, str) or not _is_text(task):
        raise RequestError("'task' must be a task key", param="task")
    weighed, messages = _weighed(body, sizes, stream=stream)
    conversation, media = _conversation(messages, sizes)
    frames = _frames(body, sizes.frames)
    return ChatRequest(conversation, media, sampling, limit, stream, bool(usage), frames, task, weighed)


def _check_keys(
    given: Mapping[str, Any], known: Sequence[str], where: str, also: Container[str] = ()
) -> None:
    """Refuse unknown keys, because a key without an effect would change the answer on another server."""
    for key, value in given.items():
        if key not in known and key not in also and value is not None:
            raise RequestError(
                f"{where} has the key {shown(key)}, which this server does not read"
                f"{did_you_mean(key, known)}; leave it out. Known keys: {', '.join(known)}",
                param=key,
            )


def _weighed(body: dict[str, Any], sizes: RequestSizes, *, stream: bool) -> tuple[str | None, Any]:
    """Return the answer whose log-probabilities are requested, and the messages before it."""
    messages: Any = body.get("messages")
    if _number(body, "prompt_logprobs", None, 0, 0, whole=True) is None:
        return None, messages
    last = messages[-1] if isinstance(messages, list) and messages else None
    text = last.get("content") if isinstance(last, dict) and last.get("role") == "assistant" else None
    if not isinstance(text, str) or not text.strip() or not _is_text(text) or len(text) > sizes.text:
        raise MessagesError(
            "with 'prompt_logprobs', the last message must be an answer of the assistant as a text, whose "
            "log-probabilities are then returned"
        )
    if stream:
        raise RequestError("'prompt_logprobs' cannot be streamed; leave 'stream' out", param="stream")
    return text, messages[:-1]


def shown(value: Any) -> str:
    """Return the beginning of a value that a client sent, for an error message."""
    try:
        text = repr(value)
    except RecursionError:
        return "a value with too many levels"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _is_text(text: str) -> bool:
    """Return whether a text has only complete characters; JSON can contain a half of a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _number(
    body: dict[str, Any], key: str, default: float | None, low: float, high: float, *, whole: bool = False
) -> Any:
    value = body.get(key)
    if value is None:
        return default
    fits = isinstance(value, int) if whole else isinstance(value, int | float)
    if isinstance(value, bool) or not fits or not low <= value <= high:
        kind = "a whole number" if whole else "a number"
        span = f"above 0 and at most {high:,}" if 0 < low < 1 else f"between {low:,} and {high:,}"
        raise RequestError(f"'{key}' must be {kind} {span}", param=key)
    return value


def _frames(body: dict[str, Any], most: int) -> int:
    options = body.get("media_io_kwargs") or {}
    video = options.get("video") if isinstance(options, dict) else None
    if video is None and options in ({}, None):
        return DatasetSpec("", "").frames
    if isinstance(options, dict):
        _check_keys(options, ("video",), "media_io_kwargs")
    if not isinstance(video, dict):
        raise RequestError(
            '\'media_io_kwargs\' must have the form {"video": {"num_frames": 10}}', param="media_io_kwargs"
        )
    _check_keys(video, ("num_frames",), "media_io_kwargs.video")
    frames: int = _number(video, "num_frames", DatasetSpec("", "").frames, 1, most, whole=True)
    return frames


def _conversation(messages: Any, sizes: RequestSizes) -> tuple[Conversation, tuple[tuple[Media, str], ...]]:
    if not isinstance(messages, list) or not messages:
        raise MessagesError("'messages' must be a list with one user message")
    user: dict[str, Any] | None = None
    for number, message in enumerate(messages):
        if not isinstance(message, dict):
            raise MessagesError(f"messages[{number}] must be an object")
        role, content = message.get("role"), message.get("content")
        if role == "system":
            if _only_text(content) != SYSTEM_MESSAGE:
                raise MessagesError(
                    f"messages[{number}]: the model was trained with a fixed system message, which the "
                    "server adds; leave the system message out"
                )
        elif role == "user" and user is None:
            user = message
        else:
            raise MessagesError(
                f"messages[{number}] has the role {shown(role)}; the model was trained on one question with "
                "one answer, so send only one user message and no earlier turns"
            )
    if user is None:
        raise MessagesError("'messages' contains no message with the role 'user'")
    content = user.get("content")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list) or not parts:
        raise MessagesError(
            "the content of the user message must be a text, or a list with at least one part"
        )
    turn: list[str | Media] = []
    media: list[tuple[Media, str]] = []
    for number, part in enumerate(parts):
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(kind, str) and kind in ("text", "input_audio", *_PARTS):
            _check_keys(part, ("type", kind, "uuid"), f"content part {number}")
            if kind != "text" and isinstance(part.get(kind), dict):
                inner = ("data", "format") if kind == "input_audio" else ("url", "detail")
                _check_keys(part[kind], inner, f"{kind} of content part {number}")
        if kind == "text":
            if not isinstance(part.get("text"), str):
                raise MessagesError(f"content part {number} needs a text under the key 'text'")
            if not _is_text(part["text"]):
                raise MessagesError(f"content part {number} contains an incomplete character")
            turn.append(part["text"])
            continue
        found = _medium(part, kind)
        if found is None:
            known = ", ".join(["text", "input_audio", *_PARTS])
            raise MessagesError(f"content part {number} has the type {shown(kind)}; known types: {known}")
        turn.append(found[0])
        media.append(found)
    if len(media) > sizes.media:
        raise MessagesError(
            f"the message contains {len(media):,} media; this server allows {sizes.media} in one request"
        )
    if (length := sum(len(part) for part in turn if isinstance(part, str))) > sizes.text:
        raise MessagesError(f"the texts have {length:,} characters; this server allows {sizes.text:,}")
    if not any(isinstance(part, str) and part.strip() for part in turn):
        raise MessagesError("the user message contains no text; ask a question")
    return tuple(turn), tuple(media)


def _only_text(content: Any) -> Any:
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0], dict):
        return content[0].get("text")
    return content


def _medium(part: Any, kind: Any) -> tuple[Media, str] | None:
    if kind == "input_audio":
        sound = part.get("input_audio")
        if not isinstance(sound, dict) or not isinstance(sound.get("data"), str):
            raise MessagesError('an input_audio part needs {"data": base64, "format": "wav"}')
        return Media.AUDIO, f"data:audio/{sound.get('format', 'wav')};base64,{sound['data']}"
    if not isinstance(kind, str) or kind not in _PARTS:
        return None
    address = part.get(kind)
    address = address.get("url") if isinstance(address, dict) else address
    if not isinstance(address, str):
        raise MessagesError(f'a part of type {kind} needs {{"url": ...}}')
    return _PARTS[kind], address
