"""One question about one clip: chooses the dataset, makes the sample and asks the model."""

from __future__ import annotations

import re
import tempfile
import threading
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crab_lightning.data import AVDataModule
from crab_lightning.data.manifests.layout import Needs, layout_of
from crab_lightning.inference.question_files import (
    SILENT_AND_AUDIO,
    AskError,
    check_clip,
    picture_of,
    write_silence,
)
from crab_lightning.spelling import did_you_mean
from crab_lightning.structures import DatasetSpec, Prediction, Sample


@dataclass(frozen=True)
class Question:
    """A question of a user about their own files.

    Args:
        task: Key of a task or dataset of the run, the start of a task's key, or the initials of a task.
        videos: Video files.
        audios: Sound files. If empty, the sound of the videos is used.
        image: Picture for an image task. If ``None``, a frame of the video is used.
        texts: ``question``, ``options`` and ``expression``, as far as they were given.
        dataset: Dataset whose settings are used. If ``None``, the first that fits is used.
        at_s: Second of the clip that an image task looks at. If ``None``, the middle of the clip.
        silent: Replace all sound with silence.
        untaught: Also allow tasks and datasets on which the run was not trained.
    """

    task: str
    videos: Sequence[Path] = ()
    audios: Sequence[Path] = ()
    image: Path | None = None
    texts: Mapping[str, Any] = field(default_factory=dict)
    dataset: str | None = None
    at_s: float | None = None
    silent: bool = False
    untaught: bool = False

    def sample(self, data: AVDataModule, scratch: Path) -> Sample:
        """Return the sample for this question.

        Args:
            data: Tasks and datasets of the run.
            scratch: Folder for files that are made for the question. It must exist as long as the sample.

        Raises:
            AskError: If this run cannot be asked this question.
            FileNotFoundError: If a file does not exist.
            MediaError: If a file cannot be read.
        """
        for path in (*self.videos, *self.audios, *([self.image] if self.image else [])):
            if not path.is_file():
                if online := re.match(r"(\w+):/+(.+)", str(path)):  # a path has lost a slash
                    address = f"{online[1]}://{online[2]}"
                    raise FileNotFoundError(f"{address} is an address; download it first, and give the file")
                raise FileNotFoundError(f"{path} is not a file")
        name = choose_dataset(
            data, self.task, self.dataset, len(self.videos), len(self.audios), self.texts,
            untaught=self.untaught,
        )  # fmt: skip
        if self.at_s is not None and self.image is None:
            check_moment(name, data.datasets[name])
        sample = make_sample(
            name, data.datasets[name], self.videos, self.image, self.audios, self.at_s, self.texts, scratch,
            silent=self.silent,
        )  # fmt: skip
        try:
            data.tasks[sample.task].prompt(sample)
        except KeyError as err:  # rows of own data differ, so the layout does not know the needed texts
            raise AskError(f"task {sample.task} ({name}) needs `{err.args[0]}`") from None
        return sample

    def check(self, data: AVDataModule) -> None:
        """Make the sample as :meth:`sample` does, with the same errors, and discard it."""
        with tempfile.TemporaryDirectory() as scratch:
            self.sample(data, Path(scratch))


