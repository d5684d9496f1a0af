"""The Evaluator: it reads and scores answers, writes predictions and ``metrics.json``, and prints a table."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from crab_lightning.compat import datamodule_of
from crab_lightning.evaluation.earlier_tests import METRICS, set_aside, write_metrics
from crab_lightning.evaluation.likelihoods import (
    CandidateScore,
    likelihood_values,
    offer_candidates,
    scores_of,
)
from crab_lightning.evaluation.long_clips import LongClips, window_record
from crab_lightning.evaluation.majority import majority_answers
from crab_lightning.evaluation.metric_values import check_metrics, headline_share, mean_headline
from crab_lightning.evaluation.prediction_files import PredictionFiles, Record
from crab_lightning.evaluation.scores import (
    DatasetScores,
    make_ready,
    needs_device,
    sum_over_processes,
)
from crab_lightning.evaluation.tables import print_results
from crab_lightning.metrics.scale import read_scale
from crab_lightning.runs.folder_callback import folder_of
from crab_lightning.structures import Batch, Decoding, Prediction, Sample, Windows
from crab_lightning.value_types import check_arguments

HEADLINE = "mean/headline"
LOSS = "mean/loss"


class Evaluator(Callback):
    """Scores the generated answers and the losses of every dataset.

    Writes ``metrics.json`` and ``predictions/`` into the run folder and logs
    ``<split>/<task>/<dataset>/<metric>``, ``<split>/mean/headline`` and ``<split>/mean/loss``. A ``test``
    that was interrupted is continued by the same command: the answers on disk are scored and are not
    generated again. A finished test is repeated. If its settings or weights differ, the earlier files are
    moved to ``earlier/``.

    Args:
        majority: Also score the most frequent training answer of each dataset as a baseline.
        predictions: Write every answer to ``predictions/<dataset>.jsonl``.
        print_table: Print a table of results after each evaluation: with ``true`` one row for each dataset,
            with ``all`` every metric.
        decoding: How answers are found. ``generate`` lets the model write every answer. ``likelihood``
            chooses the most probable answer of a closed set (classes, options, two candidates); this takes
            one forward pass, and every answer can be read. ``both`` does both and also measures how well the
            probabilities are calibrated.
        candidate_score: ``sum`` compares the probabilities of whole answers, ``mean`` the mean
            log-probability of their tokens.
        windows: ``{length_s: 10, hop_s: 5}`` splits ``test`` clips that are longer than ``length_s`` into
            windows, asks about each window, and joins the answers into one, which is scored. It applies to
            event datasets whose rows give true times in seconds. Shorter clips and other datasets are asked
            as they are.
    """

    def __init__(
        self,
        majority: bool = True,
        predictions: bool = True,
        print_table: bool | Literal["all"] = True,
        decoding: Decoding = "generate",
        candidate_score: CandidateScore = "sum",
        windows: Windows | None = None,
    ) -> None:
        check_arguments(Evaluator.__init__, locals(), "evaluator")
        self.majority = majority
        self.predictions = predictions
        self.print_table: bool | Literal["all"] = print_table
        self.decoding: Decoding = decoding
        self.candidate_score: CandidateScore = candidate_score
        self.windows = windows
        self.identity: dict[str, Any] = {}
        """Settings that decide the answers, set by the command line; a resumed test must have the same."""
        self.results: dict[str, dict[str, Any]] = {}
        self.lower_is_better: set[str] = set()
        """Logged keys of metrics for which a lower value is better."""
        self.stands_for_mean: str | None = None
        """Logged key to watch instead of the mean of the primary metrics, if there is no such mean."""
        self._scores: dict[str, DatasetScores] = {}
        self._constant: dict[str, Any] = {}
        self._files: PredictionFiles | None = None
        self._resumed: list[Record] = []
        self._clips = LongClips()
        self._folder = Path()
        self._seconds = 0.0
        self._answered = 0

    # Setup

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the run folder and, before a test, the answers of an interrupted test.

        Raises:
            OSError: If a task needs weights for scoring that cannot be loaded.
            ValueError: If the trainer has no usable data module, the metrics of a task are wrong, the model
                cannot compute the probabilities that ``decoding`` needs, or the answers of an interrupted
                test have other settings.
        """
        self._folder = folder_of(trainer)
        self._resumed = []
        data = datamodule_of(trainer)
        if not all(hasattr(data, name) for name in ("tasks", "datasets", "samples")):
            raise ValueError(
                "Evaluator needs a datamodule with `tasks`, `datasets` and `samples(split)`, as AVDataModule "
                f"has; the trainer has {'none' if data is None else type(data).__name__}. Give it such a one"
            )
        used = {name: data.tasks[name] for name in sorted({s.task for s in data.datasets.values()})}
        make_ready(used, lambda here: trainer.strategy.reduce_boolean_decision(here, all=False))
        for name, spec in data.datasets.items():
            check_metrics(name, data.tasks[spec.task], spec)
        offer_candidates(pl_module, data, self.decoding)
        if stage == "test" and self.windows is not None:
            data.test_windows = self.windows
        if stage == "test" and self._writes(trainer):
            files = PredictionFiles(self._folder, "test", trainer.global_rank)
            # Answers about whole long clips are joined again from the answers about their windows.
            self._resumed = [r for r in files.resume(self._identity(trainer)) if "windows" not in r]
            self._files = files
            answered = {record["id"] for record in self._resumed}
            if self._resumed and all(s.id in answered for s in self._asked(data)):
                # Lightning would skip an empty loop and its hooks, so the last answer is generated again.
                self._resumed = self._resumed[:-1]
            if self._resumed:
                rank_zero_info(f"{len(self._resumed):,} answers of the interrupted test are kept.")
            data.test_skip_ids = frozenset(r["id"] for r in self._resumed)

    def _writes(self, trainer: Trainer) -> bool:
        return self.predictions and not getattr(trainer, "fast_dev_run", False)

    def _identity(self, trainer: Trainer) -> dict[str, Any]:
        identity = dict(self.identity)
        if self.decoding != "generate":
            identity["evaluator.decoding"] = self.decoding
            identity["evaluator.candidate_score"] = self.candidate_score
        if self.windows is not None:
            identity["evaluator.windows"] = asdict(self.windows)
        if trainer.ckpt_path is not None and (path := Path(trainer.ckpt_path)).is_file():
            path, run = path.resolve(), self._folder.resolve()
            name = path.relative_to(run) if path.is_relative_to(run) else path  # a run may be moved or copied
            identity["checkpoint"] = [str(name), path.stat().st_size, path.stat().st_mtime_ns]
        plain: dict[str, Any] = json.loads(json.dumps(identity, default=str))
        return plain

    def _asked(self, data: Any) -> Iterable[Sample]:
        """Return the samples of the test, with the windows of long clips instead of the clips."""
        return data.samples("test") if self.windows is None else data.test_samples()  # type: ignore[no-any-return]

    # A pass over a split

    def _start(self, trainer: Trainer, split: str) -> None:
        data = datamodule_of(trainer)
        if self.majority and not self._constant and split != "predict":
            self._constant = majority_answers(data)
        self._scores = {
            name: DatasetScores(name, data.tasks[spec.task], spec, self._constant.get(name))
            for name, spec in data.datasets.items()  # the config's order, the same on every rank
        }
        for scores in self._scores.values():
            scores.candidate_score = self.candidate_score
            scores.choice_is_answer = self.decoding == "likelihood"
        self._clips = LongClips(windowed=split == "test" and self.windows is not None)
        self._seconds, self._answered = -time.perf_counter(), 0
        if not self._writes(trainer) or trainer.sanity_checking:
            self._files = None
            return
        if split != "test" or self._files is None:
            self._files = PredictionFiles(self._folder, split, trainer.global_rank)
        if self._resumed:
            self._files.check(self._identity(trainer))  # now with the checkpoint, which is not known in setup
        if trainer.is_global_zero:
            if split == "test":
                place = set_aside(self._folder, self._identity(trainer), whole=_is_whole(trainer))
                if place is not None:
                    rank_zero_info(f"This folder contains a test with other settings; it is now in {place}")
            self._files.start(self._identity(trainer), fresh=not self._resumed)
        trainer.strategy.barrier("prediction files")
        if split == "test":
            for scores in self._scores.values():
                scores.folder = self._folder
        if split == "test" and trainer.is_global_zero:
            self._score_resumed(data)

    def _score_resumed(self, data: Any) -> None:
        """Score the kept answers from their texts; only one process does this, so that each counts once."""
        samples = {sample.id: sample for sample in self._asked(data)}
        for record in self._resumed:
            if (sample := samples.get(record["id"])) is not None:
                answer = Prediction(
                    sample, record["answer"], record["tokens"], record["truncated"], scores_of(record)
                )
                if not self._clips.take(answer):
                    self._scores[sample.dataset].add(answer)

    def _add(self, outputs: Any, batch: Batch) -> None:
        """Add the answers or losses that a validation or test step returned."""
        if not isinstance(outputs, Mapping):
            return
        if "answers" in outputs:  # of this and earlier batches, without repeated samples
            self._add_answers(outputs["answers"])
        elif "predictions" in outputs:
            self._add_answers([p for p, again in _paired(outputs["predictions"], batch) if not again])
        elif "loss_sum" in outputs:
            losses = outputs["loss_sum"].double().tolist(), outputs["target_tokens"].tolist()
            for (sample, again), loss, count in zip(_paired(batch.samples, batch), *losses, strict=True):
                if not again:
                    self._scores[sample.dataset].add_loss(sample, loss, int(count))

    def _add_answers(self, answers: Sequence[Prediction]) -> None:
        """Score answers and write their records; answers about windows are scored at the end, by clip."""
        parts = [p for p in answers if self._clips.take(p)]
        if parts and self._files is not None:
            self._files.append([window_record(p) for p in parts])
        self._answered += len(parts)
        answers = [p for p in answers if not self._clips.holds(p)]
        for name in dict.fromkeys(p.sample.dataset for p in answers):
            self._scores[name].prepare([p for p in answers if p.sample.dataset == name])
        records = [self._scores[p.sample.dataset].add(p) for p in answers]
        self._answered += len(answers)
        if self._files is not None:
            self._files.append(records)

    def _end(self, trainer: Trainer, split: str) -> None:
        """Add the sums of all processes, compute the metrics, and log, write and print the results."""
        self._seconds += time.perf_counter()
        data = datamodule_of(trainer)
        expected = _ids(data.samples("test")) if split == "test" else {}
        whole = {}
        if self._clips.windowed:
            asked_all = _is_whole(trainer)
            whole = self._clips.stitch(trainer, self._asked(data), self._scores, self._files, asked_all)
        if self._files is not None:
            self._files.close()
            trainer.strategy.barrier("predictions written")
            if trainer.is_global_zero:
                answered = self._files.merge(expected)
                if split == "test" and _is_whole(trainer):
                    for sample in data.samples("test"):
                        if sample.id not in answered.get(sample.dataset, ()):
                            self._scores[sample.dataset].add_missing(whole.get(sample.id, sample))
        self._resumed = []
        total = sum_over_processes(trainer, [*(s.sums() for s in self._scores.values())], self._answered)
        device = trainer.strategy.root_device if needs_device() else None
        self.results = {}
        for (name, scores), sums in zip(self._scores.items(), total[0], strict=True):
            result = scores.result(sums, device)
            if result["counts"]["scored"] or result["counts"]["loss_samples"]:
                self.results[name] = result
        if trainer.sanity_checking:
            return
        self._log(split)
        if trainer.is_global_zero:
            speed = total[1] / self._seconds if self._seconds > 0 else 0.0
            if not getattr(trainer, "fast_dev_run", False):
                self._write(trainer, split, speed)
            if self.print_table and self.results:
                more = (
                    f"All metrics are in {self._folder / METRICS}; `evaluator.print_table: all` prints them."
                )
                everything = self.print_table == "all"
                print_results(self.results, split, speed, everything=everything, more=more)
        trainer.strategy.barrier("results written")  # from now on each process may read metrics.json

    def _log(self, split: str) -> None:
        """Log the values of every dataset on every rank in the same order; all ranks have the same values."""
        self.lower_is_better = set()
        log: Any = self.log  # type: ignore[attr-defined]  # the trainer gives it to callbacks
        heads = []
        for name, result in self.results.items():
            prefix = f"{split}/{result['task']}/{name}"
            worse = [k for k in result["scales"] if not read_scale(result, k).higher_is_better]
            worse += ["unparsed_rate", "truncated_rate", "calibration_error", "loss"]
            self.lower_is_better |= {f"{prefix}/{kind}{key}" for key in worse for kind in ("", "likelihood_")}
            heads += [f"{prefix}/{result['headline']}"] if result["headline"] in result["strict"] else []
            values = {k: v for k, v in result["strict"].items() if isinstance(v, float)}
            values |= {
                k: result[k] for k in ("unparsed_rate", "truncated_rate", "loss") if result[k] is not None
            }
            values |= likelihood_values(result)
            for key, value in values.items():
                log(f"{prefix}/{key}", value, on_step=False, on_epoch=True, batch_size=1, sync_dist=False)
        losses = [r["loss"] for r in self.results.values() if r["loss"] is not None]
        mean_score = mean_headline(self.results)
        # With a single dataset whose metric has no bounded range there is no mean; its metric is watched.
        self.stands_for_mean = heads[0] if mean_score is None and len(heads) == 1 else None
        if self.stands_for_mean is None:
            self._name_left_out()
        means = {HEADLINE: mean_score, LOSS: sum(losses) / len(losses) if losses else None}
        for key, mean in means.items():
            if mean is not None:
                log(f"{split}/{key}", mean, on_step=False, on_epoch=True, batch_size=1, sync_dist=False)

    def _name_left_out(self) -> None:
        """Warn about datasets whose scores are not part of the mean because their metric has no range."""
        for name, result in self.results.items():
            if result["strict"].get(result["headline"]) is not None and headline_share(result) is None:
                rank_zero_warn(
                    f"data.datasets.{name}: its primary metric {result['headline']!r} has no bounded range,"
                    " so the mean over datasets and the choice of the best checkpoint leave it out. To"
                    " include it, state `counts_as` in the Scale of the metric: the values that count as 0"
                    " and as 1"
                )

    def _write(self, trainer: Trainer, split: str, answers_per_s: float) -> None:
        about = {
            "step": trainer.global_step,
            "epoch": trainer.current_epoch,
            "processes": trainer.world_size,
            "whole_split": _is_whole(trainer),
            "answers_per_s": round(answers_per_s, 3),
            "identity": self._identity(trainer),
        }
        write_metrics(self._folder, split, self.results, about)

    # Hooks

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start with empty metrics."""
        self._start(trainer, "val")

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any, **__: Any
    ) -> None:
        """Add the losses or answers of a batch, and write the answers."""
        self._add(outputs, batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log, write and print the results of the validation."""
        self._end(trainer, "val")

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start with empty metrics, or with the answers of an interrupted test."""
        self._start(trainer, "test")

    on_test_batch_end = on_validation_batch_end

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finish the answers that are being written; log, write and print the results of the test."""
        drain = getattr(pl_module, "drain", None)
        if drain is not None:
            self._add_answers(drain())
        self._end(trainer, "test")

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the prediction files."""
        self._start(trainer, "predict")

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any, **__: Any
    ) -> None:
        """Read the answers of a batch and write their records without scores."""
        if self._files is None or not isinstance(outputs, Mapping):
            return
        answers = [p for p, again in _paired(outputs["predictions"], batch) if not again]
        self._files.append([self._scores[p.sample.dataset].unscored(p) for p in answers])

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Merge the prediction files of all processes."""
        if self._files is not None:
            self._files.close()
            trainer.strategy.barrier("predictions written")
            if trainer.is_global_zero:
                self._files.merge({})
                rank_zero_info(f"Answers are in {self._files.folder}")


def _paired(items: Sequence[Any], batch: Batch) -> Iterable[tuple[Any, bool]]:
    """Return each item of a step with True if its sample is only a repetition."""
    if len(items) != len(batch.samples):
        raise ValueError(
            f"the model returned {len(items)} answers for {len(batch.samples)} samples; each needs one answer"
        )
    return zip(items, batch.repeated, strict=True)


def _ids(samples: Iterable[Sample]) -> dict[str, list[str]]:
    ids: dict[str, list[str]] = {}
    for sample in samples:
        ids.setdefault(sample.dataset, []).append(sample.id)
    return ids


def _is_whole(trainer: Trainer) -> bool:
    """Return whether the whole split is evaluated; with a limit, no sample counts as missing."""
    limit = trainer.limit_test_batches if trainer.testing else trainer.limit_val_batches
    return not getattr(trainer, "fast_dev_run", False) and limit == 1.0 and isinstance(limit, float)
