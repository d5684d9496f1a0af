"""All uses of private or untyped parts of other libraries, with one function for each use.

Each function has a test in ``tests/test_compat.py``, which names the library that has changed. New uses
belong here too.
"""

from __future__ import annotations

import inspect
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union, get_args

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from lightning.pytorch import Callback, Trainer
    from torch import Tensor, nn
    from torch.optim import Optimizer


def datamodule_of(trainer: Trainer) -> Any:
    """Return the data module of a trainer. Lightning sets this public attribute without a type."""
    return trainer.datamodule  # type: ignore[attr-defined]


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """Return the callbacks of a trainer, another public attribute without a type."""
    found: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return found


def log_interval(trainer: Trainer) -> int:
    """Return ``trainer.log_every_n_steps``, another public attribute without a type."""
    return int(trainer.log_every_n_steps)  # type: ignore[attr-defined]


def set_log_interval(trainer: Trainer, steps: int) -> None:
    """Set ``trainer.log_every_n_steps``, another public attribute without a type."""
    trainer.log_every_n_steps = steps  # type: ignore[attr-defined]


def renew_limits(trainer: Any) -> None:
    """Set the length of the epoch that begins to the length of its loader.

    Lightning asks for the length once, before it loads the position of a checkpoint, and ends every epoch
    there. A run that is resumed on more processes would stop before the end of the interrupted epoch. A run
    with a budget of tokens would drop the last batches of every epoch that is longer than the first one.

    Args:
        trainer: A trainer at the start of an epoch. Its loaders exist.
    """
    loop = trainer.fit_loop
    combined, fetcher = loop._combined_loader, loop._data_fetcher
    if combined is None or fetcher is None or combined.limits is None:
        return
    limit = trainer.limit_train_batches
    lengths = [len(loader) for loader in combined.flattened]
    # The list is changed in place, because an iterator that exists already has the same list.
    combined.limits[:] = [min(n, limit) if isinstance(limit, int) else int(n * limit) for n in lengths]
    if fetcher.length is not None:
        fetcher.length = len(combined)
        fetcher.done = fetcher.fetched >= fetcher.length
    loop.max_batches = len(combined)
    if isinstance(trainer.val_check_interval, float) and trainer.val_check_batch is not None:
        trainer.val_check_batch = max(1, int(loop.max_batches * trainer.val_check_interval))


def resume_by_epochs(trainer: Trainer) -> None:
    """Let a run with ``max_steps`` resume as a run without it does.

    If ``max_steps`` is set, Lightning takes every resumed run for one that stopped within an epoch (2.6). A
    run whose checkpoint was written at the end of an epoch then skips the next epoch.
    """
    loop: Any = trainer.fit_loop
    assert callable(loop._iteration_based_training)  # Lightning asks it only when it resumes a run
    loop._iteration_based_training = lambda: False


def before_launcher_kills(say: Callable[[], None]) -> None:
    """Call a function before Lightning's launcher kills a run in which another process has died.

    With ``devices: 2``, a thread of the first process checks the others every 5 s. If one has died, it kills
    the first process with SIGKILL, which cannot be caught (Lightning 2.6). Other launchers have no such
    thread; nothing happens with them.
    """
    for thread in threading.enumerate():
        if type(thread).__name__ == "_ChildProcessObserver":
            observer: Any = thread
            observer._terminate_all = partial(_say_first, say, observer._terminate_all)


def _say_first(say: Callable[[], None], kill: Callable[[], None]) -> None:
    say()
    kill()


def unscale_outside(optimizer: Optimizer) -> None:
    """Let gradients be clipped under mixed precision with a fused optimizer.

    A fused optimizer of torch is marked as dividing the gradients by the scale itself. Lightning then refuses
    to clip them, even with ``bf16-mixed``, which has no scale. Without this mark, the scaler of torch divides
    the gradients before the step (torch 2.11 to 2.14, Lightning 2.6).
    """
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]


def recomputing() -> bool:
    """Return whether this forward pass runs inside a backward pass, as gradient checkpointing repeats it.

    torch has no public function for this (2.11 to 2.14).
    """
    return bool(torch._C._current_graph_task_id() != -1)


