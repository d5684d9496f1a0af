"""The DataModule: mixes, splits, decodes and batches any of the datasets for any model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from numpy.typing import NDArray

from crab_lightning.compat import renew_limits
from crab_lightning.data.loader import BatchLoader, TrainLoader
from crab_lightning.data.loading import DropModality
from crab_lightning.data.manifests.keys import check_datasets, check_numbers, chosen_datasets
from crab_lightning.data.manifests.reader import manifest_path
from crab_lightning.data.manifests.rows import Rows, read_rows, report_empty_splits
from crab_lightning.data.quarantine import OnError
from crab_lightning.data.sample_loading import SampleLoading
from crab_lightning.data.sampling.lengths import guess_lengths
from crab_lightning.data.sampling.mixture import Mixture
from crab_lightning.data.sampling.mixture_table import mixture_table
from crab_lightning.data.sampling.packed_samples import PackedSamples
from crab_lightning.data.sampling.samplers import EvalBatches, TrainBatches
from crab_lightning.data.sampling.seeding import balanced_subset
from crab_lightning.data.windows import check_cuttable, count_windows, expanded, told
from crab_lightning.media import MediaLimits, Resizer
from crab_lightning.processing import Geometry
from crab_lightning.program import print_table
from crab_lightning.structures import DatasetSpec, Sample, Split, Windows
from crab_lightning.tasks.base import Task
from crab_lightning.value_types import check_arguments

if TYPE_CHECKING:
    from rich.table import Table

LoaderT = TypeVar("LoaderT", bound=BatchLoader)


class AVDataModule(SampleLoading):
    """Mixes the datasets for training and provides each of them for evaluation.

    A part of the training rows is used for validation, whole recordings at a time and across datasets.
    The model's own processor encodes the samples, so the same data section serves every model.

    Args:
        root: Folder that contains ``AVUIE_2/<dataset>/{train,test}.json`` and the media.
        tasks: The tasks, by a key of your choice: ``{captioning: {class_path: ...}}``.
        datasets: The datasets, by a key of your choice (usually the released task id). Each entry names its
            ``task`` and its ``layout`` or ``columns``. To change one value of one entry, use
            ``--data.datasets.ave.weight 4000``.
        only: Keys of the datasets to use, e.g. ``[ave, avvp]``. By default, all are used.
        batch_size: Number of training samples that one process loads for a step.
        batch_tokens: Largest number of tokens in a batch, padding included. It is used instead of
            ``batch_size``: batches of short samples are large and batches of long samples are small. Set
            ``length_window`` to about 32 with it. The loss is a mean over target tokens, so the size of a
            batch does not change it. A sample with more tokens is a batch of its own. A value of 750 times
            ``batch_size`` keeps the mean number of samples.
        eval_batch_size: Number of samples in a batch of validation, test and predict.
        num_workers: Number of processes that load samples for each training process. A good value is the
            number of free CPU cores. With 0 the training process loads them itself and waits for every clip.
        prefetch_batches: Number of batches that each worker prepares in advance. A larger number helps when
            some clips decode slowly.
        epoch_size: Number of samples in an epoch. By default, it is the number of training rows. If no
            weights are set either, an epoch has every row exactly once.
        temperature: The probability of a dataset is proportional to ``weight ** (1 / temperature)``. 1 keeps
            the weights, larger values choose small datasets more often, and 1000 chooses all equally often.
        length_window: Samples of similar length are grouped within this number of batches. 32 saves about a
            quarter of the tokens with batches of 4, but most batches then contain a single task. 1 shuffles
            all samples, as the paper did.
        val_share: Fraction of the recordings that is used for validation. Datasets without a test manifest
            (mer24, unav, avcap) are also tested on them.
        val_generate_per_dataset: Number of validation samples of each dataset for which the model generates
            an answer. They are the same in every validation and balanced over the true answers. With
            ``null``, all samples are answered. The validation loss always uses all samples.
        geometry: Preprocessing of the media. ``released`` prepares them as for the released adapter: the two
            clips of a question are joined, sound is cut into windows, and a pair of frames always stands for
            2 s. ``plain`` keeps clips whole and separate, with their true times.
        drop_modality: Replace the sound by silence (``audio``) or the pictures by grey (``vision``) in every
            split. This ablation shows whether the model uses them.
        audio_swap: Give every clip the sound of another clip of its dataset, in every split.
        cache: Folder in which decoded media are stored for all epochs, runs and processes. ``cli.py data
            cache`` can fill it in advance. By default, every clip is decoded each time. A cached sample is
            bit-identical to a decoded one. A clip of 10 s takes about 1.8 MB.
        cache_gb: Largest size of that folder in GB. Further clips are decoded each time.
        on_error: What happens when a clip cannot be read. ``fail`` ends the run. ``{policy: quarantine,
            max_share: 0.01, max_count: 1000}`` uses another sample of the dataset instead, lists the clip in
            quarantine.jsonl of the run folder, and ends the run when more than that fraction or number of a
            dataset's samples is broken. In evaluation a broken sample is left out of the scores and listed.
        load_timeout_s: Longest time in seconds to load one sample. A sample that takes longer counts as
            broken.
        limits: Limits on what is read of one file, which protect against files that would fill the memory.
        resize: How frames are resized to ``size_px``. ``torch`` does it as for the released checkpoints.
            ``torch_uint8`` computes with integers and is four times as fast; pixel values differ by 0.1 on
            average and by at most 4. ``swscale`` resizes while decoding and is the fastest, but smaller
            frames look different.
        seed: Seed of the order, the validation split, row limits, mixed targets and subsets. The result does
            not depend on the number of processes and workers.
        explain_answers: Add sentences to each question that explain how to write the answer, and read answers
            leniently. Use it for models that were not trained on these tasks. The results name this setting.
        train_window_s: Length of a window in seconds. Training reads one random window of each longer clip, a
            new one in every epoch, and the target names the events in it. This applies to event datasets
            whose rows give true times in seconds; other clips are used as they are. Validation uses all
            windows of a clip. The targets are direct answers without reasoning. When the run ends, it prints
            how many events were cut or were outside the windows.
        order_seed: Seed of the order of the training samples, instead of ``seed``. Use it for runs with
            another order but the same validation split and rows.

    Raises:
        ValueError: If a key or a number in the section is not valid. The message names it.
    """

    def __init__(
        self,
        root: str | Path,
        # Not Task[Any], with which jsonargparse 4.53 loses the arguments of a subclass.
        tasks: dict[str, Task],  # type: ignore[type-arg]
        datasets: dict[str, DatasetSpec],
        only: list[str] | None = None,
        batch_size: int = 4,
        batch_tokens: int | None = None,
        eval_batch_size: int = 8,
        num_workers: int = 0,
        prefetch_batches: int = 2,
        epoch_size: int | None = None,
        temperature: float = 1.0,
        length_window: int = 1,
        val_share: float = 0.05,
        val_generate_per_dataset: int | None = 32,
        geometry: Geometry = "released",
        drop_modality: DropModality | None = None,
        audio_swap: bool = False,
        cache: str | Path | None = None,
        cache_gb: float | None = None,
        on_error: Literal["fail"] | OnError = "fail",
        load_timeout_s: float | None = 300.0,
        limits: MediaLimits | None = None,
        resize: Resizer = "torch",
        seed: int = 42,
        order_seed: int | None = None,
        explain_answers: bool = False,
        train_window_s: float | None = None,
    ) -> None:
        super().__init__()
        check_arguments(AVDataModule.__init__, locals(), "data")
        datasets = chosen_datasets(datasets, only)
        check_datasets(tasks, datasets)
        self.root = Path(root)
        self.tasks = tasks
        self.datasets = dict(datasets)
        self.taught = list(datasets)
        """Keys of the datasets for training. A run that is asked questions also has the other datasets."""
        self.batch_size, self.batch_tokens = batch_size, batch_tokens
        self.eval_batch_size = eval_batch_size
        self.num_workers, self.prefetch_batches = num_workers, prefetch_batches
        self.epoch_size, self.temperature, self.length_window = epoch_size, temperature, length_window
        self.val_share, self.val_generate_per_dataset = val_share, val_generate_per_dataset
        self.geometry, self.drop_modality, self.audio_swap = geometry, drop_modality, audio_swap
        self.cache, self.cache_gb = cache, cache_gb
        self.on_error = OnError() if isinstance(on_error, str) else on_error
        self.load_timeout_s, self.limits = load_timeout_s, limits
        self.resize = resize
        self.seed = seed
        self.order_seed = seed if order_seed is None else order_seed
        self.explain_answers = explain_answers
        if explain_answers:
            for task in tasks.values():
                task.explained = True
                if hasattr(task, "lenient"):
                    task.lenient = True
        self.train_window_s = train_window_s
        check_numbers(vars(self))
        self.window_counts: dict[str, Counter[str]] = {}
        """For each dataset: windows that this process used for training, and where their events were."""
        self.test_skip_ids: frozenset[str] = frozenset()
        """Ids of samples that ``test`` leaves out, because an interrupted test has answered them."""
        self.test_windows: Windows | None = None
        """Windows in which ``test`` asks about long clips; with ``None``, it asks about whole clips."""
        self._rows: Rows | None = None
        self._asked: tuple[Windows, PackedSamples] | None = None
        self._open: list[BatchLoader] = []
        self._training: TrainLoader | None = None
        self._position: Mapping[str, Any] | None = None

    def setup(self, stage: str | None = None) -> None:
        """Read the manifests once, and print the mixture before training.

        Raises:
            ManifestError: If a manifest cannot be read.
            ValueError: If a task cannot read an annotation, or a validation or test has no rows.
        """
        if self._rows is None:
            self._rows = read_rows(self.root, self.tasks, self.datasets, self.val_share, self.seed)
            self.datasets = dict(self._rows.specs)
        report_empty_splits(self._rows, stage, wanted=self.val_share > 0)
        if stage == "fit":
            rank_zero_only(print_table)(self.mixture_table())

    def teardown(self, stage: str | None = None) -> None:
        """Stop the workers. The samples stay in memory for callbacks that report at the end."""
        while self._open:
            self._open.pop().close()
        if stage == "fit" and self.train_window_s is not None:
            for line in told(self.window_counts, self.train_window_s):
                rank_zero_info(line)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Count the events in windows that are used for training."""
        if self.train_window_s is not None and self.trainer is not None and self.trainer.training:
            count_windows(self.window_counts, batch.samples)
        return batch

    def samples(self, split: Split, dataset: str | None = None) -> list[Sample]:
        """Return the samples of a split, of one dataset or of all datasets in the order of the config.

        Args:
            split: ``train``, ``val`` or ``test``. For a dataset without a test manifest, ``test`` is its
                validation split.
            dataset: Key of a dataset; ``None`` for all datasets.
        """
        rows = self._read()
        names = self.datasets if dataset is None else [dataset]
        return [sample for name in names for sample in rows.splits[split][name]]

    def train_dataloader(self) -> TrainLoader:
        """Return the loader of the training samples, which can be resumed at any step.

        Raises:
            ValueError: If there are no training rows, the sizes do not fit the number of processes, or no
                dataset can be cut into windows although ``train_window_s`` is set.
        """
        samples = self._pack("train")
        if self.train_window_s is not None:
            self._check_own_sound("data.train_window_s")  # only checked here: a test may use other sounds
            check_cuttable(self.train_window_s, self._read().splits["train"], self.tasks, self.datasets)
        mixture = self._mixture()
        rank, world = self._place()
        grouped = self.length_window > 1 or self.batch_tokens is not None
        lengths = self._lengths(samples, with_target=True) if grouped else None
        self._training = self._track(
            TrainLoader(
                self.dataset(samples, with_target=True, of_split=True, window_s=self.train_window_s),
                TrainBatches(
                    mixture, self.batch_size, rank, world, self.length_window, lengths, self.batch_tokens
                ),
                self.num_workers,
                self.prefetch_batches,
                on_epoch=None if self.trainer is None else partial(renew_limits, self.trainer),
            )
        )
        position, self._position = self._position, None
        if position is not None:
            self._training.load_state_dict(position)
        return self._training

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the training data.

        Lightning also stores the state of the loader. But it does not restore the state of a loader that was
        made before the checkpoint was read, and ``trainer.estimated_stepping_batches``, which every schedule
        uses, makes the loader earlier. Then a resumed run would begin its epoch again.
        """
        return {} if self._training is None else {"position": self._training.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue at a stored position, with the present loader or the next one."""
        if "position" not in state_dict:
            return
        if self._training is None:
            self._position = state_dict["position"]
        else:  # sharded strategies read the checkpoint after the loaders were made
            self._training.load_state_dict(state_dict["position"])

    def val_dataloader(self) -> list[BatchLoader]:
        """Return a loader with targets for the validation loss, and a loader of prompts to be answered."""
        rows = self._read()
        chosen: list[Sample] = []
        for name in self.datasets:
            samples = self._val(rows.splits["val"][name])
            answers, count = self._answers(samples), self.val_generate_per_dataset
            picked = balanced_subset([s.id for s in samples], answers, count, self.seed)
            chosen += [samples[i] for i in picked]
        return [
            self._eval_loader(self._val(self._pack("val")), with_target=True),
            self._eval_loader(PackedSamples(chosen), with_target=False),
        ]

    def _val(self, samples: PackedSamples) -> PackedSamples:
        """Return validation samples as in training: long clips as windows with their true answers."""
        if self.train_window_s is None:
            return samples
        windows = Windows(self.train_window_s)
        return PackedSamples(
            expanded(samples, self.tasks, self.datasets, windows, self.limits, with_truth=True)
        )

    def test_samples(self) -> PackedSamples:
        """Return the samples of ``test``: the test rows, whose long clips ``test_windows`` may divide.

        Raises:
            ValueError: If ``audio_swap`` is set too, since the sound of another clip may be shorter.
        """
        if self.test_windows is None:
            return self._pack("test")
        self._check_own_sound("evaluator.windows")
        if self._asked is None or self._asked[0] != self.test_windows:
            samples = expanded(
                self.samples("test"), self.tasks, self.datasets, self.test_windows, self.limits
            )
            self._asked = self.test_windows, PackedSamples(samples)
        return self._asked[1]

    def _check_own_sound(self, option: str) -> None:
        if self.audio_swap:
            raise ValueError(
                f"{option} and data.audio_swap exclude each other: the clip that gives the sound "
                "may be shorter; leave one of them out"
            )

    def test_dataloader(self) -> BatchLoader:
        """Return a loader of the prompts of :meth:`test_samples`."""
        samples = self.test_samples()
        if self.test_skip_ids:
            samples = PackedSamples(sample for sample in samples if sample.id not in self.test_skip_ids)
        return self._eval_loader(samples, with_target=False)

    def predict_dataloader(self) -> BatchLoader:
        """Return a loader of the prompts of all test rows."""
        return self._eval_loader(self._pack("test"), with_target=False)

    def mixture_table(self) -> Table:
        """Return a table of the mixture for printing."""
        return mixture_table(self._read(), self._mixture())

    def _read(self) -> Rows:
        if self._rows is None:
            raise RuntimeError("the manifests have not been read yet: call datamodule.setup() first")
        return self._rows

    def _mixture(self) -> Mixture:
        rows = {name: len(samples) for name, samples in self._read().splits["train"].items()}
        if not any(rows.values()):
            files = [str(manifest_path(self.root, n, spec, "train")) for n, spec in self.datasets.items()]
            more = f" and {len(files) - 3} more" if len(files) > 3 else ""
            raise ValueError(f"there are no training rows in {', '.join(files[:3])}{more}")
        return Mixture(
            rows=rows,
            weights={name: spec.weight for name, spec in self.datasets.items() if spec.weight is not None},
            temperature=self.temperature,
            epoch_size=self.epoch_size,
            seed=self.order_seed,
        )

    def _pack(self, split: Split) -> PackedSamples:
        rows = self._read()
        return PackedSamples.joined([rows.splits[split][name] for name in self.datasets])

    def _answers(self, samples: Sequence[Sample]) -> list[str]:
        return [self.tasks[sample.task].target(sample, "direct") for sample in samples]

    def _eval_loader(self, samples: PackedSamples, with_target: bool) -> BatchLoader:
        rank, world = self._place()
        groups: dict[str, list[int]] = {}
        for index, sample in enumerate(samples):
            groups.setdefault(sample.dataset, []).append(index)
        lengths = self._lengths(samples, with_target)
        batches = EvalBatches(list(groups.values()), lengths, self.eval_batch_size, rank, world)
        dataset = self.dataset(samples, with_target=with_target, of_split=True)
        return self._track(BatchLoader(dataset, batches, self.num_workers, self.prefetch_batches))

    def _lengths(self, samples: PackedSamples, with_target: bool) -> NDArray[np.int32]:
        return guess_lengths(samples, self.tasks, self.datasets, self.geometry, self.seed, with_target)

    def _place(self) -> tuple[int, int]:
        """Return the rank of this process and the number of processes that get different samples."""
        kwargs = None if self.trainer is None else self.trainer.distributed_sampler_kwargs
        return (0, 1) if not kwargs else (int(kwargs["rank"]), int(kwargs["num_replicas"]))

    def _track(self, loader: LoaderT) -> LoaderT:
        self._open.append(loader)
        return loader
