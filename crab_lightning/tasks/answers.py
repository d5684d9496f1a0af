"""From free text to an answer: the rules that every task shares.

The released models write their answer between tags at the end of some reasoning. No public code turns that
text into a label, so these are conventions, written down once: the last complete ``<answer>`` pair wins,
names are compared after :func:`normalise`, and nothing is guessed by substring, synonym or digit word.

Characters that only look different are alike everywhere (:func:`plain`): in answers, truths, options and
class names. What untrained models put around an answer is read under the option ``lenient`` of a task alone.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache

_END_TOKENS = ("</s>", "<|im_end|>")
_EDGES = "\"'`“”‘’«»„ "
_TRAILING = ".,;:!? "
_CHOICE_FILLERS = re.compile(r"\b(?:the|a|video|audio|clip|number)\b")
_CHOICE_WORDS = {"1": 1, "one": 1, "first": 1, "2": 2, "two": 2, "second": 2}
_LETTER = re.compile(r"[(\[]?([a-d])[)\].]?")
_NUMBER = re.compile(r"[+-]?[0-9]+(?:\.[0-9]+)?")


# Apostrophes, quotes, dashes and full stops of other scripts and keyboards, and signs that nobody sees.
_ALIKE = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u02bc\u00b4\uff07\u055a", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb\uff02", '"')
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d", "-")
    | dict.fromkeys("\u3002\uff61", ".")
    | dict.fromkeys("\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff", None)
)

# What untrained models put around an answer.
_EMPHASIS = re.compile(r"\*+|__+|`+|\\boxed\{|\\text\{|[{}$]")
_LABEL = re.compile(
    r"(?:the\s+)?(?:final\s+|correct\s+|right\s+|best\s+)?(?:answer|option|choice)(?:\s+is\b|\s*:)\s*:?\s*(?:option\s+)?",
    re.IGNORECASE,
)
_LETTERED = re.compile(r"[(\[]?([a-z])(?:[)\]][.:]?|[.:])\s*(?:-\s*)?(.*)", re.DOTALL)


def plain(text: str) -> str:
    """Return a text in which characters that only look different are the same.

    Unicode's compatibility form (NFKC: full-width letters, decomposed accents, ligatures), straight quotes
    and apostrophes, one hyphen for every dash, a full stop for those of Chinese and Japanese, and no signs
    without a width.
    """
    if text.isascii():
        return text
    # Before, since NFKC would part an acute accent into a blank and a mark; after, for what NFKC makes.
    return unicodedata.normalize("NFKC", text.translate(_ALIKE)).translate(_ALIKE)


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
    text = plain(cut_end_tokens(text))
    last: str | None = None
    for _, _, _, body in tag_bodies(text, "answer"):
        last = body
    if last is not None:
        return last
    openings = list(re.finditer(r"<answer>", text, re.IGNORECASE))
    return text[openings[-1].end() :] if openings else text


def normalise(text: str) -> str:
    """Return the form in which two answers are compared.

    Characters are those of :func:`plain`, underscores are spaces, case is lowered, whitespace runs are one
    space, a comma has no space before and one after it, and quotes, backticks and closing punctuation at the
    ends are dropped.
    """
    text = " ".join(plain(text).replace("_", " ").lower().split())
    text = re.sub(r" ?, ?", ", ", text)
    text = text.strip(_EDGES)
    text = text.rstrip(_TRAILING)
    return text.strip(_EDGES)


def read_answer(text: str, *, lenient: bool = False) -> str | None:
    """Return the normalised answer of a model's text; ``None`` when nothing is left of it.

    Args:
        text: A model's answer.
        lenient: Take off what untrained models put around an answer, see :func:`loosened`.
    """
    answer = extract_answer(text)
    return normalise(loosened(answer) if lenient else answer) or None


def loosened(text: str) -> str:
    r"""Return the first line of an answer that says something, without emphasis and without a label.

    Emphasis is what Markdown and LaTeX write (``**B**``, ``\boxed{B}``), a label is ``The answer is`` or
    ``Answer:``.
    """
    text = _EMPHASIS.sub("", text).strip().lstrip("#>-• ").strip()
    if (label := _LABEL.match(text)) and text[label.end() :].strip():
        text = text[label.end() :].strip()
    return text.splitlines()[0].strip() if text else ""


@lru_cache(maxsize=256)
def _class_lookup(classes: tuple[str, ...]) -> dict[str, int]:
    lookup: dict[str, int] = {}
    for index, name in enumerate(classes):
        key = normalise(name)
        if key in lookup:
            raise ValueError(
                f"classes {classes[lookup[key]]!r} and {name!r} read alike ({key!r}): answers with them"
                f" could not be distinguished; keep one of them under `classes`"
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


def read_choice(text: str, *, lenient: bool = False) -> int | None:
    """Return which of two candidates an answer names, 1 or 2; ``None`` for anything else.

    The words the, a, video, audio, clip and number are passed over; what remains has to be ``1``, ``one``,
    ``first``, ``2``, ``two`` or ``second``.

    Args:
        text: A model's answer, or the answer of a manifest.
        lenient: Take off what untrained models put around an answer, brackets among it.
    """
    answer = read_answer(text, lenient=lenient)
    if answer is None:
        return None
    if lenient:
        answer = re.sub(r"[()\[\].]", " ", answer)
    return _CHOICE_WORDS.get(" ".join(_CHOICE_FILLERS.sub(" ", answer).split()))


def read_option(text: str, options: Sequence[str], *, lenient: bool = False) -> int | None:
    """Return the zero-based index of the option that an answer names.

    In this order: the text of exactly one option; a letter ``a`` to ``d``, bare, in brackets or before a full
    stop; a digit ``0`` to ``3``, unless an option is itself a number. ``None`` for anything else.

    Args:
        text: A model's answer, or the answer of a manifest.
        options: The candidates, in order.
        lenient: Take off what untrained models put around an answer, and read a letter that stands before
            some text (``A. dog barking``, ``(B) a cat``), unless that text is another option.
    """
    answer = read_answer(text, lenient=lenient)
    if answer is None:
        return None
    texts = [normalise(option) for option in options]
    if texts.count(answer) == 1:
        return texts.index(answer)
    if lenient and (lettered := _LETTERED.fullmatch(answer)):
        index, said = ord(lettered[1]) - ord("a"), normalise(lettered[2])
        fits = not said or said not in texts or texts[index : index + 1] == [said]
        return index if index < len(options) and fits else None
    if letter := _LETTER.fullmatch(answer):
        index = "abcd".index(letter[1])
        return index if index < len(options) else None
    if answer in {"0", "1", "2", "3"} and not any(_NUMBER.fullmatch(option) for option in texts):
        return int(answer) if int(answer) < len(options) else None
    return None
