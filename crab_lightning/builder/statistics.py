"""Statistics of a data root, compared with those of AV-UIE v2 in the paper (Table 1, Fig. 3 b)."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from crab_lightning.builder.datasets import IMPORTERS
from crab_lightning.data.manifests.split import clips_of
from crab_lightning.structures import DatasetSpec, Sample
from crab_lightning.tasks.base import Task
from crab_lightning.tasks.event_text import read_events, read_modal_events

PAPER_TASKS: dict[str, tuple[str, ...]] = {
    "Action recognition": ("ks", "ucf"),
    "Emotion recognition": ("meld", "mafw", "dfew", "mer24", "cremad"),
    "Cross-modal matching": ("vgg_cm",),
    "Event localization and parsing": ("unav", "ave", "avvp"),
    "Localization": ("arig", "avs", "ref_avs"),
    "Captioning": ("avcap",),
    "Question answering": ("avqa", "avqa_thu"),
}
"""The importers of the source datasets of each of the seven tasks, in the order of Table 1."""

OWN = "Not in the paper"
REASONED = 5
"""A training text contains reasoning if it has at least this number of words more than the bare answer."""

_CLIP_S = 10


@dataclass
class Lengths:
    """The distribution of some lengths, in words, seconds or events.

    Args:
        count: Number of values.
        mean: Mean of the values.
        least: Smallest value.
        median: Median of the values.
        p95: 95th percentile of the values.
        most: Largest value.
    """

    count: int
    mean: float
    least: float
    median: float
    p95: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Lengths | None:
        """Return the distribution of some values; ``None`` without values."""
        if not values:
            return None
        sizes = np.asarray(values, float)
        least, median, p95, most = np.quantile(sizes, [0, 0.5, 0.95, 1])
        return cls(len(values), float(sizes.mean()), float(least), float(median), float(p95), float(most))


@dataclass
class DatasetStatistics:
    """Statistics of one dataset in ``data.datasets``.

    Args:
        name: Key of the dataset.
        layout: Column layout of the dataset, which shows the source dataset.
        train: Number of training rows that can be read.
        test: Number of test rows that can be read; ``None`` without a test manifest.
        unreadable: Number of rows that cannot be read; ``data check`` names these rows.
        text_words: Numbers of words of the training texts.
        answer_words: Numbers of words of the bare answers.
        reasoning_words: Numbers of words of the training texts without the bare answers.
        reasoned: Number of training rows whose text contains reasoning.
        classes: Number of training rows (or events) of each class, the most frequent class first.
        balance: Entropy of the class shares divided by the entropy of equal shares, from 0 to 1; ``None``
            with fewer than two classes.
        events_per_clip: Numbers of annotated events of a training clip.
        event_s: Lengths of the annotated events, in seconds (UnAV-100: in tenths of the clip).
        event_lengths: Number of events by length, rounded to whole seconds (UnAV-100: to tenths of the clip).
        media: Number of training rows by the media of a row, for example ``1 video, 1 sound``.
        files: Number of different media files of the training rows by kind.
        recordings: Number of different recordings in training.
        repeated: Number of training rows that ask the same question about the same files as an earlier row.
        contradicting: Number of repeated rows whose answer differs from that of the earlier row.
        leaked: Number of recordings that are in training and in test.
    """

    name: str
    layout: str
    train: int = 0
    test: int | None = None
    unreadable: int = 0
    text_words: Lengths | None = None
    answer_words: Lengths | None = None
    reasoning_words: Lengths | None = None
    reasoned: int = 0
    classes: dict[str, int] = field(default_factory=dict)
    balance: float | None = None
    events_per_clip: Lengths | None = None
    event_s: Lengths | None = None
    event_lengths: dict[int, int] = field(default_factory=dict)
    media: dict[str, int] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)
    recordings: int = 0
    repeated: int = 0
    contradicting: int = 0
    leaked: int = 0


@dataclass
class Composition:
    """One line of Table 1.

    Args:
        task: Task of the paper.
        title: Name of the source dataset.
        train: Number of training rows in the data root.
        test: Number of test rows in the data root.
        paper_k: Number of training samples in the paper, in thousands; ``None`` for a dataset that the paper
            does not use.
    """

    task: str
    title: str
    train: int
    test: int
    paper_k: float | None


@dataclass
class Statistics:
    """The results of ``build stats``.

    Args:
        root: Data root.
        datasets: Statistics of every dataset that has a training manifest.
        composition: The lines of Table 1.
        absent: Names of the source datasets of the paper that are not in the data root.
    """

    root: str
    datasets: list[DatasetStatistics]
    composition: list[Composition]
    absent: list[str]

    @property
    def train(self) -> int:
        """Number of training rows of all datasets."""
        return sum(line.train for line in self.composition)


def read_statistics(
    root: Path,
    tasks: Mapping[str, Task[Any]],
    datasets: Mapping[str, DatasetSpec],
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Statistics:
    """Compute the statistics of a data root from its manifests.

    Args:
        root: Data root.
        tasks: The tasks, by key.
        datasets: The datasets, by key; datasets without ``train.json`` are left out.
        progress: Function that is called with the step, the number of datasets that are done, and the number
            of datasets.

    Raises:
        FileNotFoundError: If there is no training manifest.
        ManifestError: If a manifest cannot be read at all.
    """
    from crab_lightning.data.manifests.files import ANNOTATIONS

    base = root / ANNOTATIONS
    here = {n: s for n, s in datasets.items() if (base / (s.folder or s.layout) / "train.json").is_file()}
    if not here:
        raise FileNotFoundError(
            f"--root {root}: there is no {ANNOTATIONS}/<dataset>/train.json of {', '.join(datasets)}. "
            f"Give the folder that contains {ANNOTATIONS}/"
        )
    found = []
    for number, (name, spec) in enumerate(here.items(), 1):
        found.append(_statistics_of(root, name, spec, tasks[spec.task]))
        progress("manifests", number, len(here))
    lines = composition(found)
    known = {line.title for line in lines}
    absent = [one.title for one in IMPORTERS.values() if one.title not in known]
    return Statistics(str(root), found, lines, absent)


def composition(datasets: Iterable[DatasetStatistics]) -> list[Composition]:
    """Return the lines of Table 1 for some datasets in its order, then a line for each dataset not in it."""
    owners = {task: name for name, one in IMPORTERS.items() for task in one.tasks}
    groups: dict[str, list[DatasetStatistics]] = defaultdict(list)
    for one in datasets:
        groups[owners.get(one.layout, "") if one.name == one.layout else ""].append(one)
    lines = []
    for task, names in PAPER_TASKS.items():
        for name in names:
            if mine := groups.get(name):
                train, test = sum(d.train for d in mine), sum(d.test or 0 for d in mine)
                lines.append(Composition(task, IMPORTERS[name].title, train, test, IMPORTERS[name].paper_k))
    lines += [Composition(OWN, one.name, one.train, one.test or 0, None) for one in groups.get("", ())]
    return lines


def _statistics_of(root: Path, name: str, spec: DatasetSpec, task: Task[Any]) -> DatasetStatistics:
    from crab_lightning.data.manifests.reader import has_test, survey_manifest

    samples, errors, *_ = survey_manifest(root, name, spec, "train", task)
    made = DatasetStatistics(name, spec.layout, train=len(samples), unreadable=len({e.row for e in errors}))
    _texts(made, samples, task)
    _classes(made, samples)
    _media(made, samples)
    _repeats(made, samples, task)
    # The test file is counted if it exists, whatever the entry of the dataset says about it.
    if has_test(root, name, replace(spec, test=None)):
        tested, errors, *_ = survey_manifest(root, name, spec, "test", task)
        made.test, made.unreadable = len(tested), made.unreadable + len({e.row for e in errors})
        both = {c for s in samples for c in clips_of(s)} & {c for s in tested for c in clips_of(s)}
        made.leaked = len(both)
    return made


def _words(text: str) -> int:
    return len(text.split())


def _direct(sample: Sample, task: Task[Any]) -> str | None:
    """Return the bare answer; ``None`` if the text of the row contains no answer."""
    try:
        return task.direct(sample)
    except ValueError:
        return None


def _texts(made: DatasetStatistics, samples: Sequence[Sample], task: Task[Any]) -> None:
    texts, answers, more = [], [], []
    for sample in samples:
        words, direct = _words(sample.target or ""), _direct(sample, task)
        texts.append(words)
        if direct is not None:
            answers.append(_words(direct))
            more.append(max(0, words - answers[-1]))
    made.text_words, made.answer_words = Lengths.of(texts), Lengths.of(answers)
    made.reasoning_words = Lengths.of(more)
    made.reasoned = sum(count >= REASONED for count in more)


def _classes(made: DatasetStatistics, samples: Sequence[Sample]) -> None:
    counts: Counter[str] = Counter()
    events: list[int] = []
    lengths: list[float] = []
    for sample in samples:
        names, spans = _labels(sample)
        counts.update(names)
        if spans is not None:
            events.append(len(spans))
            lengths += [end - start for start, end in spans]
    made.classes = dict(counts.most_common())
    total = counts.total()
    if len(counts) > 1:
        entropy = -sum(n / total * math.log(n / total) for n in counts.values())
        made.balance = entropy / math.log(len(counts))
    made.events_per_clip, made.event_s = Lengths.of(events), Lengths.of(lengths)
    made.event_lengths = dict(sorted(Counter(round(length) for length in lengths).items()))


def _labels(sample: Sample) -> tuple[list[str], list[tuple[float, float]] | None]:
    """Return the classes of a row, and the start and end of its events; ``None`` for a row without events."""
    fields = sample.fields
    if "class_name" in fields:
        return [str(fields["class_name"])], None
    if "start_s" in fields:
        return [str(fields["event"])], [(fields["start_s"], fields["end_s"])]
    if "annotation" in fields:
        text = str(fields["annotation"])
        modal = read_modal_events(text, _CLIP_S)
        spans = [event for _, event in modal] or read_events(text, _CLIP_S)
        told = [f"{sense}: {event.name}" for sense, event in modal] or [event.name for event in spans]
        return told, [(event.start_s, event.end_s) for event in spans]
    if "match" in fields:
        return [("first", "second")[int(fields["match"]) - 1]], None
    if "options" in fields:
        answer, options = fields["answer"], fields["options"]
        index = (
            answer
            if isinstance(answer, int)
            else next((i for i, o in enumerate(options) if o == answer), None)
        )
        return [f"option {index + 1}" if index is not None else "an answer that is not an option"], None
    if "answer" in fields:
        return [str(fields["answer"])], None
    if "expression" in fields:
        return ["absent" if "<answer>false</answer>" in (sample.target or "") else "present"], None
    return ([str(fields["object"])] if "object" in fields else []), None


def _media(made: DatasetStatistics, samples: Sequence[Sample]) -> None:
    kinds: Counter[str] = Counter()
    files: dict[str, set[Path]] = {"video": set(), "image": set(), "sound": set()}
    for sample in samples:
        sets = {"video": sample.videos, "image": sample.images, "sound": sample.audios}
        told = [
            f"{len(paths)} {kind}{'s' if len(paths) > 1 else ''}" for kind, paths in sets.items() if paths
        ]
        kinds[", ".join(told)] += 1
        for kind, paths in sets.items():
            files[kind].update(paths)
    made.media = dict(kinds.most_common())
    made.files = {kind: len(paths) for kind, paths in files.items() if paths}
    made.recordings = len({clip for sample in samples for clip in clips_of(sample)})


def _repeats(made: DatasetStatistics, samples: Sequence[Sample], task: Task[Any]) -> None:
    seen: dict[Any, str | None] = {}
    for sample in samples:
        asked = tuple(part if isinstance(part, str) else part.value for part in task.prompt(sample))
        key = (sample.videos, sample.images, sample.audios, sample.unit, asked)
        answer = _direct(sample, task)
        if key in seen:
            made.repeated += 1
            made.contradicting += seen[key] != answer
        else:
            seen[key] = answer
