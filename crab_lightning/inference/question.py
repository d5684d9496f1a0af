"""One question about one clip: the dataset whose rules it follows, its sample and its answer."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from crab_lightning.spelling import did_you_mean

if TYPE_CHECKING:
    from crab_lightning.data import AVDataModule
    from crab_lightning.structures import DatasetSpec, Prediction, Sample

_SILENT_AND_AUDIO = "`silent` puts silence in the place of all sound, so it cannot be given with `audio`"


class AskError(ValueError):
    """A question that cannot be put: a file, text or task is missing, or there is one too many.

    Its text names what is meant in backquotes, as Python has it; :meth:`as_options` as a command line does.
    """

    def as_options(self) -> AskError:
        """Return the error with option names: ``--question``."""
        return AskError(re.sub(r"`(\w+)`", r"--\1", str(self)))


@dataclass(frozen=True)
class Question:
    """What a user asks about files of their own.

    Args:
        task: Key of a task or dataset of the run, the start of a task's key, or its initials.
        videos: Video files.
        audios: Sound files; the videos' own tracks when empty.
        image: Picture for an image task; a frame of the video when ``None``.
        texts: Question, options and expression, those that were given.
        dataset: Dataset whose row is used; the first that fits when ``None``.
        at_s: Second of the clip that an image task looks at; its middle when ``None``.
        silent: Ask with silence in the place of all sound.
        untaught: Also ask what the run was not trained on.
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
        """Return the sample that is asked.

        Args:
            data: Tasks and datasets of the run.
            scratch: Folder for what is made for the question; has to outlive the sample.

        Raises:
            AskError: If it cannot be put to this run.
            FileNotFoundError: If a file is not there.
            MediaError: If a file cannot be read.
        """
        for path in (*self.videos, *self.audios, *([self.image] if self.image else [])):
            if not path.is_file():
                raise FileNotFoundError(f"{path} is not a file")
        name = choose_dataset(
            data, self.task, self.dataset, len(self.videos), len(self.audios), self.texts,
            untaught=self.untaught,
        )  # fmt: skip
        sample = make_sample(
            name, data.datasets[name], self.videos, self.image, self.audios, self.at_s, self.texts, scratch,
            silent=self.silent,
        )  # fmt: skip
        try:
            data.tasks[sample.task].prompt(sample)
        except KeyError as err:  # the rows of own data differ, so their layout does not say what is asked
            raise AskError(f"task {sample.task} ({name}) needs `{err.args[0]}`") from None
        return sample

    def check(self, data: AVDataModule) -> None:
        """Raise what :meth:`sample` raises; nothing of it is kept."""
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
    """Return the dataset whose row and layout fit what was given; one that the run was taught comes first.

    Args:
        data: Holds tasks and rows.
        task: Key of a task or dataset, the start of one task's key, or its initials.
        dataset: Key of a dataset, when the user named one.
        videos: Number of videos given.
        audios: Number of sound files given.
        texts: Question, options and expression, those that were given.
        untaught: Allow a dataset that is in the run's config, but that the run was not taught.

    Raises:
        AskError: If nothing fits, or the run was not taught it; the message says what is there.
    """
    if dataset is None and task in data.datasets:
        dataset = task
    if dataset is not None:
        if dataset not in data.datasets:
            raise AskError(f"`dataset` {dataset}: this run has {', '.join(data.datasets)}")
        if not untaught and dataset not in data.taught:
            raise _untaught(data, f"the dataset {dataset}")
        return dataset
    key = _task_key(task, list(data.tasks))
    rows = [name for name, spec in data.datasets.items() if spec.task == key]
    if not rows:
        raise AskError(f"`task` {task}: no dataset of this run has the task {key}")
    if not untaught:
        rows = [name for name in rows if name in data.taught]
        if not rows:
            raise _untaught(data, f"the task {key}")

    def misfit(name: str) -> tuple[bool, bool]:
        needed = needs(data.datasets[name])
        if needed is None:
            return False, False
        needs_videos, _, needs_audios, needs_texts = needed
        return needs_texts != set(texts), (needs_videos > 1) != (videos > 1) or (needs_audios > 1) != (
            audios > 1
        )

    return min(rows, key=misfit)


def _untaught(data: AVDataModule, what: str) -> AskError:
    taught = ", ".join(f"{name} ({data.datasets[name].task})" for name in data.taught)
    return AskError(
        f"this run was not trained on {what}. It was trained on {taught}. Give `untaught` to ask anyway."
    )