def choose_dataset(
    data: AVDataModule,
    task: str,
    dataset: str | None,
    videos: int,
    audios: int,
    texts: Mapping[str, Any],
    *,
    untaught: bool = False,
) -> str:
    """Return the dataset that fits best to the files and texts of a question.

    Args:
        data: Tasks and datasets of the run.
        task: Key of a task or dataset, the start of a task's key, or the initials of a task.
        dataset: Key of a dataset, if the user named one.
        videos: Number of given videos.
        audios: Number of given sound files.
        texts: ``question``, ``options`` and ``expression``, as far as they were given.
        untaught: Allow a dataset of the run's config on which the run was not trained.

    Raises:
        AskError: If the run has no such task or dataset, or was not trained on it. The message lists what the
            run has.
    """
    if dataset is None and task in data.datasets:
        dataset = task
    if dataset is not None:
        if dataset not in data.datasets:
            raise AskError(f"`dataset` {dataset}: this run has {', '.join(data.datasets)}")
        if not untaught and dataset not in data.taught:
            raise _untaught(data, f"the dataset {dataset}")
        if task != dataset and _task_key(task, data) != (its := data.datasets[dataset].task):
            raise AskError(f"`task` {task}: the task of the dataset {dataset} is {its}")
        return dataset
    key = _task_key(task, data)
    rows = [name for name, spec in data.datasets.items() if spec.task == key]
    if not rows:
        raise AskError(f"`task` {task}: no dataset of this run has the task {key}")
    if not untaught:
        rows = [name for name in rows if name in data.taught]
        if not rows:
            raise _untaught(data, f"the task {key}")

    def misfit(name: str) -> tuple[bool, bool]:
        if (needed := needs(data.datasets[name])) is None:
            return False, False
        several = (needed.videos > 1, needed.audios > 1)
        return needed.texts != set(texts), several != (videos > 1, audios > 1)

    return min(rows, key=misfit)


def _untaught(data: AVDataModule, what: str) -> AskError:
    taught = ", ".join(f"{name} ({data.datasets[name].task})" for name in data.taught)
    return AskError(
        f"this run was not trained on {what}. It was trained on {taught}. Give `untaught` to ask anyway."
    )


def _task_key(task: str, data: AVDataModule) -> str:
    known = list(data.tasks)
    for matches in (
        [key for key in known if key == task],
        [key for key in known if "".join(word[0] for word in key.split("_")) == task],
        [key for key in known if key.startswith(task)],
    ):
        if len(matches) == 1:
            return matches[0]
    near = did_you_mean(task.lower(), [*known, *data.datasets])
    raise AskError(f"`task` {task}{near}: this run has {', '.join(known)}")


def check_moment(dataset: str, spec: DatasetSpec) -> None:
    """Refuse ``at_s`` if no question about a dataset shows one frame of a clip.

    Raises:
        AskError: If the model always sees the whole clip.
    """
    if (needed := needs(spec)) is None or not needed.images:
        raise AskError(f"task {spec.task} ({dataset}) takes no `at_s`, because it uses the whole clip")


def needs(spec: DatasetSpec) -> Needs | None:
    """Return how many videos, images and sounds a sample of a dataset has, and the names of its texts.

    ``None`` means that the rows of the layout differ, so that any number is allowed.
    """
    return layout_of(spec, spec.task).needs()


def make_sample(
    dataset: str,
    spec: DatasetSpec,
    videos: Sequence[Path],
    image: Path | None,
    audios: Sequence[Path],
    at_s: float | None,
    texts: Mapping[str, Any],
    scratch: Path,
    *,
    silent: bool = False,
) -> Sample:
    """Make a sample of a dataset from files of a user.

    Args:
        dataset: Key of the dataset.
        spec: Entry of the dataset in the config.
        videos: Video files, in order.
        image: Picture for an image task. If ``None``, a frame of the first video is used.
        audios: Sound files, in order. If empty, the sound of the videos is used.
        at_s: Second of the clip that an image task looks at and listens to. If ``None``, the middle of the
            clip.
        texts: ``question``, ``options`` and ``expression``, as far as they were given.
        scratch: Folder for a frame of a video and for silence. It must exist as long as the sample.
        silent: Replace all sound with silence.

    Raises:
        AskError: If files or texts do not fit the task.
        MediaError: If a file cannot be read.
    """
    task, stated = f"task {spec.task} ({dataset})", needs(spec)
    if not (videos or audios or image is not None) and stated is None:
        raise AskError(f"{task} needs `video`, `image` or `audio`")
    needed = stated or Needs(
        len(videos), int(image is not None), len(audios) or len(videos), frozenset(texts)
    )
    check_texts(task, needed.texts, texts)
    if image is not None and not needed.images:
        raise AskError(f"{task} takes no `image`")
    if silent and audios:
        raise AskError(SILENT_AND_AUDIO)
    for path in videos:
        check_clip(path, "video", "`image`" if needed.images else "")
    if silent and (videos or image is not None):
        audios = [write_silence(videos, spec, scratch)] * needed.audios
    if not audios:
        if len(videos) < needed.audios:
            raise AskError(f"{task} needs {_media(needed)}")
        audios = videos[: needed.audios]
    for path in audios:
        check_clip(path, "audio")
    images: list[Path] = []
    unit = None
    if needed.images:
        picture, unit = picture_of(spec, image, videos, audios[0] if audios else None, at_s, scratch)
        images, videos = [picture], videos if stated is None else []
    for kind, given, count in (("video", videos, needed.videos), ("audio", audios, needed.audios)):
        if len(given) != count:
            raise AskError(f"{task} takes {count} `{kind}` file(s); {len(given)} given")
    fields = dict(texts)
    if spec.clip_s is not None:
        fields["clip_s"] = spec.clip_s
    if "options" in fields:
        fields["options_text"] = str(list(fields["options"]))  # as the prompts of the training show them
    return Sample(
        id=f"{dataset}/ask",
        dataset=dataset,
        task=spec.task,
        split="test",
        clip="ask",
        videos=tuple(videos),
        images=tuple(images),
        audios=tuple(audios),
        unit=unit,
        fields=fields,
    )


