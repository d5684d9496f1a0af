"""Checks a whole data root before a run, and collects all problems."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from crab_lightning.data.check.files import FileFacts, FileJob, FileKind, Findings
from crab_lightning.data.check.report import CheckReport, FileTotals, Problem
from crab_lightning.data.check.rows import (
    check_annotations,
    check_classes,
    check_closed_set,
    readable_classes,
)
from crab_lightning.data.manifests.column_types import ManifestError
from crab_lightning.data.manifests.files import (
    UNREAD,
    ExistingFiles,
    has_test,
    manifest_path,
    near_name,
    unread_files,
)
from crab_lightning.data.manifests.layout import layout_of
from crab_lightning.data.manifests.own import no_sound_hint
from crab_lightning.data.manifests.reader import survey_manifest
from crab_lightning.data.manifests.rows import check_files
from crab_lightning.data.manifests.split import clips_of
from crab_lightning.data.sampling.lengths import guess_tokens
from crab_lightning.spelling import counted
from crab_lightning.structures import DatasetSpec, Sample
from crab_lightning.tasks.base import Task, describe

__all__ = ["CheckReport", "Problem", "check_root"]

Progress = Callable[[str, int, int], None]
"""Called with the name of a step, the number of finished parts and the number of all parts."""

# The lengths of sound and pictures of one clip may differ by this much.
_DRIFT_S, _DRIFT_SHARE = 1.0, 0.2
# Number of missing files for which a similar name is searched.
_HINTS = 100
_Manifest = tuple[str, Literal["train", "test"]]


def check_root(
    root: Path,
    tasks: Mapping[str, Task[Any]],
    datasets: Mapping[str, DatasetSpec],
    *,
    decode: bool = False,
    workers: int = 0,
    findings: Path | None = None,
    timeout_s: float = 120.0,
    progress: Progress | None = None,
) -> CheckReport:
    """Check manifests, annotations and media, and find clips that are in training and in test.

    Args:
        root: Folder that contains ``AVUIE_2/``.
        tasks: The tasks, by key.
        datasets: The datasets to check, by key.
        decode: Decode the files as a run does, instead of reading only their headers.
        workers: Number of processes that check files. A file that crashes or blocks a process is reported.
            With 0, this process checks the files, without this protection.
        findings: File for the findings about media, so that an interrupted check can be continued, and a
            later check reads only changed files.
        timeout_s: Longest time for one file in seconds.
        progress: Called after every part of a step; see ``Progress``.

    Returns:
        The problems and the counts of each manifest.
    """
    check = _Check(root, tasks, datasets, decode, progress or (lambda *_: None))
    check.read_manifests()
    check.look_at_files(Findings(findings), workers, timeout_s)
    check.find_leaks(Findings(findings), workers, timeout_s)
    order: dict[tuple[str, str], int] = {manifest: place for place, manifest in enumerate(check.totals)}
    found = dict.fromkeys(check.problems)  # a video whose own sound is used is named twice
    problems = sorted(found, key=lambda p: (order[p.dataset, p.split], p.row))
    return CheckReport(root, decode, problems, list(check.totals.values()))


class _Check:
    def __init__(
        self,
        root: Path,
        tasks: Mapping[str, Task[Any]],
        datasets: Mapping[str, DatasetSpec],
        decode: bool,
        progress: Progress,
    ) -> None:
        self.root, self.tasks, self.datasets = root, tasks, dict(datasets)
        self.decode, self.progress = decode, progress
        self.problems: list[Problem] = []
        self.totals: dict[_Manifest, FileTotals] = {}
        self.samples: dict[_Manifest, list[Sample]] = {}
        self.facts: dict[Path, FileFacts] = {}
        self.foregrounds: dict[_Manifest, list[float]] = defaultdict(list)

    def add(self, level: Any, kind: str, manifest: _Manifest, message: str, row: int = -1) -> None:
        self.problems.append(Problem(level, kind, *manifest, message, row))

    # Annotations

    def read_manifests(self) -> None:
        for done, (name, spec) in enumerate(self.datasets.items()):
            self.progress("manifests", done, len(self.datasets))
            tested = has_test(self.root, name, spec)
            splits: list[Literal["train", "test"]] = ["train", "test"] if tested else ["train"]
            for split in splits:
                self.totals[name, split] = FileTotals(name, split)
                self.samples[name, split] = self._survey(name, spec, split)
            for path in unread_files(self.root, name, spec):
                self.add("warning", "manifest", (name, "train"), f"{path}: {UNREAD}")
            self._check_dataset(name, spec)
        self.progress("manifests", len(self.datasets), len(self.datasets))

    def _survey(self, name: str, spec: DatasetSpec, split: Literal["train", "test"]) -> list[Sample]:
        try:
            samples, errors, repeats = survey_manifest(self.root, name, spec, split, self.tasks[spec.task])
        except ManifestError as err:
            self.add("error", "manifest", (name, split), str(err))
            return []
        level = "warning" if len({error.row for error in errors}) <= spec.allow_refused else "error"
        for error in errors:
            self.add(level, "row", (name, split), str(error), error.row)
        for repeat in repeats:
            level = "warning" if repeat.agrees or not repeat.same_id else "error"
            self.add(level, "repeated", (name, split), repeat.message, repeat.row)
        if not samples and not errors:
            path = manifest_path(self.root, name, spec, split)
            self.add("error", "manifest", (name, split), f"{path} contains no rows. Write rows into it")
        return samples

    def _check_dataset(self, name: str, spec: DatasetSpec) -> None:
        task = self.tasks[spec.task]
        train, test = self.samples[name, "train"], self.samples.get((name, "test"), [])
        names, holders = readable_classes(task, [*train, *test])
        if spec.classes is None:
            spec = self.datasets[name] = replace(spec, classes=names)
        self.problems += check_classes(name, holders)
        sides: list[tuple[_Manifest, list[Sample]]] = [((name, "train"), train), ((name, "test"), test)]
        for manifest, samples in sides:
            # Without a readable annotation there are no class names with which the others can be checked.
            if names or names is None or spec.classes:
                self.problems += check_annotations(task, samples, spec)
            else:
                self.problems += check_closed_set(task, samples)
            if not samples:
                continue
            totals = self.totals[manifest]
            totals.rows = len(samples)
            for sample in samples:
                written = len(sample.target or "")
                try:
                    prompt = check_files(task, sample)
                except ValueError as err:
                    told = str(err).removeprefix(f"{describe(sample)}: ").rstrip(".")
                    text = f"row {sample.row}: {told}. Correct the row, or the dataset's entry."
                    self.add("error", "row", manifest, text, sample.row)
                    continue
                totals.tokens.append(guess_tokens(sample, spec, spec.audio, prompt, written))
                if sample.target is not None:
                    totals.target_characters.append(written)

    # Media

    def look_at_files(self, findings: Findings, workers: int, timeout_s: float) -> None:
        existing = ExistingFiles()
        users: dict[FileJob, list[tuple[_Manifest, Sample]]] = defaultdict(list)
        for manifest, samples in self.samples.items():
            spec = self.datasets[manifest[0]]
            named: set[Path] = set()
            for sample in samples:
                for path, kind in _media(sample):
                    named.add(path)
                    if path not in existing:
                        text = f"row {sample.row}: {path} is not a file. Add it, or correct the row."
                        if len(self.problems) < _HINTS:  # each lists a folder
                            text += near_name(path)
                        self.add("error", "missing", manifest, text, sample.row)
                        continue
                    frames = (spec.frames if kind == "video" else 1) if self.decode else 0
                    users[FileJob(path, kind, frames)].append((manifest, sample))
                if manifest[1] == "test":
                    self._mask(manifest, sample, existing, users)
            self.totals[manifest].files = len(named)
        for done, (job, facts) in enumerate(findings.inspect(users, workers, timeout_s), start=1):
            self.progress("files", done, len(users))
            self.facts[job.path] = facts
            self._file_problems(job, facts, users[job])
        for manifest, shares in self.foregrounds.items():
            if not any(shares):
                text = (
                    f"no pixel of {counted(len(shares), 'mask')} belongs to the object. State its colours "
                    "under `mask` of the dataset's entry"
                )
                self.add("warning", "mask", manifest, text)
        for manifest, samples in self.samples.items():
            lengths_s: dict[str, float] = {}
            for sample in samples:
                if (length_s := self._check_durations(manifest, sample)) is not None:
                    lengths_s[sample.id] = length_s
            spec = self.datasets[manifest[0]]
            for caveat in self.tasks[spec.task].caveats(samples, spec, lengths_s):
                self.add("warning", "annotation", manifest, caveat)

    def _mask(
        self,
        manifest: _Manifest,
        sample: Sample,
        existing: ExistingFiles,
        users: dict[FileJob, list[tuple[_Manifest, Sample]]],
    ) -> None:
        """Add the mask of a test row to the files. Only test rows are compared with masks."""
        candidates = sample.fields.get("mask_candidates")
        if candidates is None:
            spec = self.datasets[manifest[0]]
            try:
                with suppress(ValueError):  # reported for its row
                    self.tasks[spec.task].check([sample], spec)
            except FileNotFoundError as err:
                self.add("error", "mask", manifest, f"row {sample.row}: {err}", sample.row)
            return
        mask = next((path for path in candidates if path in existing), None)
        if mask is not None:
            colours = self.datasets[manifest[0]].mask
            users[FileJob(mask, "mask", 1, colours=colours)].append((manifest, sample))
            return
        looked = " nor ".join(map(str, candidates)) or "a place that follows from its image"
        text = f"row {sample.row}: its mask is not at {looked}. Add it, or the row cannot be scored"
        self.add("error", "mask", manifest, text, sample.row)

    def _file_problems(
        self, job: FileJob, facts: FileFacts, users: Sequence[tuple[_Manifest, Sample]]
    ) -> None:
        if facts.error is not None:
            kind = "mask" if job.kind == "mask" else "media"
            for manifest, sample in users:
                hint = no_sound_hint(sample, job.path) if facts.kind == "NoAudioTrack" else ""
                self.add("error", kind, manifest, f"row {sample.row}: {facts.error}{hint}", sample.row)
        for remark in facts.remarks:
            for manifest, sample in users:
                kind = {"mask": "mask", "audio": "sound"}.get(job.kind, "media")
                self.add("warning", kind, manifest, f"row {sample.row}: {remark}", sample.row)
        for manifest in dict.fromkeys(manifest for manifest, _ in users):
            if facts.foreground is not None:
                self.foregrounds[manifest].append(facts.foreground)
            if job.kind == "video" and facts.duration_s is not None:
                self.totals[manifest].seconds.append(facts.duration_s)

    def _check_durations(self, manifest: _Manifest, sample: Sample) -> float | None:
        """Compare the lengths of the files and events of a sample; return the length of its clip if known."""

        def seconds(paths: Sequence[Path]) -> float | None:
            known = [self.facts[p].duration_s for p in paths if p in self.facts]
            return known[0] if len(known) == len(paths) == 1 else None

        shown, heard = seconds(sample.videos), seconds(sample.audios)
        if shown is not None and heard is not None:
            drift = abs(shown - heard)
            if drift > _DRIFT_S and drift > _DRIFT_SHARE * max(shown, heard):
                text = f"row {sample.row}: {sample.videos[0]} lasts {shown:.1f} s, its sound {heard:.1f} s"
                self.add("warning", "duration", manifest, text, sample.row)
        length_s = shown if shown is not None else heard
        if length_s is None:
            return None
        # Only rows that a task completes have `events` of a known form; a column map may name anything so.
        completed = layout_of(self.datasets[manifest[0]], manifest[0]).completes
        events = sample.fields.get("events") if completed else None
        ends = [sample.fields.get("end_s"), *(event["end_s"] for event in events or ())]
        for end_s in ends:
            if end_s is not None and end_s > length_s + _DRIFT_S:
                text = f"row {sample.row}: its event ends at {end_s} s, the clip at {length_s:.1f} s"
                self.add("warning", "duration", manifest, text, sample.row)
        return length_s

    # Leakage

    def find_leaks(self, findings: Findings, workers: int, timeout_s: float) -> None:
        learnt: dict[str, dict[str, Sample]] = defaultdict(dict)
        for (name, split), samples in self.samples.items():
            if split == "train":
                for sample in samples:
                    for clip in clips_of(sample):
                        learnt[clip].setdefault(name, sample)
        for manifest, samples in self.samples.items():
            if manifest[1] != "test":
                continue
            asked: set[str] = set()
            shared: dict[str, dict[str, tuple[Sample, Sample]]] = defaultdict(dict)
            for sample in samples:
                for clip in clips_of(sample):
                    asked.add(clip)
                    for name, other in learnt.get(clip, {}).items():
                        shared[name].setdefault(clip, (sample, other))
            for name, clips in shared.items():
                shown = ", ".join(repr(clip) for clip in list(clips)[:3])
                more = f" and {len(clips) - 3:,} more" if len(clips) > 3 else ""
                text = (
                    f"{len(clips):,} of {len(asked):,} recordings of its test rows are also in training rows "
                    f"of {name}: {shown}{more}"
                )
                self.add("warning", "leak_clip", manifest, text)
                for clip, (sample, other) in clips.items():
                    self._leak("leak_clip", manifest, sample, other, f"recording {clip!r}")
        self._find_copies(findings, workers, timeout_s)

    def _find_copies(self, findings: Findings, workers: int, timeout_s: float) -> None:
        """Find equal files under different names. Only files of equal size are read."""
        sides: dict[tuple[str, int], dict[str, dict[Path, tuple[_Manifest, Sample]]]] = {}
        for manifest, samples in self.samples.items():
            for sample in samples:
                for path, kind in _media(sample):
                    if path in self.facts and self.facts[path].error is None:
                        places = sides.setdefault((kind, path.stat().st_size), {"train": {}, "test": {}})
                        places[manifest[1]].setdefault(path, (manifest, sample))
        both = [places for places in sides.values() if places["train"] and places["test"]]
        jobs = {
            FileJob(p, "image", content=True) for places in both for side in places.values() for p in side
        }
        contents: dict[Path, str | None] = {}
        for done, (job, facts) in enumerate(
            findings.inspect(sorted(jobs, key=lambda job: job.path), workers, timeout_s), start=1
        ):
            self.progress("equal files", done, len(jobs))
            contents[job.path] = facts.content
        for places in both:
            learnt: dict[str, tuple[Path, Sample]] = {}
            for path, (_, sample) in places["train"].items():
                if (content := contents[path]) is not None:
                    learnt.setdefault(content, (path, sample))
            for path, (manifest, sample) in places["test"].items():
                found = learnt.get(contents[path] or "")
                if found is None or set(clips_of(sample)) & set(clips_of(found[1])):
                    continue  # the same recording was reported by its name
                sort = "leak_sound" if path in sample.audios else "leak_content"
                self._leak(sort, manifest, sample, found[1], f"{path}, a copy of {found[0]},")

    def _leak(self, kind: str, manifest: _Manifest, sample: Sample, other: Sample, what: str) -> None:
        # This is only a warning: published datasets share recordings (AVE, UnAV-100 and LLP all come from
        # AudioSet), and the user has no other files. Equal sound may also be silence or a short melody.
        text = (
            f"row {sample.row}: {what} is also used for training (row {other.row} of {other.dataset}'s "
            "training rows). Its score says nothing about new clips. Keep one of the two rows"
        )
        self.add("warning", kind, manifest, text, sample.row)


def _media(sample: Sample) -> Iterator[tuple[Path, FileKind]]:
    for path in sample.videos:
        yield path, "video"
    for path in sample.images:
        yield path, "image"
    for path in sample.audios:
        yield path, "audio"
