"""Tokenizers of captions, and METEOR; published scores use Java programs for these."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from lightning_utilities.core.imports import RequirementCache

Items = Sequence[tuple[str, Sequence[str]]]
"""Candidates, each with its references; texts are tokens joined by single spaces."""
Tokenizer = Literal["auto", "ptb", "python", "none"]

TOKENIZERS: dict[Tokenizer, str] = {
    "ptb": "the Java program of published scores",
    "python": "scores differ slightly from published ones, which use ptb",
    "none": "captions are already tokens joined by spaces",
}
"""Remark on each tokenizer that is shown with the scores."""

# Tokens that the COCO tools drop. Brackets are in upper case there but tokens are in lower case, so "-lrb-"
# and the like are not dropped, neither in published scores nor here.
_DROPPED = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)
# Further characters, which the PTB tokenizer first replaces by one of these.
_DROPPED_UNMAPPED = _DROPPED | set('"\u201c\u201d\u2013\u2014')
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_CLITIC = re.compile(r"(?<=[a-z])('s|'re|'ve|'ll|'d|'m)(?![a-z])|(?<=[a-z])(n't)(?![a-z])")
_TOKEN = re.compile(
    r"-[lr][rsc]b-"  # brackets, already spelt out
    r"|n't(?![a-z])|'(?:s|re|ve|ll|d|m)(?![a-z])"
    r"|\d+(?:[.,:]\d+)*"
    r"|\w+(?:[-'/]\w+)*"
    r"|\.\.\.|--|\S"
)


class CaptionToolMissing(RuntimeError):
    """A program that caption scores need is missing or failed."""


def missing_tool() -> str | None:
    """Return which tools are missing for the PTB tokenizer and METEOR; ``None`` if none is missing."""
    missing = []
    if not RequirementCache("pycocoevalcap>=1.2"):
        missing.append("the package pycocoevalcap (pip install 'crab_lightning[metrics]')")
    if shutil.which("java") is None:
        missing.append("a Java runtime, version 8 or later, on PATH")
    if not missing:
        return None
    return f"METEOR and the PTB tokenizer need {' and '.join(missing)}"


def choose_tokenizer(wanted: Tokenizer) -> Tokenizer:
    """Return the tokenizer that is used; ``auto`` becomes ``ptb`` if it can run, else ``python``."""
    if wanted != "auto":
        return wanted
    return "ptb" if missing_tool() is None else "python"


def _need_tools() -> None:
    if (missing := missing_tool()) is not None:
        raise CaptionToolMissing(missing)


def python_tokenize(text: str) -> str:
    """Tokenize without Java: lower case, separate clitics, no punctuation, brackets as ``-lrb-``.

    On plain captions the result is that of the PTB tokenizer. It differs for abbreviations with full stops,
    web addresses, emoticons, currency, fractions, "cannot" and the like. State it when you report such
    scores.

    Args:
        text: One caption.

    Returns:
        Tokens joined by single spaces.

    >>> python_tokenize("The crowd's applause, (loud) -- isn't over!")
    "the crowd 's applause -lrb- loud -rrb- is n't over"
    """
    text = text.lower().replace("\u2018", "'").replace("\u2019", "'")
    for bracket, name in _BRACKETS.items():
        text = text.replace(bracket, f" {name} ")
    text = _CLITIC.sub(lambda match: f" {match.group()} ", text)
    return " ".join(token for token in _TOKEN.findall(text) if token not in _DROPPED_UNMAPPED)


def ptb_tokenize(texts: Sequence[str]) -> list[str]:
    """Tokenize with the Stanford PTB tokenizer, as published scores do: lower case, no punctuation.

    Args:
        texts: Captions; a line break counts as a space.

    Returns:
        Tokens joined by single spaces, one text for each caption.

    Raises:
        CaptionToolMissing: If pycocoevalcap or Java is not installed, or Java fails.
    """
    _need_tools()
    from pycocoevalcap.tokenizer import ptbtokenizer

    jar = Path(ptbtokenizer.__file__).parent / ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR
    # The wrapper in the package writes into its own folder, which may not be allowed, and loses an empty
    # caption at the end. So the program is called here directly.
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "captions.txt"
        lines.write_text("".join(" ".join(text.split()) + "\n" for text in texts), encoding="utf-8")
        command = ["java", "-Dfile.encoding=UTF-8", "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer"]
        done = subprocess.run(
            [*command, "-preserveLines", "-lowerCase", "-encoding", "UTF-8", str(lines)],
            capture_output=True,
            check=False,
        )
    tokenized = done.stdout.decode("utf-8").split("\n")[:-1]
    if done.returncode or len(tokenized) != len(texts):
        raise CaptionToolMissing(
            f"the PTB tokenizer returned {len(tokenized)} lines for {len(texts)} captions (exit status "
            f"{done.returncode}): {done.stderr.decode('utf-8', 'replace')[-500:]}"
        )
    return [" ".join(token for token in line.split() if token not in _DROPPED) for line in tokenized]


def meteor(items: Items) -> float:
    """Return METEOR 1.5 of a corpus of tokenized captions, in [0, 1]; higher is better.

    The score is computed from the counts of the whole corpus. It is not a mean over items. The program takes
    about a second to start, and may use 2 GB of memory.

    Args:
        items: At least one candidate with at least one reference.

    Raises:
        CaptionToolMissing: If pycocoevalcap or Java is not installed.
    """
    _need_tools()
    from pycocoevalcap.meteor.meteor import Meteor

    keyed = dict(enumerate(items))
    score, _ = Meteor().compute_score(
        {key: list(references) for key, (_, references) in keyed.items()},
        {key: [candidate] for key, (candidate, _) in keyed.items()},
    )
    return float(score)
