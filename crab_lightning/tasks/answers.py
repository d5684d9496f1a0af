"""From free text to an answer: the rules that every task shares.

The released models write their answer between tags at the end of some reasoning. No public code turns that
text into a label, so these are conventions, written down once: the last complete ``<answer>`` pair wins,
names are compared after :func:`normalise`, and nothing is guessed by substring, synonym or digit word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

_END_TOKENS = ("</s>", "<|im_end|>")
_EDGES = "\"'`“”‘’«»„ "
_TRAILING = ".,;:!? "
_CHOICE_FILLERS = re.compile(r"\b(?:the|a|video|audio|clip|number)\b")
_CHOICE_WORDS = {"1": 1, "one": 1, "first": 1, "2": 2, "two": 2, "second": 2}
_LETTER = re.compile(r"[(\[]?([a-d])[)\].]?")
_NUMBER = re.compile(r"[+-]?[0-9]+(?:\.[0-9]+)?")


def cut_end_tokens(text: str) -> str:
    """Return ``text`` up to its first end token."""
    for token in _END_TOKENS:
        text = text.split(token, 1)[0]
    return text


@lru_cache(maxsize=32)
def _tag_pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"<(/?)({'|'.join(names)})>", re.IGNORECASE)


def tag_bodies(text: str, *names: str) -> Iterator[tuple[int, str, str, str]]:
    """Walk through the complete tag pairs of a text, left to right.

    A pair is an opening tag and the next closing tag; an opening tag in between starts afresh. One pass over
    the text, so hostile input (thousands of unclosed tags) costs no more than its length.

    Args:
        text: Any text.
        names: Tag names, in any case in the text.

    Yields:
        Position of the opening tag, its name, the name of the closing tag (both lower case), and the body.
    """
    opened: tuple[int, int, str] | None = None
    for token in _tag_pattern(names).finditer(text):
        if not token[1]:
            opened = (token.start(), token.end(), token[2].lower())
        elif opened is not None:
            yield opened[0], opened[2], token[2].lower(), text[opened[1] : token.start()]
            opened = None


def extract_answer(text: str) -> str:
    """Return the answer part of a text, not normalised.

    The body of the last complete ``<answer>`` pair; without one, what follows the last opening tag; without
    that, the whole text. End tokens cut the text first.
    """
    text = cut_end_tokens(text)
    last: str | None = None
    for _, _, _, body in tag_bodies(text, "answer"):
        last = body
    if last is not None:
        return last
    openings = list(re.finditer(r"<answer>", text, re.IGNORECASE))
    return text[openings[-1].end() :] if openings else text


def normalise(text: str) -> str:
    """Return the form in which two answers are compared.

    Underscores are spaces, case is lowered, whitespace runs are one space, a comma has no space before and
    one after it, and quotes, backticks and closing punctuation at the ends are dropped.
    """
    text = " ".join(text.replace("_", " ").lower().split())
    text = re.sub(r" ?, ?", ", ", text)
    text = text.strip(_EDGES)
    text = text.rstrip(_TRAILING)
    return text.strip(_EDGES)


def read_answer(text: str) -> str | None:
    """Return the normalised answer of a model's text; ``None`` when nothing is left of it."""
    return normalise(extract_answer(text)) or None


@lru_cache(maxsize=256)
def _class_lookup(classes: tuple[str, ...]) -> dict[str, int]:
    lookup: dict[str, int] = {}
    for index, name in enumerate(classes):
        key = normalise(name)
        if key in lookup:
            raise ValueError(
                f"classes {classes[lookup[key]]!r} and {name!r} read alike ({key!r}): answers could not be "
                "told apart; keep one of them under `classes`"
            )
        lookup[key] = index
    return lookup


def class_index(name: str, classes: Sequence[str]) -> int | None:
    """Return the index of a class name, compared after :func:`normalise`; ``None`` when it is no class.

    Args:
        name: A name, not a sentence.
        classes: The closed set, in the metric's index order.

    Raises:
        ValueError: If two classes normalise to the same text.
    """
    return _class_lookup(tuple(classes)).get(normalise(name))


def distinct_names(names: Sequence[str]) -> list[str]:
    """Return the distinct names, sorted; of names that normalise alike only the first is kept."""
    kept: dict[str, str] = {}
    for name in sorted(set(names)):
        kept.setdefault(normalise(name), name)
    return list(kept.values())


def read_choice(text: str) -> int | None:
    """Return which of two candidates an answer names, 1 or 2; ``None`` for anything else.

    The words the, a, video, audio, clip and number are passed over; what remains has to be ``1``, ``one``,
    ``first``, ``2``, ``two`` or ``second``.
    """
    answer = read_answer(text)
    if answer is None:
        return None
    return _CHOICE_WORDS.get(" ".join(_CHOICE_FILLERS.sub(" ", answer).split()))


def read_option(text: str, options: Sequence[str]) -> int | None:
    """Return the zero-based index of the option that an answer names.

    In this order: the text of exactly one option; a letter ``a`` to ``d``, bare, in brackets or before a full
    stop; a digit ``0`` to ``3``, unless an option is itself a number. ``None`` for anything else.

    Args:
        text: A model's answer, or the answer of a manifest.
        options: The candidates, in order.
    """
    answer = read_answer(text)
    if answer is None:
        return None
    texts = [normalise(option) for option in options]
    if texts.count(answer) == 1:
        return texts.index(answer)
    if letter := _LETTER.fullmatch(answer):
        index = "abcd".index(letter[1])
        return index if index < len(options) else None
    if answer in {"0", "1", "2", "3"} and not any(_NUMBER.fullmatch(option) for option in texts):
        return int(answer) if int(answer) < len(options) else None
    return None
