"""Rules, common to all tasks, that read an answer from free text.

The released models write an answer between tags after some reasoning. No public code turns this text into a
label, so this module sets the rules: the last complete ``<answer>`` pair counts, names are compared after
:func:`normalise`, and there are no guesses from substrings, synonyms or number words.

Characters with the same meaning and another form are equal everywhere (:func:`plain`): in answers, truths,
options and class names. Text that untrained models put around an answer is removed only with the option
``lenient`` of a task.
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


# Apostrophes, quotes, dashes and full stops of other scripts and keyboards, and invisible characters.
_ALIKE = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u02bc\u00b4\uff07\u055a", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb\uff02", '"')
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d", "-")
    | dict.fromkeys("\u3002\uff61", ".")
    | dict.fromkeys("\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff", None)
)

# Text that untrained models put around an answer.
_EMPHASIS = re.compile(r"\*+|__+|`+|\\boxed\{|\\text\{|[{}$]")
_LABEL = re.compile(
    r"(?:the\s+)?(?:final\s+|correct\s+|right\s+|best\s+)?(?:answer|option|choice)(?:\s+is\b|\s*:)\s*:?\s*(?:option\s+)?",
    re.IGNORECASE,
)
_LETTERED = re.compile(r"[(\[]?([a-z])(?:[)\]][.:]?|[.:])\s*(?:-\s*)?(.*)", re.DOTALL)


def plain(text: str) -> str:
    """Return a text in which all forms of a character are replaced by one form.

    The text gets Unicode's compatibility form (NFKC: full-width letters, decomposed accents, ligatures),
    straight quotes and apostrophes, a hyphen for every dash, and a full stop for the Chinese and Japanese
    ones. Characters without a width are removed.
    """
    if text.isascii():
        return text
    # Before NFKC, which would split an acute accent into a space and a mark; and after it, for its results.
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
    """Yield the complete tag pairs of a text, from left to right.

    A pair is a closing tag and the nearest opening tag before it. The text is read once, so the time depends
    only on its length, even with thousands of unclosed tags.

    Args:
        text: Any text.
        names: Tag names; in the text they may be in upper or lower case.

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
    """Return the answer part of a text, without :func:`normalise`.

    It is the body of the last complete ``<answer>`` pair. Without such a pair it is the text after the last
    opening tag, and without an opening tag the whole text. Text after an end token is removed first.
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
    """Return the form of an answer in which two answers are compared.

    Characters are replaced as in :func:`plain`, underscores become spaces, letters become lower case, several
    spaces become one, and a comma is followed by exactly one space. Quotes and backticks at both ends and
    punctuation at the end are removed.
    """
    text = " ".join(plain(text).replace("_", " ").lower().split())
    text = re.sub(r" ?, ?", ", ", text)
    text = text.strip(_EDGES)
    text = text.rstrip(_TRAILING)
    return text.strip(_EDGES)


def read_answer(text: str, *, lenient: bool = False) -> str | None:
    """Return the normalised answer in a model's text; ``None`` if it is empty.

    Args:
        text: A model's answer.
        lenient: Remove text that untrained models put around an answer, see :func:`loosened`.
    """
    answer = extract_answer(text)
    return normalise(loosened(answer) if lenient else answer) or None


def loosened(text: str) -> str:
    r"""Return the first line of an answer, without emphasis and without a label.

    Emphasis is the markup of Markdown and LaTeX (``**B**``, ``\boxed{B}``), and a label is ``The answer is``
    or ``Answer:``. Empty lines before the answer are skipped.
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
                f"the classes {classes[lookup[key]]!r} and {name!r} are equal after normalisation ({key!r}),"
                f" so their answers cannot be distinguished. Keep one of them under `classes`"
            )
        lookup[key] = index
    return lookup


def class_index(name: str, classes: Sequence[str]) -> int | None:
    """Return the index of a class name, compared after :func:`normalise`; ``None`` if it is not a class.

    Args:
        name: A name, not a sentence.
        classes: The class names, in the metric's index order.

    Raises:
        ValueError: If two classes normalise to the same text.
    """
    return _class_lookup(tuple(classes)).get(normalise(name))


def distinct_names(names: Sequence[str]) -> list[str]:
    """Return the distinct names, sorted; of names that are equal after normalisation the first is kept."""
    kept: dict[str, str] = {}
    for name in sorted(set(names)):
        kept.setdefault(normalise(name), name)
    return list(kept.values())


def read_choice(text: str, *, lenient: bool = False) -> int | None:
    """Return which of two candidates an answer names, 1 or 2; ``None`` for any other answer.

    The words the, a, video, audio, clip and number are ignored. The rest must be ``1``, ``one``, ``first``,
    ``2``, ``two`` or ``second``.

    Args:
        text: A model's answer, or the answer of a manifest.
        lenient: Remove text that untrained models put around an answer, and brackets.
    """
    answer = read_answer(text, lenient=lenient)
    if answer is None:
        return None
    if lenient:
        answer = re.sub(r"[()\[\].]", " ", answer)
    return _CHOICE_WORDS.get(" ".join(_CHOICE_FILLERS.sub(" ", answer).split()))


def read_option(text: str, options: Sequence[str], *, lenient: bool = False) -> int | None:
    """Return the zero-based index of the option that an answer names.

    These forms are tried in order: the text of exactly one option; a letter ``a`` to ``d``, alone, in
    brackets or before a full stop; a digit ``0`` to ``3``, unless an option is a number. The result is
    ``None`` for any other answer.

    Args:
        text: A model's answer, or the answer of a manifest.
        options: The options, in order.
        lenient: Remove text that untrained models put around an answer, and also read a letter before a text
            (``A. dog barking``, ``(B) a cat``), unless this text is another option.
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
