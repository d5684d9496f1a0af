"""Reasoning texts for the training rows of a data root: asked for, checked, kept, written to the manifest."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from crab_lightning.builder.reasoning.journal import Journal, Shard, Verdict, journal_name, read_journals
from crab_lightning.builder.reasoning.prompts import Length, Prompts, read_phrases, read_prompts
from crab_lightning.builder.reasoning.questions import (
    BOUNDS,
    WEAK,
    Bounds,
    Question,
    known_truth,
    target_key,
    timed_text,
    weak_rows,
    weak_truth,
    with_classes,
)
from crab_lightning.builder.reasoning.writers import CachedWriter, RowRefused, Writer, WriterError
from crab_lightning.data.loading import load_media
from crab_lightning.data.manifests.files import dataset_folder, load_rows, manifest_path
from crab_lightning.data.manifests.reader import read_manifest
from crab_lightning.evaluation.prediction_files import read_records
from crab_lightning.files import replace_file
from crab_lightning.processing.endpoint import EndpointProcessor
from crab_lightning.structures import DatasetSpec, Example, Sample
from crab_lightning.tasks.base import Task
from crab_lightning.tasks.event_text import ModalEvents

Progress = Callable[[str, int, int], None]
Policy = Literal["short", "full", "auto"]

FOLDER = "reasoning"
"""Folder below a dataset's folder that holds its verdicts."""
CACHE = "reasoning_cache"
"""Folder below the data root that keeps every reply."""


@dataclass(frozen=True)
class Settings:
    """How texts are asked for and checked.

    Args:
        length: Length of the reasoning. ``auto`` wants full reasoning only where ``answers`` shows that a
            cheap model's direct answer was wrong or unsure, and the bare answer elsewhere.
        tries: How often a text is asked for before the row is given up.
        least_words: Fewest words of the reasoning; by length when left out.
        most_words: Most words of the reasoning; by length when left out.
        examples: Folder of YAML files that take precedence over the shipped instructions and examples.
        leakage: File of phrases that no text may hold; the shipped one when left out.
        answers: Prediction files, or their folder, of a cheap model that answered the training rows.
        sure: A direct answer counts as sure if the model gives it at least this probability.
        frames: Frames of each video; those of the dataset when left out.
        size_px: Side of the frames; that of the dataset when left out.
        discarded: What becomes of a row without a good text: ``drop`` leaves it out of the manifest,
            ``direct`` keeps it with its bare answer.

    Raises:
        ValueError: If a number is out of its range, or ``auto`` has no answers.
    """

    length: Policy = "full"
    tries: int = 3
    least_words: int | None = None
    most_words: int | None = None
    examples: Path | None = None
    leakage: Path | None = None
    answers: Path | None = None
    sure: float = 0.9
    frames: int | None = None
    size_px: int | None = None
    discarded: Literal["drop", "direct"] = "drop"

    def __post_init__(self) -> None:
        if self.tries < 1:
            raise ValueError(f"--tries is {self.tries}; at least 1 is needed")
        if (self.length == "auto") != (self.answers is not None):
            raise ValueError(
                "--length auto and --answers belong together: auto wants reasoning where the direct"
                " answer of a small model was wrong or uncertain, and the prediction files in --answers"
                " say where that is"
            )
        if self.examples is not None and not self.examples.is_dir():
            raise NotADirectoryError(f"--examples {self.examples} is not a folder")

    def bounds(self, length: Length) -> Bounds:
        """Return how many words the reasoning may have."""
        usual = BOUNDS[length]
        least = usual.least if self.least_words is None else self.least_words
        return Bounds(least, usual.most if self.most_words is None else self.most_words)


