"""The layouts for own data: ``plain``, a flat row for each question, and ``messages``, a conversation."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from crab_lightning.data.manifests.column_checks import known_texts
from crab_lightning.data.manifests.column_types import (
    ABSENT,
    ColumnError,
    integer,
    read_as,
    relative_path,
    seconds,
    show,
    target_text,
    text,
    value_at,
    word,
)
from crab_lightning.data.manifests.layout import Layout, Parts
from crab_lightning.spelling import counted, did_you_mean, similar
from crab_lightning.structures import SYSTEM_MESSAGE, Conversation, Media, Reply, Sample
from crab_lightning.tasks.answers import extract_answer

_PLACES = {f"<{kind.value}>": kind for kind in Media}
_CLIPS = re.compile(r"(<(?:video|image|audio)>)")
_KINDS = ("video", "image", "audio")
_CONVERSATION = {"messages", "conversations", "system", "videos", "images", "audios", "id", "clip"}


class Plain(Layout):
    """Flat rows, from which the task makes its prompt, the target text and the true answer.

    The keys are ``video``, ``image``, ``audio`` (a path or a list of paths); ``question``, ``options``,
    ``answer``, ``expression``, ``events``, ``box``, ``points``, ``mask``; ``target`` (the target text, if the
    answer alone is not enough); ``id`` and ``clip`` (names of the row and of its recording). A row must have
    the keys that its task needs.

    Args:
        keys: Names of the keys in the file, for those of the keys above that have another name there.
        sound: ``track``: without ``audio``, the sound track of the videos is used. ``none``: no sound is
            used.

    Raises:
        ValueError: If ``keys`` has an unknown name, or ``sound`` is another word.
    """

    completes = True

    def __init__(self, keys: dict[str, str] | None = None, sound: str = "track") -> None:
        if keys is not None:
            known_texts(keys, "columns.keys")
        if unknown := [name for name in keys or {} if name not in (*_READ, *_KINDS)]:
            known = (*_KINDS, *_READ)
            raise ValueError(
                f"columns.keys names {unknown[0]!r}{did_you_mean(unknown[0], known)};"
                f" there are: {', '.join(known)}"
            )
        if sound not in ("track", "none"):
            raise ValueError(f"columns.sound is {sound!r}; it must be 'track' or 'none'")
        self.keys, self.sound = keys or {}, sound

    def read(self, row: Mapping[str, Any], split: str) -> Parts:
        """Return the parts of a row."""
        self.check_keys(row, (*_KINDS, "target", "clip"))
        found: dict[str, Any] = {}
        refused: dict[str, ColumnError] = {}
        for name, reader in _READ.items():
            key = self.keys.get(name, name)
            if (value := value_at(row, key)) in (None, ABSENT) or (value == "" and name in _NAMES):
                continue
            try:
                found[name] = read_as(reader, value, key)
            except ColumnError as err:
                if name in (*_NAMES, "target") or name in self.keys:
                    raise
                refused[name] = err  # a column that the task may not read
        media = {kind: _paths(row, self.keys.get(kind, kind)) for kind in _KINDS}
        if not media["audio"] and self.sound == "track":
            media["audio"] = list(media["video"])
        mask, given = found.pop("mask", None), found.pop("id", None)
        return Parts(
            media["video"],
            media["image"],
            media["audio"],
            target=found.pop("target", None),
            reference=str(found.get("answer", "")),
            masks=None if mask is None else [mask],
            clip=found.pop("clip", None),
            id=given,
            marks=(found["question"],) if "question" in found and given is None else (),
            fields=found,
            refused=refused,
        )

    def check_keys(self, row: Mapping[str, Any], optional: Sequence[str]) -> None:
        """Refuse misspelt names of the keys ``optional``."""
        known = {self.keys.get(name, name) for name in (*_READ, *_KINDS)}
        _refuse_misspelt(row, [self.keys.get(name, name) for name in optional], known)


def no_sound_hint(sample: Sample, path: Path) -> str:
    """Return a hint about a video without a sound track, whose sound is needed; empty for other files."""
    if path not in sample.videos:
        return ""
    return (
        " The row names no `audio`, so the sound track of its video is used: name a sound file, or "
        "state `columns: {sound: none}` for the dataset to hear nothing, if its task needs no sound."
    )


class Messages(Layout):
    """Conversations in the format of LLaMA-Factory and ms-swift, or ``conversations`` in that of ShareGPT.

    ``messages`` is a list of ``{role, content}``: questions of the user, each followed by an answer of the
    assistant. ``<video>``, ``<image>`` and ``<audio>`` in a question stand for the files in ``videos``,
    ``images`` and ``audios``. The last question is asked, with the earlier turns before it. The task reads
    the true answer from the last text of the assistant. If there is a system message, it must be
    ``SYSTEM_MESSAGE``.
    """

    completes = True

    def read(self, row: Mapping[str, Any], split: str) -> Parts:
        """Return the parts of a row."""
        _refuse_misspelt(row, [f"{kind}s" for kind in _KINDS], _CONVERSATION)
        *earlier, (_, answer) = _turns(row)
        conversation: Conversation = tuple(
            Reply(text) if role == "assistant" else _PLACES.get(part, part)
            for role, text in earlier
            for part in ([text] if role == "assistant" else _CLIPS.split(text))
            if part
        )
        media = {kind: _paths(row, f"{kind}s") for kind in _KINDS}
        for kind in Media:
            places, files = conversation.count(kind), len(media[kind.value])
            if places != files:
                raise ColumnError(
                    f"as many <{kind.value}> in the question as files under '{kind.value}s'",
                    f"key '{kind.value}s'",
                    f"names {counted(files, 'file')} for {counted(places, 'place')}",
                )
        question = " ".join(part for part in conversation if isinstance(part, str)).strip()
        told = extract_answer(answer).strip()
        clip, given = (
            None if row.get(key) is None else read_as(word, row[key], key) for key in ("clip", "id")
        )
        return Parts(
            media["video"],
            media["image"],
            media["audio"],
            fields={"question": question, "text": answer, "answer": told},
            target=answer,
            reference=told,
            clip=clip,
            id=given,
            marks=() if given is not None else (question,),
            conversation=conversation,
        )


def _refuse_misspelt(row: Mapping[str, Any], wanted: Sequence[str], known: Set[str]) -> None:
    """Refuse a key with nearly the name of a key that a row may lack. Other unknown keys are ignored."""
    used = [str(key) for key, value in row.items() if value not in (None, "", []) and key not in known]
    for name in wanted if used else ():
        near = [key for key in used if similar(key, name)]
        if near and value_at(row, name) is ABSENT:
            raise ColumnError(
                f"{name!r}, or a name that is not similar",
                f"key {near[0]!r}",
                "is not read",
                "Rename the key.",
            )


def _turns(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the role and the text of each turn of a conversation, which ends with an answer."""
    key = "messages" if "messages" in row or "conversations" not in row else "conversations"
    if row.get("messages") and row.get("conversations"):
        raise ColumnError(
            "one of them", "the row", "has 'messages' and 'conversations'", "Remove one of them."
        )
    if row.get("system") is not None and not isinstance(row["system"], str):
        raise ColumnError("a text", "key 'system'", f"is {show(row['system'])}")
    turns = row.get(key)
    if isinstance(turns, str):
        turns = read_as(_literal, turns, key)
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise ColumnError(
            'a list such as [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]',
            f"key {key!r}",
            f"is {show(turns)}",
        )
    names = {"human": "user", "gpt": "assistant"}
    said = []
    for turn in turns:
        role = turn.get("role", turn.get("from"))
        if ignored := [name for name in ("loss", "weight") if name in turn and not turn[name]]:
            raise ColumnError(
                f"no {ignored[0]!r}, because every answer of a conversation is learnt",
                f"key '{key}.{ignored[0]}'",
                f"is {show(turn[ignored[0]])}",
                "Remove the key. To learn only the last answers, state `turns: last` in the dataset's entry.",
            )
        content = read_as(target_text, turn.get("content", turn.get("value")), f"{key}.content")
        said.append((names.get(str(role), str(role)), content))
    if isinstance(row.get("system"), str) and row["system"].strip():
        said.insert(0, ("system", row["system"]))
    if said and said[0][0] == "system":
        if said[0][1].strip() != SYSTEM_MESSAGE:
            raise ColumnError(
                f"no system message, or the one that is written before every question: {SYSTEM_MESSAGE!r}",
                f"key {key!r}",
                f"has the system message {show(said[0][1])}",
                "Remove the system message, or write its content into the user's question.",
            )
        said = said[1:]
    if not said or [role for role, _ in said] != ["user", "assistant"] * (len(said) // 2):
        raise ColumnError(
            "a question of the user and an answer of the assistant, once or several times",
            f"key {key!r}",
            f"has the turns {', '.join(role for role, _ in said) or 'none'}",
            "Correct the roles, or remove the turns after the last answer.",
        )
    return said


def _paths(row: Mapping[str, Any], key: str) -> list[str]:
    value = value_at(row, key)
    if value is ABSENT or value in (None, ""):
        return []
    if isinstance(value, str) and value.lstrip().startswith("[") and value.rstrip().endswith("]"):
        value = read_as(_literal, value, key)
    return [read_as(relative_path, path, key) for path in (value if isinstance(value, list) else [value])]


def _literal(value: Any) -> Any:
    """Return a value, or parse it if it is a text, as in a cell of a CSV file."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        try:
            return ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise ColumnError("a list, or a list written as JSON") from None


def _options(value: Any) -> tuple[str, ...]:
    found = value.split("|") if isinstance(value, str) and "|" in value else _literal(value)
    if not isinstance(found, list) or len(found) < 2:
        raise ColumnError("a list of at least two options (in a CSV cell: split by |)")
    options = tuple(word(option).strip() for option in found)
    if len({option.casefold() for option in options}) < len(options):
        raise ColumnError("options that differ in more than upper and lower case")
    return options


def _events(value: Any) -> tuple[dict[str, Any], ...]:
    found = _literal(value)
    wanted = (
        'a list such as [{"event": "dog", "start_s": 0, "end_s": 2.5}]; "modality" may be visual or audio;'
        " without it, an event is both seen and heard"
    )
    if not isinstance(found, list) or not found:
        raise ColumnError(wanted)
    events = []
    for number, one in enumerate(found, 1):
        try:
            events.append(_event(one, wanted))
        except ColumnError as err:
            raise ColumnError(f"{err.wanted} (event {number} of {len(found)} is {show(one)})") from err
    return tuple(events)


def _event(one: Any, wanted: str) -> dict[str, Any]:
    if not isinstance(one, dict) or not {"event", "start_s", "end_s"} <= one.keys():
        raise ColumnError(wanted)
    if near := [key for key in one if key != "modality" and similar(str(key), "modality")]:
        raise ColumnError(f"the key 'modality' in place of {near[0]!r}")
    start_s, end_s = seconds(one["start_s"]), seconds(one["end_s"])
    if start_s >= end_s:
        raise ColumnError("events that end after they start, in seconds")
    event: dict[str, Any] = {"event": text(one["event"]), "start_s": start_s, "end_s": end_s}
    if one.get("modality") is not None:
        if one["modality"] not in ("visual", "audio"):
            raise ColumnError(wanted)
        event["modality"] = one["modality"]
    return event


def _numbers(count: int) -> Callable[[Any], tuple[int, ...]]:
    def read(value: Any) -> tuple[int, ...]:
        found = _literal(value)
        if not isinstance(found, list) or len(found) != count:
            raise ColumnError(f"a list of {count} whole numbers, in pixels of the 224-pixel frame")
        return tuple(integer(number) for number in found)

    return read


def _box(value: Any) -> tuple[int, ...]:
    x1, y1, x2, y2 = box = _numbers(4)(value)
    if not (x1 < x2 < 224 and y1 < y2 < 224):
        raise ColumnError(
            "a box [x1, y1, x2, y2] inside the frame of 224 x 224 pixels, with x1 < x2 and y1 < y2"
        )
    return box


def _points(value: Any) -> tuple[tuple[int, ...], ...]:
    found = _literal(value)
    wanted = "a list of one to three points [x, y] inside the frame of 224 x 224 pixels"
    if not isinstance(found, list) or not 1 <= len(found) <= 3:
        raise ColumnError(wanted)
    points = tuple(_numbers(2)(point) for point in found)
    if any(side >= 224 for point in points for side in point):
        raise ColumnError(wanted)
    return points


_NAMES = ("id", "clip")


def _answer(value: Any) -> str | int | bool:
    return value if isinstance(value, bool) else word(value)


_READ: dict[str, Callable[[Any], Any]] = {
    "question": text,
    "options": _options,
    "answer": _answer,
    "expression": text,
    "events": _events,
    "box": _box,
    "points": _points,
    "mask": relative_path,
    "target": target_text,
    "id": word,
    "clip": word,
}
