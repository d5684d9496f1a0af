"""The work for one dataset: its rows, the request for each row, and the manifest with the texts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from crab_lightning.builder.reasoning.journal import Shard, Verdict
from crab_lightning.builder.reasoning.prompts import Length, Prompts, read_phrases, read_prompts
from crab_lightning.builder.reasoning.questions import (
    WEAK,
    Question,
    Settings,
    known_truth,
    target_key,
    timed_text,
    weak_rows,
    weak_truth,
    with_classes,
)
from crab_lightning.builder.reasoning.writers import RowRefused, Writer
from crab_lightning.data.loading import load_media
from crab_lightning.data.manifests.files import dataset_folder, load_rows, manifest_path, manifest_text
from crab_lightning.data.manifests.reader import read_manifest
from crab_lightning.evaluation.prediction_files import read_records
from crab_lightning.files import digest_of, free_name, replace_bytes, replace_json, replace_text
from crab_lightning.processing.endpoint import EndpointProcessor
from crab_lightning.structures import DatasetSpec, Example, Sample
from crab_lightning.tasks.base import Task
from crab_lightning.tasks.event_text import ModalEvents

FOLDER = "reasoning"
"""Folder in a dataset's folder that contains the decisions."""


class Work:
    """The rows of one dataset that need texts, the requests for them, and the manifest.

    Args:
        root: Data root.
        dataset: Key of the dataset.
        spec: The entry of the dataset in ``data.datasets``.
        task: The task of the dataset.
        settings: Settings with which texts are requested.
        writer: Settings of the writer on which the texts depend.

    Raises:
        FileExistsError: If the manifest was changed after texts were written to it.
        FileNotFoundError: If a file of ``settings.answers`` or ``settings.leakage`` is missing.
        ValueError: If the manifest cannot be read or is neither .json nor .jsonl, if its layout has no key
            for the text, if there are no examples for the task, or if ``settings.answers`` does not contain
            an answer to every row.
    """

    def __init__(
        self,
        root: Path,
        dataset: str,
        spec: DatasetSpec,
        task: Task[Any],
        settings: Settings,
        writer: Mapping[str, Any],
    ) -> None:
        self.dataset, self.task, self.settings = dataset, task, settings
        self.prompts = prompts_of(dataset, spec, settings)
        self.folder = dataset_folder(root, dataset, spec)
        self.state = self.folder / FOLDER
        self.manifest = manifest_path(root, dataset, spec, "train")
        if self.manifest.suffix not in (".json", ".jsonl"):
            raise ValueError(
                f"{self.manifest}: texts are written to .json and .jsonl only. Save the rows as JSON"
            )
        self.key = target_key(spec, dataset)
        self.original = self.manifest.with_name(
            f"{self.manifest.stem}.before_reasoning{self.manifest.suffix}"
        )
        source = self._source()
        self.rows = load_rows(source, f"data.datasets.{dataset}", root)
        strong = read_manifest(root, dataset, replace(spec, train_file=source.name), "train")
        weak = weak_rows(root, dataset, spec, task)
        self.weak_rows = load_rows(self.folder / WEAK, f"data.datasets.{dataset}", root) if weak else []
        spec = with_classes(root, dataset, spec, task, strong)
        self.spec = replace(
            spec, frames=settings.frames or spec.frames, size_px=settings.size_px or spec.size_px
        )
        self.samples: list[Sample] = [*strong, *weak]
        self._weak = {id(sample) for sample in weak}
        self._easy = (
            easy_rows(settings, strong, self.spec, task) if settings.length == "auto" else frozenset()
        )
        self.phrases = read_phrases(settings.leakage)
        bounds = {k: asdict(settings.bounds(k)) for k in ("short", "full")}
        self.header: dict[str, Any] = {
            **writer,
            "length": settings.length,
            "tries": settings.tries,
            "words": bounds,
            "prompts": self.prompts.digest,
            "leakage": hashlib.sha256("\n".join(self.phrases).encode()).hexdigest(),
            "easy rows": hashlib.sha256("\n".join(sorted(self._easy)).encode()).hexdigest(),
            "frames": self.spec.frames,
            "size_px": self.spec.size_px,
            "manifest": digest_of(source),
            "weak manifest": digest_of(self.folder / WEAK) if weak else None,
        }

    def _source(self) -> Path:
        """Return the manifest as it was before texts were written to it."""
        if not self.original.is_file():
            return self.manifest
        record = self.state / "written.json"
        known = {digest_of(self.original)}
        if record.is_file():
            known.add(json.loads(record.read_text(encoding="utf-8"))["written"])
        if self.manifest.is_file() and digest_of(self.manifest) not in known:
            raise FileExistsError(
                f"{self.manifest} was changed after texts were written to it; nothing was done. To go on "
                f"from the changed rows, remove {self.original.name} and the folder {self.state}. To go on "
                f"from the rows as they were before any text, copy {self.original.name} over "
                f"{self.manifest.name}."
            )
        return self.original

    def part(self, shard: Shard | None) -> list[Sample]:
        """Return the rows of one shard in order; all rows if no shard is given."""
        return self.samples if shard is None else self.samples[shard[0] - 1 :: shard[1]]

    def source_of(self, sample: Sample) -> Literal["train", "weak"]:
        """Return the manifest of a row: ``train`` or ``weak``."""
        return "weak" if id(sample) in self._weak else "train"

    def key_of(self, sample: Sample) -> tuple[str, int]:
        """Return the manifest and the number of a row, which identify it in the decisions."""
        return self.source_of(sample), sample.row

    def length_of(self, sample: Sample) -> Length | Literal["direct"]:
        """Return the length of the reasoning of a row; ``direct`` for no reasoning."""
        if self.settings.length == "auto":
            return "direct" if sample.id in self._easy else "full"
        return self.settings.length

    def question(self, sample: Sample) -> Question:
        """Return the question about a row, with the right answer.

        Raises:
            ValueError: If the right answer of the row cannot be read.
        """
        source = self.source_of(sample)
        answer, truth = (
            known_truth(sample, self.spec, self.task)
            if source == "train"
            else ("", weak_truth(sample, self.spec))
        )
        return Question(sample, self.spec, self.task, source, answer, truth)

    def content(self, sample: Sample) -> list[dict[str, Any]]:
        """Return the question with its media, as parts of a user message.

        Raises:
            MediaError: If a file cannot be decoded.
        """
        loaded = load_media(sample, self.spec, "plain")
        example = Example(sample, self.task.prompt(sample), None, loaded.videos, loaded.images, loaded.audios)
        encoded = EndpointProcessor("plain").encode(example)
        content: list[dict[str, Any]] = json.loads(bytes(encoded.inputs["request"].numpy()))["content"]
        return content

    def told(self, question: Question) -> str:
        """Return the sentence that tells the model the right answer."""
        if question.source == "weak":
            return self.prompts.texts["weak"].replace("{classes}", ", ".join(sorted(question.truth)))
        return self.prompts.texts["label"].replace("{answer}", question.answer)

    def decide(self, sample: Sample, writer: Writer) -> Verdict:
        """Request a text until one can be used or the tries are used up, and return the decision.

        Args:
            sample: The row.
            writer: The model that writes the text.

        Raises:
            WriterError: If the writer cannot continue.
            ValueError: If a stored reply is damaged.
        """
        length = self.length_of(sample)
        verdict = Verdict(*self.key_of(sample), sample.id, length, None)
        try:
            question = self.question(sample)
            if length == "direct":
                return replace(verdict, text=question.answer)
            content = self.content(sample)
        except (OSError, ValueError) as err:
            return replace(verdict, reasons=(f"the row cannot be asked about: {err}",))
        earlier: tuple[str, str] | None = None
        for _ in range(self.settings.tries):
            messages = self.prompts.messages(content, self.told(question), length, earlier)
            try:
                reply = writer.write(messages)
            except RowRefused as err:
                return replace(verdict, reasons=(*verdict.reasons, f"the row was refused: {err}"))
            verdict = replace(
                verdict,
                prompt_tokens=verdict.prompt_tokens + reply.prompt_tokens,
                completion_tokens=verdict.completion_tokens + reply.completion_tokens,
            )
            reason: str | None = "it was cut off at the token limit"
            if not reply.cut_off:
                reason = question.rejection(reply.text, self.settings.bounds(length), self.phrases)
            if reason is None:
                if question.source == "train":
                    return replace(verdict, text=reply.text)
                text, tags = timed_text(
                    reply.text, self.task.parse(reply.text, sample, self.spec) or ModalEvents()
                )
                return replace(verdict, text=text, tags=tags)
            verdict = replace(verdict, reasons=(*verdict.reasons, reason))
            earlier = reply.text, reason
        return verdict

    def write(self, verdicts: Mapping[tuple[str, int], Verdict]) -> None:
        """Write the manifest with the texts, keep the original, and list the rows without a text.

        Args:
            verdicts: The decisions about all rows, by manifest and number of the row.

        Raises:
            ValueError: If no row has a usable text; nothing is written then.
        """
        rows, lost = [], []
        for sample in self.samples:
            verdict = verdicts[self.key_of(sample)]
            weak = verdict.source == "weak"
            row = dict((self.weak_rows if weak else self.rows)[verdict.row])
            if verdict.text is None:
                lost.append((verdict.source, verdict.id, verdict.reasons[-1]))
                if weak or self.settings.discarded == "drop":
                    continue
                text, policy = self.task.target(sample, "direct"), "direct"
            else:
                text, policy = verdict.text, "direct" if verdict.length == "direct" else "reasoning"
            if weak:
                row["event"] = verdict.tags
            row[self.key] = text
            row["target_policy"] = policy
            row["reasoning_length"] = "direct" if policy == "direct" else verdict.length
            rows.append(row)
        if not rows:
            raise ValueError(
                f"{self.manifest}: no row got a usable text, so the manifest was left as it is. The "
                f"decisions in {self.state} say why"
            )
        content = manifest_text(self.manifest, rows)
        cells = [("manifest", "id", "reason"), *lost]
        table = "".join("\t".join(" ".join(cell.split()) for cell in line) + "\n" for line in cells)
        self.state.mkdir(exist_ok=True)
        replace_text(self.state / "discarded.tsv", table)
        if not self.original.is_file():
            replace_bytes(self.original, self.manifest.read_bytes())
        # The record is written first: if the call is killed before the manifest is written, the manifest is
        # still the original one.
        record = {"written": hashlib.sha256(content.encode()).hexdigest(), "settings": self.header}
        replace_json(self.state / "written.json", record, indent=1)
        replace_text(self.manifest, content)

    def restart(self) -> None:
        """Rename the files with the decisions of earlier calls."""
        for path in sorted(self.state.glob("verdicts*.jsonl")):
            path.replace(free_name(path.with_name(f"{path.name}.old")))