@dataclass
class Report:
    """The outcome for one dataset.

    Args:
        dataset: Key of the dataset.
        manifest: The manifest that was written; ``None`` for one shard.
        rows: Rows of this call.
        known: Those whose verdict was there.
        asked: Requests that were sent.
        kept: Number of texts by length.
        discarded: Number of rows without a text, by reason.
        rejected: Number of rejected tries, by reason.
        prompt_tokens: Tokens read for all rows.
        completion_tokens: Tokens written for all rows.
    """

    dataset: str
    manifest: Path | None = None
    rows: int = 0
    known: int = 0
    asked: int = 0
    kept: Counter[str] = field(default_factory=Counter)
    discarded: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Work:
    """Everything about one dataset: its rows, what is asked about each, and the verdicts so far.

    Args:
        root: Data root.
        dataset: Key of the dataset.
        spec: Its row under ``data.datasets``.
        task: Its task.
        settings: How texts are asked for.
        prompts: Instructions and examples.
        writer: What writer and model the texts depend on.

    Raises:
        ValueError: If the manifest was changed after texts were written to it, or cannot be written to.
    """

    def __init__(
        self,
        root: Path,
        dataset: str,
        spec: DatasetSpec,
        task: Task[Any],
        settings: Settings,
        prompts: Prompts,
        writer: Mapping[str, Any],
    ) -> None:
        self.dataset, self.task, self.settings, self.prompts = dataset, task, settings, prompts
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
            _easy_rows(settings, strong, self.spec, task) if settings.length == "auto" else frozenset()
        )
        self.phrases = read_phrases(settings.leakage)
        bounds = {k: asdict(settings.bounds(k)) for k in ("short", "full")}
        self.header: dict[str, Any] = {
            **writer,
            "length": settings.length,
            "tries": settings.tries,
            "words": bounds,
            "prompts": prompts.digest,
            "leakage": hashlib.sha256("\n".join(self.phrases).encode()).hexdigest(),
            "easy rows": hashlib.sha256("\n".join(sorted(self._easy)).encode()).hexdigest(),
            "frames": self.spec.frames,
            "size_px": self.spec.size_px,
            "manifest": _digest(source),
            "weak manifest": _digest(self.folder / WEAK) if weak else None,
        }

    def _source(self) -> Path:
        """Return the manifest as it was before any text was written to it."""
        if not self.original.is_file():
            return self.manifest
        record = self.state / "written.json"
        known = {_digest(self.original)}
        if record.is_file():
            known.add(json.loads(record.read_text(encoding="utf-8"))["written"])
        if self.manifest.is_file() and _digest(self.manifest) not in known:
            raise FileExistsError(
                f"{self.manifest} was changed after texts were written to it; nothing was done. To go on "
                f"from the "
                f"changed rows, remove {self.original.name} and the folder {self.state}. To go on from the "
                f"rows as "
                f"they were before any text, copy {self.original.name} over {self.manifest.name}."
            )
        return self.original

    def part(self, shard: Shard | None) -> list[Sample]:
        """Return the rows of one shard, in order; all without one."""
        return self.samples if shard is None else self.samples[shard[0] - 1 :: shard[1]]

    def source_of(self, sample: Sample) -> Literal["train", "weak"]:
        """Return which manifest a row stands in."""
        return "weak" if id(sample) in self._weak else "train"

    def key_of(self, sample: Sample) -> tuple[str, int]:
        """Return what names a row in the verdicts."""
        return self.source_of(sample), sample.row

    def length_of(self, sample: Sample) -> Length | Literal["direct"]:
        """Return the length of reasoning that a row gets."""
        if self.settings.length == "auto":
            return "direct" if sample.id in self._easy else "full"
        return self.settings.length

    def question(self, sample: Sample) -> Question:
        """Return what is asked about a row.

        Raises:
            ValueError: If its right answer cannot be read.
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
        """Return what the model is told about the right answer."""
        if question.source == "weak":
            return self.prompts.texts["weak"].replace("{classes}", ", ".join(sorted(question.truth)))
        return self.prompts.texts["label"].replace("{answer}", question.answer)

    def decide(self, sample: Sample, writer: Writer) -> Verdict:
        """Ask for a text until one is good, and return the verdict.

        Raises:
            WriterError: If the writer cannot go on.
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
        """Write the manifest with the texts, keep the original, and list the rows that are left out."""
        rows, lost = [], []
        for sample in self.samples:
            verdict = verdicts[self.key_of(sample)]
            weak = verdict.source == "weak"
            row = dict((self.weak_rows if weak else self.rows)[verdict.row])
            if verdict.text is None:
                lost.append((verdict.source, verdict.id, verdict.reasons[-1]))
                if weak or self.settings.discarded == "drop":
                    continue
                text, policy = self.task.direct(sample), "direct"
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
                f"{self.manifest}: no row got a usable text, so the manifest was left as it is. The verdicts "
                f"in "
                f"{self.state} say why"
            )
        if self.manifest.suffix == ".json":
            content = json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
        else:
            content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        cells = [("manifest", "id", "reason"), *lost]
        table = "".join("\t".join(" ".join(cell.split()) for cell in line) + "\n" for line in cells)
        self.state.mkdir(exist_ok=True)
        _replace(self.state / "discarded.tsv", table)
        if not self.original.is_file():
            before = self.manifest.read_bytes()
            replace_file(self.original, lambda part: part.write_bytes(before))
        # First the record, then the manifest: a call that is killed between them finds the original in its
        # place.
        record = {"written": hashlib.sha256(content.encode()).hexdigest(), "settings": self.header}
        _replace(self.state / "written.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        _replace(self.manifest, content)

    def restart(self) -> None:
        """Put the verdicts of earlier calls aside."""
        for path in sorted(self.state.glob("verdicts*.jsonl")):
            path.replace(path.with_name(f"{path.name}.old"))


def reason(
    root: Path,
    tasks: Mapping[str, Task[Any]],
    datasets: Mapping[str, DatasetSpec],
    writer: Writer,
    settings: Settings | None = None,
    *,
    shard: Shard | None = None,
    merge: bool = False,
    restart: bool = False,
    limit: int | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> list[Report]:
    """Have reasoning texts written for the training rows of some datasets.

    Verdicts are appended to ``<dataset folder>/reasoning/`` as they are made, in the order of the rows; the
    manifest is written once every row has one. A stopped call is taken up again by the same call.

    Args:
        root: Data root.
        tasks: The tasks, by key.
        datasets: The datasets' rows, by key.
        writer: Writes the texts.
        settings: How texts are asked for and checked.
        shard: Only the rows of this part, ``(i, n)``; the manifest is not written.
        merge: Ask nothing; write the manifests from the verdicts of all shards.
        restart: Put earlier verdicts aside; kept replies are used again.
        limit: Only the first rows of each dataset; the manifest is not written.
        cache: Where replies are kept; ``ROOT/reasoning_cache`` when left out.
        progress: Called with what is done, how much of it, and how much there is.

    Raises:
        WriterError: If the writer cannot go on; the verdicts so far are kept.
        JournalError: If earlier verdicts were made in another way, or shards disagree or lack rows.
        ValueError: If a dataset cannot get texts.
    """
    settings = settings or Settings()
    if shard is not None and not 1 <= shard[0] <= shard[1]:
        raise ValueError(
            f"--shard is {shard[0]}/{shard[1]}; it goes from 1/{shard[1]} to {shard[1]}/{shard[1]}"
        )
    kept = CachedWriter(writer, root / CACHE if cache is None else cache)
    reports = []
    for dataset, spec in datasets.items():
        prompts = prompts_of(dataset, spec, settings)
        work = Work(root, dataset, spec, tasks[spec.task], settings, prompts, writer.settings())
        if restart:
            work.restart()
        known = read_journals(work.state, work.header)
        part = work.part(shard)[:limit]
        open_rows = [sample for sample in part if work.key_of(sample) not in known]
        if merge and open_rows:
            first = open_rows[0]
            raise ValueError(
                f"{work.state}: {len(open_rows):,} of {len(part):,} rows have no verdict yet, first "
                f"{first.id} (row "
                f"{first.row}). Copy the files {journal_name((1, 2))} and so on of all machines into this "
                f"folder, "
                "or finish the shards"
            )
        report = Report(dataset, rows=len(part), known=len(part) - len(open_rows))
        before = kept.asked
        journal = Journal(work.state, work.header, shard)
        journal.mend()
        for done, verdict in enumerate(_decided(work, open_rows, kept), report.known + 1):
            journal.append([verdict])
            known[verdict.key] = verdict
            if progress is not None:
                progress(f"{dataset}: texts", done, len(part))
        report.asked = kept.asked - before
        _count(report, [known[work.key_of(sample)] for sample in part])
        if shard is None and limit is None:
            work.write(known)
            report.manifest = work.manifest
        reports.append(report)
    return reports


def prompts_of(dataset: str, spec: DatasetSpec, settings: Settings) -> Prompts:
    """Return the prompts of a dataset.

    Raises:
        ValueError: If there are no examples for it.
    """
    prompts = read_prompts(spec.task, dataset, settings.examples)
    if prompts is None:
        raise ValueError(
            f"data.datasets.{dataset}: there are no examples for the task {spec.task!r}. A caption is its "
            f"own "
            f"answer and needs no reasoning. For a task of your own, write {spec.task}.yaml in the folder "
            f"that "
            "--examples names"
        )
    return prompts


def _decided(work: Work, samples: Sequence[Sample], writer: Writer) -> Iterator[Verdict]:
    """Yield the verdicts in the order of the rows, several rows being asked about at the same time."""
    waiting: deque[Future[Verdict]] = deque()
    coming = iter(samples)
    done = 0
    pool = ThreadPoolExecutor(writer.parallel)
    try:
        for sample in islice(coming, 4 * writer.parallel):
            waiting.append(pool.submit(work.decide, sample, writer))
        while waiting:
            yield waiting.popleft().result()
            done += 1
            for sample in islice(coming, 1):
                waiting.append(pool.submit(work.decide, sample, writer))
    except WriterError as err:
        raise WriterError(
            f"{err}\n{done:,} of {len(samples):,} open rows of {work.dataset} have a verdict in "
            f"{work.state}; start the same command again to continue"
        ) from err
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _count(report: Report, verdicts: Sequence[Verdict]) -> None:
    for verdict in verdicts:
        report.prompt_tokens += verdict.prompt_tokens
        report.completion_tokens += verdict.completion_tokens
        if verdict.text is None:
            report.discarded[verdict.kind] += 1
        else:
            report.kept[verdict.length] += 1
        for one in verdict.reasons:
            report.rejected[one.split(":")[0]] += 1


def _easy_rows(
    settings: Settings, samples: Sequence[Sample], spec: DatasetSpec, task: Task[Any]
) -> frozenset[str]:
    """Return the ids of the rows that a cheap model answered rightly and surely.

    Raises:
        ValueError: If the prediction file lacks a row: whether it is easy is not known.
    """
    assert settings.answers is not None
    path, dataset = settings.answers, samples[0].dataset if samples else ""
    path = path / f"{dataset}.jsonl" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"--answers: there is no {path}; it holds the direct answers of {dataset}")
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


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _replace(path: Path, content: str) -> None:
    replace_file(path, lambda part: part.write_text(content, encoding="utf-8"))


@dataclass
class Estimate:
    """What a call would cost; every row once, and with every try.

    Args:
        dataset: Key of the dataset.
        requests: Rows that need a request.
        most_requests: Requests if every row needs every try.
        prompt_tokens: Tokens read by ``requests``.
        completion_tokens: Tokens written by ``requests``.
        seconds: Time of ``requests``.
        price: Money for ``requests``, in the unit of the prices.
    """

    dataset: str
    requests: int
    most_requests: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    price: float


@dataclass(frozen=True)
class Costs:
    """What one request is taken to cost.

    Args:
        image_tokens: Tokens of one frame or picture.
        audio_tokens: Tokens of one second of sound.
        words: Words of one text, by length.
        request_s: Seconds of one request.
        price_in: Money for a million tokens that are read.
        price_out: Money for a million tokens that are written.
    """

    image_tokens: float = 258.0
    audio_tokens: float = 32.0
    words: Mapping[str, float] = field(default_factory=lambda: {"short": 25.0, "full": 80.0})
    request_s: float = 4.0
    price_in: float = 0.0
    price_out: float = 0.0


TOKENS_A_WORD = 1.5
CHARACTERS_A_TOKEN = 4.0
_LOOKED_AT = 5


def estimate(
    root: Path,
    tasks: Mapping[str, Task[Any]],
    datasets: Mapping[str, DatasetSpec],
    writer: Mapping[str, Any],
    settings: Settings,
    costs: Costs,
    *,
    parallel: int,
    shard: Shard | None = None,
    limit: int | None = None,
) -> list[Estimate]:
    """Count requests, and estimate tokens, time and money from a few rows of each dataset; writes nothing.

    Args:
        root: Data root.
        tasks: The tasks, by key.
        datasets: The datasets' rows, by key.
        writer: Settings of the writer that would write.
        settings: How texts would be asked for.
        costs: What one request is taken to cost.
        parallel: Requests at the same time.
        shard: As for :func:`reason`.
        limit: As for :func:`reason`.
    """
    found = []
    for dataset, spec in datasets.items():
        prompts = prompts_of(dataset, spec, settings)
        work = Work(root, dataset, spec, tasks[spec.task], settings, prompts, writer)
        known = read_journals(work.state, work.header)
        rows = [s for s in work.part(shard)[:limit] if work.key_of(s) not in known]
        rows = [sample for sample in rows if work.length_of(sample) != "direct"]
        step = max(1, math.ceil(len(rows) / _LOOKED_AT))
        looked = [_tokens(work, sample, costs) for sample in rows[::step]]
        prompt = len(rows) * sum(tokens[0] for tokens in looked) / max(len(looked), 1)
        written = len(rows) * sum(tokens[1] for tokens in looked) / max(len(looked), 1)
        found.append(
            Estimate(
                dataset,
                len(rows),
                len(rows) * settings.tries,
                round(prompt),
                round(written),
                math.ceil(len(rows) / parallel) * costs.request_s,
                (prompt * costs.price_in + written * costs.price_out) / 1e6,
            )
        )
    return found


def _tokens(work: Work, sample: Sample, costs: Costs) -> tuple[float, float]:
    length = work.length_of(sample)
    assert length != "direct"
    question = work.question(sample)
    messages = work.prompts.messages(work.content(sample), work.told(question), length, None)
    tokens = len(messages[0]["content"]) / CHARACTERS_A_TOKEN
    for part in messages[1]["content"]:
        if part["type"] == "text":
            tokens += len(part["text"]) / CHARACTERS_A_TOKEN
        elif part["type"] == "input_audio":
            # 16 kHz, 16 bits, in base64
            tokens += len(part["input_audio"]["data"]) * 3 / 4 / 32_000 * costs.audio_tokens
        else:
            tokens += costs.image_tokens
    return tokens, costs.words[length] * TOKENS_A_WORD + len(question.answer) / CHARACTERS_A_TOKEN
