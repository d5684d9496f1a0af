"""Tokenizers of captions, and METEOR: the parts that published scores take from Java programs."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lightning_utilities.core.imports import RequirementCache

if TYPE_CHECKING:
    from pycocoevalcap.meteor.meteor import Meteor

Items = Sequence[tuple[str, Sequence[str]]]
"""A candidate with its references each; texts are tokens joined by single spaces."""
Tokenizer = Literal["auto", "ptb", "python", "none"]

TOKENIZERS: dict[Tokenizer, str] = {
    "ptb": "the Java program of published scores",
    "python": "scores differ slightly from published ones, which use ptb",
    "none": "captions are tokens joined by spaces already",
}
"""What a reader of scores has to know of each tokenizer."""

# What the COCO tools drop after tokenizing. Brackets stand in upper case there while tokens are in lower
# case, so "-lrb-" and its kin survive; published scores have them, and so do these.
_DROPPED = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)
# Further spellings of those, which the PTB tokenizer maps to them first.
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
    """A tool of published caption scores is not there; the message says which and what to do."""


def missing_tool() -> str | None:
    """Say what keeps the PTB tokenizer and METEOR from running, and the remedy; ``None`` if nothing does."""
    missing = []
    if not RequirementCache("pycocoevalcap>=1.2"):
        missing.append("the package pycocoevalcap (pip install 'crab_lightning[metrics]')")
    if shutil.which("java") is None:
        missing.append("a Java runtime, version 8 or later, on PATH")
    if not missing:
        return None
    return f"METEOR and the PTB tokenizer need {' and '.join(missing)}"


def choose_tokenizer(wanted: Tokenizer) -> Tokenizer:
    """Return the tokenizer that is used: ``auto`` is ``ptb`` where it can run, else ``python``."""
    if wanted != "auto":
        return wanted
    return "ptb" if missing_tool() is None else "python"


def _need_tools() -> None:
    if (missing := missing_tool()) is not None:
        raise CaptionToolMissing(missing)


def python_tokenize(text: str) -> str:
    """Tokenize without Java: lower case, clitics apart, punctuation dropped, brackets as ``-lrb-``.

    It equals the PTB tokenizer on plain captions. It differs on what that one knows as single tokens or
    spells anew: abbreviations with full stops, web addresses, emoticons, currency, fractions, "cannot" and
    the like. Scores from it should be named as such.

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
    """Tokenize as published caption scores do: Stanford PTB tokenizer, lower case, punctuation dropped.

    Args:
        texts: Captions; a line break in one counts as a space.

    Returns:
        Tokens joined by single spaces, one text for each caption.

    Raises:
        CaptionToolMissing: If pycocoevalcap or Java is absent, or Java fails.
    """
    _need_tools()
    from pycocoevalcap.tokenizer import ptbtokenizer

    jar = Path(ptbtokenizer.__file__).parent / ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR
    # The package's own wrapper writes into its folder, which an installation may not allow, and loses an
    # empty caption at the end; the same program on a file of ours does neither.
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


def start_meteor() -> Meteor:
    """Start the METEOR 1.5 program, which takes about a second and may claim 2 GB.

    Raises:
        CaptionToolMissing: If pycocoevalcap or Java is absent.
    """
    _need_tools()
    from pycocoevalcap.meteor.meteor import Meteor

    return Meteor()


def meteor(items: Items, program: Meteor | None = None) -> float:
    """METEOR 1.5 over a corpus of tokenized captions, in [0, 1]; higher is better.

    The Java program pools its counts over the corpus; it is no mean over items.

    Args:
        items: At least one candidate with at least one reference.
        program: A running program to ask, for several corpora in turn; left out, one is started.

    Raises:
        CaptionToolMissing: If pycocoevalcap or Java is absent.
    """
    program = program or start_meteor()
    keyed = dict(enumerate(items))
    score, _ = program.compute_score(
        {key: list(references) for key, (_, references) in keyed.items()},
        {key: [candidate] for key, (candidate, _) in keyed.items()},
    )
    return float(score)
