"""The base class of all models with weights: adapters, loss, evaluation steps, optimizer."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from crab_lightning.adapters import (
    AdapterConfig,
    LoRALinear,
    insert_adapters,
    read_adapter_config,
)
from crab_lightning.compat import log_interval, unscale_outside
from crab_lightning.distributed.every_tower import Unread, with_unread
from crab_lightning.distributed.sharding import check_strategy, shard
from crab_lightning.models.checkpoints import clear_when_absent
from crab_lightning.models.log_window import LossWindow, parameter_table
from crab_lightning.models.patches import multiply_patches
from crab_lightning.models.stored import StoredModule
from crab_lightning.models.token_mean import TokenMean, cosine_with_warmup, total_optimizer_steps
from crab_lightning.processing import Processor
from crab_lightning.program import print_table
from crab_lightning.structures import Batch
from crab_lightning.value_types import check_arguments

Dtype = Literal["bfloat16", "float32"]
Attention = Literal["sdpa", "eager", "flash_attention_2"]


class AVModule(StoredModule):
    """An audio-visual language model that is trained on target texts and writes answers.

    A subclass loads the weights, computes the losses of a batch, and reads prompts.

    Args:
        pretrained: Folder or hub name of the base weights.
        adapter: Kind, size and target layers of the adapters; the base model is then frozen. With ``null``,
            the settings come from ``load_adapter``. Without both there are no adapters: ``OmniModule`` then
            trains every weight, and models with connectors train these.
        optimizer: Class of the optimizer; it gets the trainable parameters after the adapters are inserted.
        warmup_share: Fraction of the optimizer steps in which the learning rate rises; then it falls as a
            cosine.
        dtype: Type of the base weights, ``bfloat16`` or ``float32``.
        attention: How attention is computed: ``sdpa``, ``eager`` or ``flash_attention_2``.
        gradient_checkpointing: Recompute the layers of the language model, and of encoders that are trained,
            in the backward pass to save memory.
        load_adapter: Folder of saved adapters, and of connectors trained beside them, to start from.
        max_length: Largest number of tokens in a sample; a longer sample ends the run. No limit when left
            out.
        options: The arguments of ``AskedModule``.

    Shapes: B samples, T text tokens, M mel frames (10 ms each), P image patches. See ``Batch``.

    Raises:
        ValueError: If ``warmup_share`` is not in [0, 1), or an argument has a wrong type.
        TypeError: If ``optimizer`` is no function.
        AdapterError: If the adapters in ``load_adapter`` cannot be read.
    """

    def __init__(
        self,
        pretrained: str,
        *,
        adapter: AdapterConfig | None = None,
        optimizer: OptimizerCallable = lambda params: torch.optim.AdamW(
            params, lr=1e-4, weight_decay=0.0, fused=True
        ),
        warmup_share: float = 0.03,
        dtype: Dtype = "bfloat16",
        attention: Attention = "sdpa",
        gradient_checkpointing: bool = False,
        load_adapter: str | Path | None = None,
        max_length: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_arguments(AVModule.__init__, locals(), "model")
        if not 0 <= warmup_share < 1:
            raise ValueError(f"model.warmup_share is {warmup_share}; it must be a fraction from 0 to below 1")
        self.pretrained = str(pretrained)
        self.dtype_name: Dtype = dtype
        self.attention: Attention = attention
        self.max_length = max_length
        self.load_adapter = None if load_adapter is None else Path(load_adapter)
        self.adapter = adapter
        if adapter is None and self.load_adapter is not None:
            self.adapter = read_adapter_config(self.load_adapter)
        if not callable(optimizer):
            raise TypeError(
                f"model.optimizer is {optimizer!r}; give a function of the parameters, such as "
                "lambda params: torch.optim.AdamW(params, lr=1e-4)"
            )
        self.optimizer_factory = optimizer
        self._optimizer_settings: list[dict[str, Any]] = []
        self.warmup_share = warmup_share
        self.gradient_checkpointing = gradient_checkpointing
        # The checkpoint holds only the trained weights; on_load_checkpoint checks that they are complete.
        self.strict_loading = False
        self._processor: Processor | None = None
        self._adapter_report: Any = None
        self._window = LossWindow()
        self._token_mean = TokenMean()
        self._val_totals = [0.0, 0.0]

    # Methods that a subclass supplies

    @abstractmethod
    def load_base(self) -> nn.Module:
        """Return the base model with its weights and without adapters."""

    @abstractmethod
    def make_processor(self) -> Processor:
        """Return the processor for the checkpoint, without loading weights."""

    @abstractmethod
    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the summed target loss, fp32 ``(B,)``, and the number of target tokens, int64 ``(B,)``.

        Raises:
            ValueError: If the batch has no labels.
        """

    # Construction

    @property
    def base_name(self) -> str:
        """Folder or hub name of the base weights."""
        return self.pretrained

    @property
    def processor(self) -> Processor:
        """The processor of this model; it is made at the first use, without loading weights.

        Raises:
            FileNotFoundError: If the checkpoint does not exist.
        """
        if self._processor is None:
            with clear_when_absent(f"model.pretrained {self.base_name}: no checkpoint"):
                self._processor = self.make_processor()
        return self._processor

    def configure_model(self) -> None:
        """Load the weights, freeze them and insert the adapters; a second call does nothing.

        Raises:
            FileNotFoundError: If the checkpoint does not exist.
            AdapterError: If the adapters in ``load_adapter`` do not fit.
            ValueError: If weights are missing, or the adapters do not fit the model.
        """
        if hasattr(self, "model"):
            return  # Lightning calls this for each of fit, validate, test and predict
        check_strategy(self._trainer)
        with clear_when_absent(f"model.pretrained {self.base_name}: no checkpoint"):
            self.model = self.load_base()
        multiply_patches(self.model)
        if self.adapter is not None:
            self._complete_adapter()
            # Model families have different names for the decoder; ``language_model`` means it in all of them.
            root = self.decoder() if self.adapter.within == "language_model" else None
            self._adapter_report = insert_adapters(self.model, self.adapter, root=root)
            self._announced = self._adapter_report.batch
        self.set_trainable()
        if self.load_adapter is not None:
            self.load_saved(self.load_adapter)
        if self.gradient_checkpointing:
            self._checkpoint_layers()
        shard(self.model, self._trainer, self.fill_shards)
        self.train(self.training)

    def fill_shards(self, part: nn.Module) -> None:
        """Read the weights of a part of the model to which ``load_base`` gave no storage."""

    def _complete_adapter(self) -> None:
        """Fill in the values of the adapters' config that only the run knows, such as its tasks."""
        assert self.adapter is not None
        datamodule: Any = getattr(self._trainer, "datamodule", None)
        saved = None if self.load_adapter is None else read_adapter_config(self.load_adapter)
        self.adapter = self.adapter.completed(saved, None if datamodule is None else list(datamodule.tasks))

    def set_trainable(self) -> None:
        """Freeze further weights that are not trained; ``insert_adapters`` has frozen the base model."""

    @property
    def freezes_base(self) -> bool:
        """Whether the base model is frozen, and so stays in evaluation mode."""
        return self.adapter is not None

    def _checkpoint_layers(self) -> None:
        # Only the language model: nothing is stored for the backward pass of the frozen towers.
        decoder: Any = self.decoder()
        decoder.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    def train(self, mode: bool = True) -> AVModule:
        """Switch the adapters to training; a frozen base stays in evaluation mode, without dropout."""
        super().train(mode)
        if not self.freezes_base or not hasattr(self, "model"):
            return self
        self.model.eval()
        for module in self.model.modules():
            if isinstance(module, LoRALinear):
                module.train(mode)
            elif getattr(module, "gradient_checkpointing", False):
                # transformers recomputes only layers in training mode; the parts of the layer stay frozen
                module.training = mode
        return self

    # Learning

    def configure_optimizers(self) -> Any:
        """Return the optimizer of the trainable parameters, and a schedule with warm-up and cosine.

        Raises:
            ValueError: If no parameter is trainable, the optimizer refuses one of its settings, or the number
                of steps is not known.
        """
        trainable = [p for p in self.parameters() if p.requires_grad]
        if not trainable:
            raise ValueError("no parameter is trainable. Set model.adapter, or unfreeze the base model")
        try:
            optimizer = self.optimizer_factory(trainable)
        except (TypeError, ValueError) as error:
            raise ValueError(f"model.optimizer: the optimizer cannot be made: {error}") from error
        self._optimizer_settings = _settings_of(optimizer)
        unscale_outside(optimizer)
        schedule = cosine_with_warmup(optimizer, total_optimizer_steps(self.trainer), self.warmup_share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_fit_start(self) -> None:
        """Print the trained parameters, after a check that the optimizer has exactly these.

        Raises:
            RuntimeError: If the optimizer's parameters are not exactly the trainable parameters.
        """
        named = {id(p): name for name, p in self.named_parameters() if p.requires_grad}
        held = {id(p) for o in self.trainer.optimizers for group in o.param_groups for p in group["params"]}
        if held != named.keys():
            missing = sorted(named[i] for i in named.keys() - held)
            raise RuntimeError(
                f"the optimizer has {len(held)} parameters, but {len(named)} parameters are trainable: "
                f"{len(missing)} trainable ones are not in the optimizer and would never change (first: "
                f"{missing[:1]}), and {len(held - named.keys())} in the optimizer are frozen. Make the "
                "optimizer after configure_model (LightningCLI: auto_configure_optimizers=False)."
            )
        if self.trainer.is_global_zero:
            adapted = [] if self._adapter_report is None else [self._adapter_report.table()]
            for table in (*adapted, parameter_table(self)):
                print_table(table)
        # Frozen modules are in evaluation mode on purpose; see ``train``.
        warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")
        self.train()  # Lightning leaves a module that was loaded to answer in evaluation mode
        self._window.restart()

    def on_train_start(self) -> None:
        """Refuse to continue a run with other settings of the optimizer, which would have no effect.

        Raises:
            ValueError: If the optimizer of the checkpoint has other settings than ``model.optimizer``.
        """
        kept = _settings_of(self.trainer.optimizers[0])
        for stated, held in zip(self._optimizer_settings, kept, strict=False):
            for name, value in stated.items():
                if (found := held.get(name)) != value:
                    raise ValueError(
                        f"model.optimizer: {name} is {value}, but the run that is continued has {found}, and "
                        f"it keeps its optimizer. Give {found}, or start a new run with `load_adapter`"
                    )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a micro-batch, scaled so that a step minimises the mean over its target tokens.

        See ``TokenMean``.
        """
        batch = self.on_all_towers(batch)
        self.announce(batch)
        loss_sum, tokens = self.losses(batch)
        if any(batch.repeated):  # repeated samples only keep this process in step with the others
            counted = torch.tensor([not again for again in batch.repeated], device=loss_sum.device)
            loss_sum, tokens = loss_sum * counted, tokens * counted
        names = [f"{s.task}/{s.dataset}" for s in batch.samples]
        self._window.add(names, loss_sum, tokens, batch.inputs["attention_mask"])
        if self._announced is not None and (own := self._announced.take_loss()) is not None:
            loss_sum = loss_sum + own * tokens  # so the mean over the target tokens includes it once
        trainer = self._trainer
        processes, accumulate = (1, 1) if trainer is None else (trainer.world_size, self._accumulated())
        return self._token_mean.loss(loss_sum, tokens, processes, accumulate)

    def _accumulated(self) -> int:
        return int(self.trainer.accumulate_grad_batches)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Weight the micro-batches of the step by their target tokens; gradients are clipped afterwards."""
        self._token_mean.correct((p for p in self.parameters() if p.requires_grad), self._accumulated())

    def unread_media(self) -> dict[str, Unread]:
        """Return the smallest input of each kind of media, by the name of the model input."""
        return {}

    def on_all_towers(self, batch: Batch) -> Batch:
        """Return the batch, with a smallest input added for each tower that must run but has no media.

        In distributed runs all processes must run the same towers.
        """
        trainer = self._trainer
        if trainer is None or trainer.world_size == 1:
            return batch
        kinds = self.unread_media()
        present = [name in batch.inputs for name in kinds]
        if self._shards_weights():
            wanted = self._on_any_process(*present)
        else:  # DDP waits for a gradient of every trained weight, but not of frozen weights
            wanted = [batch.labels is not None and self._trains_beyond_decoder] * len(kinds)
        added = [
            kind for kind, own, need in zip(kinds.values(), present, wanted, strict=True) if need and not own
        ]
        return with_unread(batch, added)

    @cached_property
    def _trains_beyond_decoder(self) -> bool:
        inside = {id(p) for p in self.decoder().parameters()}
        return any(p.requires_grad and id(p) not in inside for p in self.parameters())

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the collected losses every ``trainer.log_every_n_steps`` batches, and after the last batch."""
        if len(self._window) >= max(1, log_interval(self.trainer)) or self.trainer.is_last_batch:
            self._log_window()

    def _log_window(self) -> None:
        figures = self._window.drain()
        # The loggers are called directly: self.log takes 0.23 ms a value, and every dataset has a value.
        optimizer = self.trainer.optimizers[0]
        figures["lr"] = float(optimizer.param_groups[0]["lr"])
        for logger in self.loggers:
            logger.log_metrics({f"train/{name}": v for name, v in figures.items()}, step=self.global_step)
        for name in ("loss", "samples_per_s"):
            self.log(f"train/{name}", figures[name], prog_bar=True, logger=False, batch_size=1)

    # Evaluation

    def on_validation_epoch_start(self) -> None:
        """Reset the sums of the validation loss."""
        self._val_totals = [0.0, 0.0]

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Return the losses of a batch with labels, or the answers of a batch of prompts.

        Returns:
            ``{"loss_sum": (B,), "target_tokens": (B,)}`` or ``{"predictions": [...]}``.
        """
        if batch.labels is None:
            return {"predictions": self.generate(self.on_all_towers(batch))}
        batch = self.on_all_towers(batch)
        self.announce(batch)
        loss_sum, tokens = self.losses(batch)
        for loss, count, again in zip(loss_sum.tolist(), tokens.tolist(), batch.repeated, strict=True):
            if not again:
                self._val_totals[0] += loss
                self._val_totals[1] += count
        return {"loss_sum": loss_sum, "target_tokens": tokens}

    def on_validation_epoch_end(self) -> None:
        """Log the mean loss over all target tokens of all processes."""
        totals = torch.tensor(self._val_totals, dtype=torch.float64, device=self.device)
        if self.trainer.world_size > 1:
            gathered: Any = self.all_gather(totals)
            totals = gathered.sum(0)
        if totals[1] > 0:
            self.log("val/loss", (totals[0] / totals[1]).float(), prog_bar=True, batch_size=1)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Return ``{"answers": [...]}`` of this and earlier batches, or ``{"predictions": [...]}``."""
        batch = self.on_all_towers(batch)
        answers = self.stream(batch)
        return {"predictions": self.generate(batch)} if answers is None else {"answers": answers}

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Return ``{"predictions": [...]}``."""
        return {"predictions": self.generate(self.on_all_towers(batch))}


def _settings_of(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Return the numbers that each group of parameters was made with, such as lr and weight_decay."""
    return [
        {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in {**group, "lr": group.get("initial_lr", group["lr"])}.items()
            if name not in ("params", "initial_lr")
            and isinstance(value, int | float | tuple | list)
            and not isinstance(value, bool)
        }
        for group in optimizer.param_groups
    ]
