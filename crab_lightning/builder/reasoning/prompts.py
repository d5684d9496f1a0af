"""Build the prompts of the writing model from instructions and in-context examples in YAML files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

Length = Literal["short", "full"]
Message = dict[str, Any]

SHIPPED = Path(__file__).with_name("examples")
LEAKAGE = Path(__file__).with_name("leakage.txt")
_PROMPT_KEYS = ("system", "full", "short", "label", "weak", "again")
_EXAMPLE_KEYS = ("question", "clip", "answer", "full", "short")


@dataclass(frozen=True)
class Prompts:
    """The instructions, and the examples of one task.

    Args:
        texts: The instructions by name; see ``examples/prompt.yaml``.
        examples: Examples, each with the keys ``question``, ``clip``, ``answer``, ``full`` and ``short``.
    """

    texts: dict[str, str]
    examples: tuple[dict[str, str], ...]

    @property
    def digest(self) -> str:
        """A hash of the instructions and the examples."""
        return hashlib.sha256(json.dumps([self.texts, self.examples], sort_keys=True).encode()).hexdigest()

    def messages(
        self, content: Sequence[dict[str, Any]], last: str, length: Length, earlier: tuple[str, str] | None
    ) -> list[Message]:
        """Return the conversation that asks for a text.

        Args:
            content: The question with its media, as parts of a user message.
            last: The sentence that tells the model the right answer.
            length: Length of the reasoning.
            earlier: The last rejected text and the reason for the rejection; ``None`` at the first try.
        """
        shown = "\n\n".join(
            f"Example {number}\nQuestion: {one['question']}\nIn the clip: {one['clip']}\n"
            f"Right answer: {one['answer']}\nYour text: {one[length]}"
            for number, one in enumerate(self.examples, 1)
        )
        system = f"{self.texts['system']}\n\n{self.texts[length]}\n\n{shown}".rstrip()
        found: list[Message] = [
            {"role": "system", "content": system},
            {"role": "user", "content": [*content, {"type": "text", "text": last}]},
        ]
        if earlier is not None:
            text, reason = earlier
            again = self.texts["again"].replace("{reason}", reason)
            found += [{"role": "assistant", "content": text or "-"}, {"role": "user", "content": again}]
        return found


def read_prompts(task: str, dataset: str, folder: Path | None = None) -> Prompts | None:
    """Return the prompts of a dataset.

    Args:
        task: Key of the task; ``<task>.yaml`` contains the examples of the task.
        dataset: Key of the dataset; if ``<dataset>.yaml`` exists, it is used instead.
        folder: Folder whose files take precedence over those of the package.

    Returns:
        ``None`` if there are no examples for the dataset or its task.

    Raises:
        ValueError: If a file is not YAML, or if a key is missing or is not a text.
    """
    folders = [SHIPPED] if folder is None else [folder, SHIPPED]
    prompt = _first(folders, ["prompt"])
    assert prompt is not None
    texts = _read(prompt)
    if not isinstance(texts, dict) or any(not isinstance(texts.get(key), str) for key in _PROMPT_KEYS):
        raise ValueError(f"{prompt} must map each of {', '.join(_PROMPT_KEYS)} to a text")
    path = _first(folders, [dataset, task])
    if path is None:
        return None
    examples = _read(path)
    if not isinstance(examples, list) or not examples:
        raise ValueError(f"{path} must contain a list of examples, at least one")
    for number, one in enumerate(examples, 1):
        if not isinstance(one, dict) or any(not isinstance(one.get(key), str) for key in _EXAMPLE_KEYS):
            raise ValueError(
                f"{path}, example {number}: it must map each of {', '.join(_EXAMPLE_KEYS)} to text"
            )
    return Prompts(texts, tuple({key: one[key] for key in _EXAMPLE_KEYS} for one in examples))


def read_phrases(path: Path | None = None) -> tuple[str, ...]:
    """Return the phrases that show that the model was told the answer, in lower case.

    Args:
        path: File with one phrase in each line; by default, the file of the package.

    Raises:
        ValueError: If the file is not UTF-8.
        FileNotFoundError: If there is no such file.
    """
    path = path or LEAKAGE
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as err:
        raise ValueError(f"{path} is not UTF-8 text; save it as UTF-8") from err
    phrases = (" ".join(line.lower().split()) for line in lines if not line.lstrip().startswith("#"))
    return tuple(phrase for phrase in phrases if phrase)


def _first(folders: Sequence[Path], names: Sequence[str]) -> Path | None:
    for folder in folders:
        for name in names:
            path = folder / f"{name}.yaml"
            if path.is_file():
                return path
    return None


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise ValueError(f"{path} is not YAML: {err}") from err
