"""What an answer about a picture names: the words for the objects that it says are meant."""

from __future__ import annotations

import re

from crab_lightning.tasks.answers import plain

# "The object making the sound is the X.", "The objects making the sound in the video are the X and the Y.",
# "The object is the X.", "The sounding object is X."
_SENTENCE = re.compile(
    r"\b(?:sounding\s+objects?|objects?(?:\s+(?:that\s+(?:is|are)\s+)?(?:making|producing)\s+(?:the|a)\s+sounds?)?"
    r"(?:\s+in\s+the\s+(?:video(?:\s+frame)?|frame|image|picture))?)\s+(?:is|are)\s+([^.;:\[\](){}<>\n]{1,200})",
    re.IGNORECASE,
)
_BETWEEN = re.compile(r"\s*,\s*(?:and\s+)?|\s+and\s+", re.IGNORECASE)
_ARTICLE = re.compile(r"^(?:the|an|a)\s+", re.IGNORECASE)
_NO_NAME = re.compile(
    r"^(?:(?:with\s+)?(?:its|their)|absent|not|in|at|on|located|there|here|none)\b", re.IGNORECASE
)


def named_objects(text: str) -> tuple[str, ...]:
    """Return the names in the last sentence of an answer that says which objects are meant, without articles.

    Args:
        text: A model's answer, such as ``The objects making the sound are the man and the dulcimer.``

    Returns:
        The names in order, each once, here ``("man", "dulcimer")``; empty where the answer names nothing.
    """
    names: list[str] = []
    for sentence in _SENTENCE.finditer(plain(text)):
        found = []
        for part in _BETWEEN.split(sentence[1]):
            name = _ARTICLE.sub("", part.strip().strip("'\"`*")).strip().replace("_", " ")
            if not name or _NO_NAME.match(name):
                break
            found.append(name)
        names = found or names
    return tuple(dict.fromkeys(names))