def prompts_of(dataset: str, spec: DatasetSpec, settings: Settings) -> Prompts:
    """Return the prompts of a dataset.

    Raises:
        ValueError: If there are no examples for the dataset or its task, or if a file cannot be read.
    """
    prompts = read_prompts(spec.task, dataset, settings.examples)
    if prompts is None:
        raise ValueError(
            f"data.datasets.{dataset}: there are no examples for the task {spec.task!r}. A caption is its "
            f"own answer and needs no reasoning. For a task of your own, write {spec.task}.yaml in the "
            "folder that --examples names"
        )
    return prompts


def easy_rows(
    settings: Settings, samples: Sequence[Sample], spec: DatasetSpec, task: Task[Any]
) -> frozenset[str]:
    """Return the ids of the rows that a small model answered correctly and with certainty.

    Args:
        settings: Settings with the prediction files and the smallest probability of a certain answer.
        samples: The training rows.
        spec: The entry of the dataset.
        task: The task of the dataset.

    Raises:
        FileNotFoundError: If there is no prediction file of the dataset.
        ValueError: If the prediction file cannot be read, or does not contain an answer to every row.
    """
    assert settings.answers is not None
    path, dataset = settings.answers, samples[0].dataset if samples else ""
    path = path / f"{dataset}.jsonl" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"--answers: there is no {path}; it contains the direct answers of {dataset}")
    records = {_without_split(record["id"]): record for record in read_records(path)}
    easy = []
    for sample in samples:
        record = records.get(_without_split(sample.id))
        if record is None:
            raise ValueError(
                f"--answers: {path} has no answer to {sample.id} (row {sample.row}). Let the small model"
                f" answer every training row: `test` with --data.datasets.{dataset}.test_file naming the"
                f" training manifest"
            )
        if "choice_right" in record:
            right = bool(record["choice_right"]) and float(record["confidence"]) >= settings.sure
        else:
            answer = task.parse(str(record["answer"]), sample, spec)
            right = answer is not None and answer == task.truth(sample, spec)
        if right:
            easy.append(sample.id)
    return frozenset(easy)


def _without_split(name: str) -> str:
    dataset, _, rest = name.partition("/")
    return f"{dataset}/{rest.partition('/')[2]}"
