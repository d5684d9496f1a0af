"""Writes the model card of adapters: their description, their use, and their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from crab_lightning.adapters import AdapterConfig
from crab_lightning.metrics.scale import PERCENT, read_scale

LICENCES = (
    "apache-2.0", "mit", "openrail", "bigscience-openrail-m", "creativeml-openrail-m",
    "bigscience-bloom-rail-1.0", "bigcode-openrail-m", "afl-3.0", "artistic-2.0", "bsl-1.0", "bsd",
    "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "c-uda", "cc", "cc0-1.0", "cc-by-2.0",
    "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0",
    "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0",
    "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cdla-sharing-1.0", "cdla-permissive-1.0",
    "cdla-permissive-2.0", "wtfpl", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1",
    "eupl-1.2", "agpl-3.0", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0", "isc",
    "h-research", "intel-research", "lppl-1.3c", "ms-pl", "apple-ascl", "apple-amlr", "mpl-2.0",
    "odc-by", "odbl", "openmdw-1.0", "openrail++", "osl-3.0", "postgresql", "ofl-1.1", "ncsa",
    "unlicense", "zlib", "pddl", "lgpl-lr", "deepfloyd-if-license",
    "fair-noncommercial-research-license", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3",
    "llama4", "grok2-community", "gemma", "unknown", "other",
)  # fmt: skip
"""Identifiers of licences on the hub (https://huggingface.co/docs/hub/repositories-licenses). ``other`` is a
licence without an identifier."""


@dataclass
class CardFacts:
    """The facts in a model card.

    Args:
        repo: ``owner/name`` of the repository on the hub.
        base: Name of the base weights.
        adapter: Kind and sizes of the adapters.
        metadata: Data that were saved with the adapters, such as geometry and paradigm.
        parameters: Number of values in the adapters.
        tasks: Tasks of the datasets on which the run was trained, by dataset.
        results: The ``test`` entry of ``metrics.json``; ``None`` if there are no scores of these weights.
        made: Date of the results.
        licence: Identifier of the licence on the hub; ``None`` if it is not known.
        has_config: Whether the repository contains ``config.yaml``.
        packages: Other packages whose classes the run needs.
        synthetic: Whether the run was tested on the synthetic clips of Mini AV-UIE.
    """

    repo: str
    base: str
    adapter: AdapterConfig
    metadata: Mapping[str, Any]
    parameters: int
    tasks: Mapping[str, str] = field(default_factory=dict)
    results: Mapping[str, Any] | None = None
    made: str = ""
    licence: str | None = None
    has_config: bool = True
    packages: Sequence[str] = ()
    synthetic: bool = False


def model_card(facts: CardFacts) -> str:
    """Return the card as Markdown, which begins with the metadata for the hub."""
    name = facts.repo.rpartition("/")[2]
    data = ModelCardData(
        base_model=facts.base,
        license=facts.licence,
        library_name="crab_lightning",
        tags=["audio-visual", "adapter", facts.adapter.kind],
        datasets=None,  # only for names of datasets on the hub
        model_name=name,
        eval_results=_results(facts) or None,
    )
    parts = [f"---\n{data.to_yaml()}\n---", f"# {name}", _about(facts), *_use(facts), *_scores(facts)]
    if facts.licence is None:
        parts.append("## Licence\n\nThe owner of this repository has not stated a licence.")
    return "\n\n".join(parts) + "\n"


def _about(facts: CardFacts) -> str:
    rows = {
        "base weights": f"`{facts.base}`",
        "adapters": str(facts.adapter),
        "adapted layers": ", ".join(f"`{name}`" for name in facts.adapter.target_modules),
        "values": f"{facts.parameters:,}",
        "paradigm": str(facts.metadata.get("paradigm")),
        "geometry of the input": str(facts.metadata.get("geometry")),
    }
    if facts.tasks:
        rows["trained on"] = ", ".join(f"{name} ({task})" for name, task in facts.tasks.items())
    lines = [f"| {key} | {value} |" for key, value in rows.items()]
    return (
        f"Adapters for `{facts.base}`, trained with crab_lightning. They change the answers of the frozen "
        "base model to questions about video, sound and pictures.\n\n| | |\n|---|---|\n" + "\n".join(lines)
    )


def _use(facts: CardFacts) -> list[str]:
    config = "" if facts.has_config else " --config YOUR_CONFIG.yaml"
    task = next(iter(facts.tasks.values()), "TASK")
    return [
        "## Use",
        "```bash\n"
        "pip install crab_lightning\n"
        f"crab-lightning adapter pull {facts.repo} --out adapter\n"
        f"crab-lightning ask --checkpoint adapter{config} --task {task} --video clip.mp4\n"
        f"crab-lightning test --ckpt_path adapter{config} --data.root DATA\n"
        "```",
        "A task whose question differs from clip to clip also needs `--question`, and one that looks "
        "for a named object needs `--expression`.",
        *(
            f"The run needs the package `{name}` too: install it, and add `--allow-code-of {name}` to `ask` "
            "and `test`, which lets the config run code of that package."
            for name in facts.packages
        ),
    ]


def _scores(facts: CardFacts) -> list[str]:
    if facts.results is None:
        return []
    lines = ["| dataset | task | metric | score | questions |", "|---|---|---|---|---|"]
    notes: list[str] = []
    for name, entry in facts.results["datasets"].items():
        metric = entry["headline"]
        scale = read_scale(entry, metric)
        value = scale.text(entry["strict"].get(metric))
        unit = " %" if scale.unit == PERCENT and scale.high == 1 and value != "–" else ""
        asked = f"{entry['counts']['scored']:,}{' (validation)' * (_split(entry) == 'val')}"
        lines.append(f"| {name} | {entry['task']} | {scale.label(metric)} | {value}{unit} | {asked} |")
        notes += [f"- {name}: {entry['note']}"] if entry.get("note") else []
    made = facts.results.get("made", {})
    version = made.get("version", "an earlier version")
    whole = "all questions" if facts.results.get("whole_split") else "a part of the questions"
    said = (
        f"Measured on {facts.made} with `crab-lightning test` of crab_lightning {version}, on {whole} of the "
        "test sets. An unreadable answer counts as an empty one. `crab-lightning test --ckpt_path adapter "
        "--data.root DATA` repeats the test."
    )
    if any(_split(entry) == "val" for entry in facts.results["datasets"].values()):
        said += (
            " Datasets without a test file were tested on a part of their training file that the training did"
            ' not use; the table marks them with "validation".'
        )
    if facts.synthetic:
        said += (
            " The clips are the synthetic ones of Mini AV-UIE, so these scores say nothing about real videos."
        )
    return ["## Scores", said, "\n".join(lines), *(["\n".join(notes)] if notes else [])]


def _split(entry: Mapping[str, Any]) -> str:
    """Return the split of the questions of a dataset: ``test``, or ``val`` without a test file."""
    return "val" if entry.get("splits") == ["val"] else "test"


def _results(facts: CardFacts) -> list[EvalResult]:
    found = []
    for name, entry in (facts.results or {}).get("datasets", {}).items():
        value = entry["strict"].get(entry["headline"])
        if value is not None:
            result = EvalResult(
                task_type=entry["task"],
                dataset_type=name,
                dataset_name=f"{name} (Mini AV-UIE, synthetic)" if facts.synthetic else name,
                dataset_split=_split(entry),
                metric_type=entry["headline"],
                metric_value=round(float(value), 6),
            )
            found.append(result)
    return found