def _task_key(task: str, known: list[str]) -> str:
    for matches in (
        [key for key in known if key == task],
        [key for key in known if "".join(word[0] for word in key.split("_")) == task],
        [key for key in known if key.startswith(task)],
    ):
        if len(matches) == 1:
            return matches[0]
    raise AskError(f"`task` {task}{did_you_mean(task, known)}: this run has {', '.join(known)}")


def needs(spec: DatasetSpec) -> tuple[int, int, int, set[str]] | None:
    """Return how many videos, images and sounds a row's samples have, and which texts they are asked with.

    ``None`` for a layout whose rows differ: what is given is what is needed.
    """
    from crab_lightning.data.manifests.layout import layout_of

    found = layout_of(spec, spec.task).needs()
    if found is None:
        return None
    return found.videos, found.images, found.audios, set(found.texts)


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
    """Return a sample of a dataset made from a user's files.

    Args:
        dataset: Key of the dataset.
        spec: Its row.
        videos: Video files, in order.
        image: Picture for an image task; a frame of the first video when ``None``.
        audios: Sound files, in order; the videos' own tracks when empty.
        at_s: Second of the clip that an image task looks at and listens to; its middle when ``None``.
        texts: Question, options and expression.
        scratch: Folder for a frame taken out of a video, and for silence; has to outlive the sample.
        silent: Put silence in the place of all sound.

    Raises:
        AskError: If files or texts do not fit the task.
        MediaError: If a file cannot be read.
    """
    from crab_lightning.structures import Sample

    if not (videos or audios or image is not None) and needs(spec) is None:
        raise AskError(f"task {spec.task} ({dataset}) needs `video`, `image` or `audio`")
    need_videos, need_images, need_audios, need_texts = needs(spec) or (
        len(videos), int(image is not None), len(audios) or len(videos), set(texts),
    )  # fmt: skip
    check_texts(f"task {spec.task} ({dataset})", need_texts, texts)
    if image is not None and not need_images:
        raise AskError(f"task {spec.task} ({dataset}) takes no `image`")
    if silent and audios:
        raise AskError(_SILENT_AND_AUDIO)
    if silent and (videos or image is not None):
        audios = [_silence(videos, spec, scratch)] * need_audios
    if not audios:
        if len(videos) < need_audios:
            raise AskError(
                f"task {spec.task} ({dataset}) needs {_media(need_videos, need_images, need_audios)}"
            )
        audios = videos[:need_audios]
    for path in videos:
        check_clip(path, "video", "`image`" if need_images else "")
    for path in audios:
        check_clip(path, "audio")
    images: list[Path] = []
    unit = None
    if need_images:
        images, unit = _picture(spec, image, videos, audios[0] if audios else None, at_s, scratch)
        videos = [] if needs(spec) else videos
    for kind, given, needed in (("video", videos, need_videos), ("audio", audios, need_audios)):
        if len(given) != needed:
            raise AskError(
                f"task {spec.task} ({dataset}) takes {needed} `{kind}` file(s); {len(given)} given"
            )
    fields = dict(texts)
    if spec.clip_s is not None:
        fields["clip_s"] = spec.clip_s
    if "options" in fields:
        fields["options_text"] = str(list(fields["options"]))  # the way training prompts print them
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


def check_clips(videos: Sequence[Path], audio: Path | None, *, silent: bool) -> None:
    """Refuse what is no clip before anything is loaded.

    Args:
        videos: Clips that need a picture, and a sound unless ``audio`` or ``silent`` stands for it.
        audio: Sound file of the first clip.
        silent: Ask with silence in the place of all sound.

    Raises:
        AskError: If a file does not hold what is needed.
    """
    if silent and audio is not None:
        raise AskError(_SILENT_AND_AUDIO)
    for place, path in enumerate(videos):
        check_clip(path, "video")
        if not silent:
            check_clip(audio if audio is not None and place == 0 else path, "audio")


