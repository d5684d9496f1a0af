"""What the tasks of this folder call in lmms-eval; written by `crab-lightning data lmms-eval`.

lmms-eval and crab_lightning need different versions of PyAV, so they cannot share an environment. Here the
questions are asked, and the answers are written to `answers/DATASET.jsonl`. The command in the environment
variable CRAB_LIGHTNING, such as `/path/to/venv/bin/crab-lightning`, then scores them. Without that variable
the score is not a number, and the command that computes it is printed.
"""

import json
import math
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
_SETTINGS = json.loads((_HERE / "settings.json").read_text(encoding="utf-8"))


def _root() -> Path:
    return Path(os.environ.get("CRAB_DATA_ROOT", _SETTINGS["root"]))


def _parts(doc: dict[str, Any]) -> list[dict[str, str]]:
    parts: list[dict[str, str]] = json.loads(doc["content"])
    return parts


def doc_to_text(doc: dict[str, Any]) -> str:
    """Return the question without its media, for models that take all media first."""
    return "\n".join(part["text"].strip() for part in _parts(doc) if part["type"] == "text")


def doc_to_target(doc: dict[str, Any]) -> str:
    """Return the true answer in the form that is scored; empty where the test file does not hold it."""
    return str(doc["target"])


def doc_to_visual(doc: dict[str, Any]) -> list[Any]:
    """Return the media in their order: paths of videos, pictures, and sounds of 16 kHz."""
    found: list[Any] = []
    for part in _parts(doc):
        if part["type"] == "text":
            continue
        path = str(_root() / part["path"])
        if part["type"] == "video":
            found.append(path)
        elif part["type"] == "image":
            from PIL import Image

            found.append(Image.open(path).convert("RGB"))
        else:
            import librosa

            samples, rate = librosa.load(path, sr=16_000, mono=True)
            found.append({"array": samples, "sampling_rate": int(rate)})
    return found


def doc_to_messages(doc: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the question as one user message, texts and media in the order that models are trained on."""
    content: list[dict[str, Any]] = [
        part if part["type"] == "text" else {"type": part["type"], "url": str(_root() / part["path"])}
        for part in _parts(doc)
    ]
    return [{"role": "user", "content": content}]


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """Return the answer with its id; it is scored together with all others."""
    answer = results[0] if results else ""
    return {"headline": {"id": doc["id"], "dataset": doc["id"].partition("/")[0], "answer": answer or ""}}


def score(items: list[dict[str, str]]) -> float:
    """Write the answers of a dataset and return its score, as `crab-lightning score` computes it.

    Raises:
        RuntimeError: If that command fails; the answers are written then.
    """
    dataset = items[0]["dataset"]
    folder = Path(os.environ.get("CRAB_ANSWERS", _HERE / "answers"))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{dataset}.jsonl"
    lines = [json.dumps({"id": one["id"], "answer": one["answer"]}, ensure_ascii=False) for one in items]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    words = ["score", "--root", str(_root()), "--dataset", dataset, "--predictions", str(path)]
    words += ["--data-config", _SETTINGS["config"], "--out", str(folder.parent / "scores"), "--json"]
    if dataset in _SETTINGS["lenient"]:
        words.append("--lenient")
    command = os.environ.get("CRAB_LIGHTNING")
    if not command:
        print(f"The answers are in {path}. Score them with: crab-lightning {shlex.join(words)}")
        return math.nan
    done = subprocess.run([*shlex.split(command), *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command} could not score {path}: {done.stderr.strip()[-500:]}")
    result = json.loads(done.stdout)["result"]
    value = result["strict"].get(result["headline"])
    return math.nan if value is None else float(value)