def _media(needed: Needs) -> str:
    """Return the names of the files that a task needs."""
    if needed.images:
        return "`video`, or `image` with `audio`"
    files = ((needed.videos, "video"), (needed.audios, "audio"))
    seen, heard = (f"{n} `{kind}`" if n > 1 else f"`{kind}`" for n, kind in files)
    more_sounds = needed.audios > needed.videos
    return f"{seen} and {heard}" if more_sounds else f"{seen}, and {heard} if it has no sound"


_ONE_AT_A_TIME = threading.Lock()


def put(model: Any, data: AVDataModule, sample: Sample) -> Prediction:
    """Let the model answer one sample, which is loaded and encoded with the settings of the training.

    Several threads may ask; their questions are answered one after the other.

    Raises:
        AskError: If the question is longer than the model can read.
    """
    batch = data.processor.collate([data.dataset([sample])[0]])
    tokens = batch.inputs["input_ids"].shape[1]
    decoder = model.decoder() if hasattr(model, "decoder") else None
    limit = tokens if decoder is None else getattr(decoder.config, "max_position_embeddings", tokens)
    if tokens > limit:
        raise AskError(
            f"the question has {tokens:,} tokens, including its media; the model reads at most {limit:,}. "
            "Give a shorter text or clip"
        )
    with _ONE_AT_A_TIME:  # generation keeps its state in the model
        prediction: Prediction = model.generate(batch.to(model.device))[0]
    return prediction


def check_texts(task: str, wanted: Set[str], texts: Mapping[str, Any]) -> None:
    """Check that the texts of a question are those that a task needs.

    Args:
        task: Name of the task in the message.
        wanted: Names of the texts that the task needs.
        texts: The given texts by name.

    Raises:
        AskError: If a text is missing or blank, the task does not use it, or an option is given twice.
    """
    given = {name for name, text in texts.items() if not isinstance(text, str) or text.strip()}
    if missing := [f"`{name}`" for name in sorted(wanted - given)]:
        raise AskError(f"{task} needs {' and '.join(missing)}")
    if extra := [f"`{name}`" for name in sorted(set(texts) - wanted)]:
        raise AskError(f"{task} takes no {' and no '.join(extra)}")
    if "options" not in texts:
        return
    answers = list(texts["options"])
    if len(answers) < 2 or not all(str(answer).strip() for answer in answers):
        raise AskError(
            f"{task} needs at least two `options`, none of them empty, to choose from; given: {answers}"
        )
    if twice := [answer for n, answer in enumerate(answers) if answer in answers[:n]]:
        raise AskError(f"{task}: the `options` {answers} contain {twice[0]!r} twice")