def check_clip(path: Path, kind: Literal["video", "audio"], picture_goes_to: str = "") -> None:
    """Refuse a file that does not hold what it was given for, in the words of what was given."""
    from crab_lightning.media import UnreadableMedia, is_picture, probe

    try:
        info = probe(path)
    except UnreadableMedia:
        if not is_picture(path):
            raise
        remedy = f"give it as {picture_goes_to}" if picture_goes_to else f"this task needs a file with {kind}"
        raise AskError(f"{path} is a picture and was given as `{kind}`; {remedy}") from None
    if kind == "video" and not info.has_video:
        raise AskError(f"{path} contains no moving pictures; give a video as `video`, and sound as `audio`")
    if kind == "audio" and not info.has_audio:
        raise AskError(
            f"{path} has no sound. Give a sound file as `audio`, or give `silent` to ask with silence."
        )


def _silence(videos: Sequence[Path], spec: DatasetSpec, scratch: Path) -> Path:
    """Write silence as long as the first video, or a second for every unit of sound where there is none."""
    import torch

    from crab_lightning.media import probe, write_audio
    from crab_lightning.structures import SAMPLE_RATE_HZ

    length_s = float(spec.audio.units)
    if videos:
        check_clip(videos[0], "video")
        length_s = probe(videos[0]).duration_s or length_s
    path = scratch / "silence.wav"
    write_audio(path, torch.zeros(max(1, round(length_s * SAMPLE_RATE_HZ))))
    return path


def _media(videos: int, images: int, audios: int) -> str:
    """Return which files a task is asked with."""
    if images:
        return "`video`, or `image` with `audio`"
    seen, heard = (
        f"{n} `{kind}`" if n > 1 else f"`{kind}`" for n, kind in ((videos, "video"), (audios, "audio"))
    )
    return f"{seen} and {heard}" if audios > videos else f"{seen}, and {heard} where it has no sound"


def _picture(
    spec: DatasetSpec,
    image: Path | None,
    videos: Sequence[Path],
    audio: Path | None,
    at_s: float | None,
    scratch: Path,
) -> tuple[list[Path], int | None]:
    """Return the picture of an image task, and the audio unit that belongs to it."""
    from crab_lightning.media import probe, read_audio, write_upright
    from crab_lightning.structures import SAMPLE_RATE_HZ

    if image is None and not videos:
        raise AskError(f"task {spec.task} needs `image` or `video`")
    samples = 0 if audio is None else len(read_audio(audio))
    shown_s = [probe(video).duration_s or 0.0 for video in videos[:1]]
    duration_s = max([samples / SAMPLE_RATE_HZ, *shown_s])
    moment_s = duration_s / 2 if at_s is None else at_s
    if not 0 <= moment_s <= duration_s:
        raise AskError(f"`at_s` {moment_s:g}: the clip lasts {duration_s:g} s")
    if image is None:
        image = _frame(videos[0], moment_s, scratch)
    else:  # as the user's own viewer shows it; manifests name pictures as they are stored
        image = write_upright(image, scratch / "upright.png")
    if spec.audio.kind != "one_unit" or audio is None:
        return [image], None
    unit_samples = max(samples, SAMPLE_RATE_HZ) // spec.audio.units  # as the window cuts them
    return [image], min(int(moment_s * SAMPLE_RATE_HZ / unit_samples), spec.audio.units - 1)


def _frame(video: Path, moment_s: float, scratch: Path) -> Path:
    """Write the frame that is shown at a moment, at full size, and return its path."""
    from PIL import Image

    from crab_lightning.media import read_frame_at

    frame, _ = read_frame_at(video, moment_s)
    path = scratch / "frame.png"
    Image.fromarray(frame.permute(1, 2, 0).numpy()).save(path)
    return path


def put(model: Any, data: AVDataModule, sample: Sample) -> Prediction:
    """Answer one sample, loaded and encoded with the settings that training used."""
    batch = data.processor.collate([data.dataset([sample])[0]])
    prediction: Prediction = model.generate(batch.to(model.device))[0]
    return prediction


def check_texts(task: str, wanted: Set[str], texts: Mapping[str, Any]) -> None:
    """Refuse texts that are missing, blank or of no use to a task.

    Raises:
        AskError: It names the task and the texts.
    """
    given = {name for name, text in texts.items() if not isinstance(text, str) or text.strip()}
    if missing := sorted(wanted - given):
        raise AskError(f"{task} needs {named(missing)}")
    if extra := sorted(set(texts) - wanted):
        raise AskError(f"{task} takes no {named(extra, ' and no ')}")


def named(names: Sequence[str], between: str = " and ") -> str:
    """Return names in backquotes, joined."""
    return between.join(f"`{name}`" for name in names)