def softmax_backward(grad: Tensor, output: Tensor, dim: int) -> Tensor:
    """Return the gradient of the input of a softmax from that of its output, in the type of the output.

    This is the kernel that autograd calls. The same in tensor operations takes three passes over the memory.
    """
    found: Tensor = torch._softmax_backward_data(grad, output, dim, output.dtype)
    return found


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return ``x Wᵀ + b``, without a gradient.

    torch uses MKL for float32 products. On an AMD EPYC, oneDNN needs 0.84 to 0.87 times the time of MKL for
    many rows, and more time than MKL for 16 rows.
    """
    many = x.numel() >= _ONEDNN_ROWS * x.shape[-1]
    if many and x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu" and _has_onednn():
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return out
    return F.linear(x, weight, bias)


_ONEDNN_ROWS = 256


@cache
def _has_onednn() -> bool:
    there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return there and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def from_config(kind: Any, config: Any, **options: Any) -> Any:
    """Return a transformers model of a config with random weights. Only Auto classes have a public method."""
    make = kind.from_config if hasattr(kind, "from_config") else kind._from_config
    return make(config, **options)


@contextmanager
def without_bars() -> Iterator[None]:
    """Hide the progress bars of transformers for tensors and files. Progress bars of downloads stay."""
    from transformers.utils import logging

    previous = logging.set_tqdm_hook(lambda _, args, options: logging.EmptyTqdm(*args, **options))
    try:
        yield
    finally:
        logging.set_tqdm_hook(previous)


def load_model(kind: Any, name: str | Path, **options: Any) -> Any:
    """Return a transformers model of a checkpoint, loaded without a progress bar."""
    inherit_names_of_weights(kind)
    with without_bars():
        return kind.from_pretrained(name, **options)


def keep_nulls() -> None:
    """Make jsonargparse accept ``null`` for a key of a class inside a class. A second call does nothing.

    jsonargparse writes such a value in Python's form ``None``, and its inner parser then reads this as the
    text ``None`` of YAML (4.53).
    """
    from jsonargparse import _typehints, _util

    adapt: Any = _typehints.adapt_class_type
    if hasattr(adapt, "__wrapped__"):
        return

    @wraps(adapt)
    def with_nulls(value: Any, *args: Any, **options: Any) -> Any:
        inner = value.get("init_args") if hasattr(value, "get") else None
        if isinstance(inner, _util.NestedArg) and isinstance(inner.val, dict | list | None):
            value["init_args"] = inner._replace(val=json.dumps(inner.val, default=str))
        return adapt(value, *args, **options)

    _typehints.adapt_class_type = with_nulls


def whole_numbers_first(parser: Any) -> None:
    """Make settings that take a whole number or a fraction read ``1`` as a whole number: one batch, not all.

    Lightning's Trainer annotates them with ``Optional[Union[int, float]]``. For this type, ``typing`` returns
    an equal type that was made earlier, which is ``Optional[Union[float, int]]`` with torch 2.11. The first
    type that fits is taken by jsonargparse (4.53), so it would read 1.0.

    Args:
        parser: The parser whose settings are changed.
    """
    for action in parser._actions:
        kinds = get_args(getattr(action, "_typehint", None))
        if {int, float} <= {*kinds}:
            action._typehint = Union[tuple(sorted(kinds, key=lambda kind: kind is not int))]  # noqa: UP007


def inherit_names_of_weights(kind: Any) -> None:
    """Make a class that is derived from one of transformers read weights under the same names as its parent.

    transformers renames the weights of many checkpoints. It looks for the rules only under the name and the
    model type of the class itself, so that all weights of a derived class would be missing.

    Args:
        kind: The class. Nothing is changed if it has rules already or belongs to transformers.
    """
    from transformers import conversion_mapping as rules

    if kind.__module__.startswith("transformers."):
        return
    for parent in kind.__mro__:
        config = getattr(parent, "config_class", None)
        for name in (parent.__name__, getattr(config, "model_type", None)):
            found = rules.get_checkpoint_conversion_mapping(name)
            if found is not None:
                if name != kind.__name__:
                    rules.register_checkpoint_conversion_mapping(kind.__name__, found)
                return


def load_with_info(kind: Any, name: str, **options: Any) -> tuple[Any, dict[str, Any]]:
    """Return a transformers model, and the report about missing and unexpected weights of its checkpoint.

    With ``output_loading_info`` the function returns a pair, which transformers does not declare.
    """
    model, info = load_model(kind, name, output_loading_info=True, **options)
    return model, info


def save_model(model: Any, folder: str | Path, **options: Any) -> None:
    """Write a transformers model as a checkpoint folder, without a progress bar."""
    with without_bars():
        model.save_pretrained(folder, **options)


def cache_argument(model: nn.Module) -> str:
    """Return the name of the argument with the keys and values of past tokens of a transformers model.

    It is ``past_key_values`` in transformers 5.17, and ``cache`` in 5.24, which warns at every call with the
    earlier name.

    Args:
        model: A language model. It may be wrapped, for example by FSDP1 or ``torch.compile``.

    Raises:
        TypeError: If neither the model nor a part of it has such an argument.
    """
    for module in model.modules():
        if name := _cache_name(type(module).forward):
            return name
    raise TypeError(f"{type(model).__name__}.forward takes neither cache nor past_key_values")


@cache
def _cache_name(forward: Any) -> str | None:
    accepted = inspect.signature(forward).parameters
    return next((name for name in ("cache", "past_key_values") if name in accepted), None)


_LAYOUT = {"has_gate": True, "is_concatenated": True, "is_transposed": False, "has_bias": False}


def other_layout(experts: nn.Module) -> list[str]:
    """Return the differences between the experts of a layer and those of Qwen3, or an empty list.

    The attributes of transformers that tell this are not public (5.17 to 5.24). ``has_post_expert_norm`` is
    newer than 5.17.
    """
    if not hasattr(experts, "_apply_gate"):
        return ["they are not those of transformers"]
    found = {key: getattr(experts, key, None) for key in _LAYOUT}
    found["has_post_expert_norm"] = getattr(experts, "has_post_expert_norm", False)
    wanted = _LAYOUT | {"has_post_expert_norm": False}
    return [f"{key} is {value}" for key, value in found.items() if value != wanted[key]]


def apply_gate(experts: nn.Module, gate_up: Tensor) -> Tensor:
    """Return ``act(gate) * up`` of the experts of transformers, ``(S, f)`` from ``(S, 2f)``."""
    inside: Any = experts
    gated: Tensor = inside._apply_gate(gate_up)
    return gated


def qwen3_routers(decoder: nn.Module) -> tuple[list[nn.Module], Any]:
    """Return the routers of Qwen3-Omni's experts, and transformers' load-balancing loss of their logits.

    Neither is public (transformers 5.17 to 5.24). The first result of a router is its logits
    ``(tokens, experts)``.
    """
    from transformers.models.qwen3_omni_moe import modeling_qwen3_omni_moe as theirs

    kind = theirs.Qwen3OmniMoeThinkerTextTopKRouter
    return [m for m in decoder.modules() if isinstance(m, kind)], theirs.load_balancing_loss_func


def tell_device(module: nn.Module, device: torch.device) -> None:
    """Set the attribute ``device`` of a LightningModule that was not moved by ``to``.

    FSDP1 needs this, because it moves the weights itself (Lightning 2.6).
    """
    from lightning.fabric.utilities.device_dtype_mixin import _update_properties

    _update_properties(module, device=device)


def clean_masks_here() -> None:
    """Make the video model of SAM3 remove duplicates, small holes and small spots with the functions below.

    transformers uses compiled code for this, which the package ``kernels`` downloads. Without the package it
    warns and removes nothing.
    """
    from transformers.models.sam3_video import modeling_sam3_video

    modeling_sam3_video.cv_utils_kernel = _MaskCleaning  # type: ignore[assignment]


class _MaskCleaning:
    """The two functions of ``kernels-community/cv-utils`` that transformers calls."""

    @staticmethod
    def generic_nms(ious: Tensor, scores: Tensor, iou_threshold: float, use_iou_matrix: bool) -> Tensor:
        """Return the indices of the masks that are kept, best first; ``ious`` of all pairs are ``(N, N)``."""
        doubles = (ious > iou_threshold).tolist()
        kept: list[int] = []
        for number in scores.argsort(descending=True).tolist():
            if not any(doubles[number][other] for other in kept):
                kept.append(number)
        return torch.tensor(kept, device=scores.device)

    @staticmethod
    def cc_2d(masks: Tensor, get_counts: bool) -> tuple[Tensor, Tensor]:
        """Return, for masks ``(N, 1, H, W)``, the number of each pixel's connected part, and its size."""
        import numpy as np
        from scipy.ndimage import label

        joined = np.ones((3, 3))  # corners touch
        parts = np.stack([label(mask, joined)[0] for mask in masks[:, 0].cpu().numpy()])
        sizes = np.stack([np.bincount(part.ravel())[part] for part in parts])
        found = (torch.from_numpy(array)[:, None].to(masks.device, torch.int32) for array in (parts, sizes))
        return next(found), next(found)
