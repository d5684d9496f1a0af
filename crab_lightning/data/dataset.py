"""The dataset of torch that decodes samples, chooses their targets and encodes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch.utils.data import Dataset

from crab_lightning.data.cache.store import MediaCache
from crab_lightning.data.deadline import deadline
from crab_lightning.data.loading import DropModality, SampleError, example_of, load_media, without
from crab_lightning.data.manifests.files import manifest_name
from crab_lightning.data.manifests.own import no_sound_hint
from crab_lightning.data.quarantine import BROKEN_CLIP, Quarantine
from crab_lightning.data.sampling.samplers import Draw
from crab_lightning.data.sampling.seeding import Indices, unit_hash
from crab_lightning.data.swap import swapped_audio, with_sound_of
from crab_lightning.data.windows import random_window
from crab_lightning.media import MediaLimits, NoAudioTrack, Resizer
from crab_lightning.processing import Geometry
from crab_lightning.structures import Conversation, DatasetSpec, Encoded, Example, Sample, TargetPolicy
from crab_lightning.tasks.base import describe

if TYPE_CHECKING:
    from crab_lightning.processing import Processor
    from crab_lightning.tasks.base import Task


class AVDataset(Dataset[Encoded]):
    """Loads samples of any datasets. It works in loader workers and uses no random numbers of its own.

    Args:
        samples: Samples of any datasets.
        tasks: The tasks, by key.
        specs: Entries of the datasets in the config, by key.
        processor: Processor that encodes the examples.
        geometry: ``released`` joins the two clips of a question and keeps the released time scale. ``plain``
            keeps clips whole and separate, with their true times.
        drop_modality: Replace the sound with silence or the pictures with grey in every sample.
        audio_swap: Give every clip the sound of another clip of its dataset.
        with_target: Encode the target text too. With ``False``, only prompts are encoded.
        seed: Seed that chooses the samples that keep their reasoning, the swapped sounds and the windows.
        cache: Cache of decoded media.
        limits: Limits on what is read of one file.
        resize: How frames are resized.
        timeout_s: Longest time to load one sample in seconds; ``None`` for no limit.
        quarantine: List of broken samples, which are replaced. Without it, a broken sample raises an error.
        explain: Whether each question ends with an explanation of how to write the answer.
        window_s: Length in seconds of the random window that is used of a longer clip; ``None`` uses whole
            clips.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        tasks: Mapping[str, Task[Any]],
        specs: Mapping[str, DatasetSpec],
        processor: Processor,
        *,
        geometry: Geometry = "released",
        drop_modality: DropModality | None = None,
        audio_swap: bool = False,
        with_target: bool = True,
        seed: int = 42,
        cache: MediaCache | None = None,
        limits: MediaLimits | None = None,
        resize: Resizer = "torch",
        timeout_s: float | None = None,
        quarantine: Quarantine | None = None,
        explain: bool = False,
        window_s: float | None = None,
    ) -> None:
        self.explain = explain
        self.window_s = window_s
        self.resize: Resizer = resize
        self.cache, self.limits, self.timeout_s, self.quarantine = cache, limits, timeout_s, quarantine
        self.samples, self.tasks, self.specs, self.processor = samples, tasks, specs, processor
        self.geometry, self.drop_modality = geometry, drop_modality
        self.with_target, self.seed = with_target, seed
        self._donors: Indices | None = swapped_audio(samples, seed) if audio_swap else None

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Encoded:
        """Load and encode one sample.

        Raises:
            SampleError: If the file, the task or the processor raises an error.
        """
        return self._loaded(Draw(index))

    def _loaded(self, draw: Draw) -> Encoded:
        try:
            return self._encoded(draw.item, draw.epoch)
        except Exception as err:
            raise self._named(draw.item, err) from err

    def __getitems__(self, draws: Sequence[Draw]) -> list[tuple[Encoded, bool]]:
        """Load the samples of a batch, each with its mark as repeated; torch prefers this to single items."""
        if self.quarantine is None:
            return [(self._loaded(draw), draw.repeated) for draw in draws]
        return [self._drawn(draw, self.quarantine) for draw in draws]

    def _encoded(self, index: int, epoch: int) -> Encoded:
        with deadline(self.timeout_s):
            return self.processor.encode(self.example(index, epoch))

    def _drawn(self, draw: Draw, quarantine: Quarantine) -> tuple[Encoded, bool]:
        """Load a sample, or a replacement if the sample is broken.

        In evaluation, the replacement is marked as repeated: the broken sample has no score, and the
        replacement must not count twice.

        Raises:
            SampleError: If the error is not about a file.
            QuarantineError: If more samples of the dataset are broken than the limits allow.
        """
        sample, index, attempt = self.samples[draw.item], draw.item, 0
        # This loop ends: each turn loads a sample or tries another one, and each broken sample is listed,
        # until the limit is reached.
        while True:
            current = self.samples[index]
            if current not in quarantine:
                try:
                    replaced = index != draw.item and sample.split != "train"
                    return self._encoded(index, draw.epoch), draw.repeated or replaced
                except BROKEN_CLIP as err:
                    broken = err
                except Exception as err:
                    raise self._named(index, err) from err
                following = quarantine.replacement(sample, draw.epoch, attempt)
                quarantine.add(current, self.samples[following], broken)
            index = quarantine.replacement(sample, draw.epoch, attempt)
            attempt += 1

    def _named(self, index: int, err: Exception) -> SampleError:
        sample = self.samples[index]
        notes = "".join(f" ({note})" for note in getattr(err, "__notes__", ()))
        if isinstance(err, NoAudioTrack) and sample.row >= 0:
            notes += no_sound_hint(sample, err.path)
        kind = "" if isinstance(err, ValueError) else f"{type(err).__name__}: "
        if sample.row < 0:  # a clip of the user, which is in no manifest
            return SampleError(f"{kind}{err}{notes}")
        spec = self.specs[sample.dataset]
        manifest = manifest_name(sample.dataset, spec, sample.split)
        return SampleError(
            f"data.datasets.{sample.dataset}: sample '{sample.id}' (row {sample.row} of {manifest}) "
            f"cannot be loaded: {kind}{str(err).removeprefix(describe(sample) + ' ')}{notes}"
        )

    def example(self, index: int, epoch: int = 0) -> Example:
        """Decode one sample and choose its texts, without encoding it.

        Args:
            index: Index of the sample.
            epoch: Epoch of training, which decides the window of a long clip.
        """
        sample = self.samples[index]
        spec, task = self.specs[sample.dataset], self.tasks[sample.task]
        if self.window_s is not None:
            sample = random_window(sample, task, spec, self.window_s, self.seed, epoch, self.limits)
        heard = sample
        if self._donors is not None:
            heard = with_sound_of(sample, self.samples[int(self._donors[index])])
        loaded = load_media(heard, spec, self.geometry, self.cache, self.limits, self.resize)
        if self.drop_modality is not None:
            loaded = without(loaded, self.drop_modality)
        conversation = task.conversation(sample)
        if self.explain and (said := task.explanation(sample, spec)):
            conversation = longer(conversation, said)
        target = task.target(sample, target_policy(sample, spec, self.seed)) if self.with_target else None
        learn_replies = self.with_target and spec.turns == "every"
        return example_of(sample, conversation, loaded, self.geometry, target, learn_replies=learn_replies)


def longer(conversation: Conversation, said: str) -> Conversation:
    """Return a conversation with a text added at its end."""
    last = conversation[-1] if conversation else None
    return (*conversation[:-1], f"{last}\n{said}") if isinstance(last, str) else (*conversation, said)


def target_policy(sample: Sample, spec: DatasetSpec, seed: int) -> TargetPolicy:
    """Return whether the target of a sample is its reasoning or its direct answer.

    If ``spec.target`` is a fraction, the id of the sample and the seed decide, always in the same way. A row
    of the manifest with ``"target_policy": "direct"`` never uses reasoning. The target of a training row
    without a text is the direct answer.
    """
    if sample.fields.get("target_policy") == "direct":
        return "direct"
    if sample.target is None and sample.split != "test" and spec.target == "reasoning":
        return "direct"
    if isinstance(spec.target, str):
        return spec.target
    return "reasoning" if unit_hash(seed, "target", sample.id) < spec.target else "direct"
