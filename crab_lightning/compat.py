"""What is private, or has no type, in other libraries and is used here: one function for each use.

Each has a test in ``tests/test_compat.py`` that says which library changed. A new use comes here too.
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
    """Return a trainer's data module; Lightning adds this public attribute where no type checker sees it."""
    return trainer.datamodule  # type: ignore[attr-defined]


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """Return a trainer's callbacks; as :func:`datamodule_of`."""
    found: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return found


def log_interval(trainer: Trainer) -> int:
    """Return ``trainer.log_every_n_steps``; as :func:`datamodule_of`."""
    return int(trainer.log_every_n_steps)  # type: ignore[attr-defined]


def set_log_interval(trainer: Trainer, steps: int) -> None:
    """Set ``trainer.log_every_n_steps``; as :func:`datamodule_of`."""
    trainer.log_every_n_steps = steps  # type: ignore[attr-defined]


def renew_limits(trainer: Any) -> None:
    """Let the epoch that begins be as long as its loader says.

    Lightning asks for the length once, before a checkpoint's position is loaded, and ends every epoch there:
    a run resumed on more processes would stop before the epoch it was killed in is over, and one with a
    budget of tokens would drop the last batches of every epoch that is longer than its first.

    Args:
        trainer: A trainer at the start of an epoch, its loaders made.
    """
    loop = trainer.fit_loop
    combined, fetcher = loop._combined_loader, loop._data_fetcher
    if combined is None or fetcher is None or combined.limits is None:
        return
    limit = trainer.limit_train_batches
    lengths = [len(loader) for loader in combined.flattened]
    # In place: the iterator that may have been made already holds the same list.
    combined.limits[:] = [min(n, limit) if isinstance(limit, int) else int(n * limit) for n in lengths]
    if fetcher.length is not None:
        fetcher.length = len(combined)
        fetcher.done = fetcher.fetched >= fetcher.length
    loop.max_batches = len(combined)
    if isinstance(trainer.val_check_interval, float) and trainer.val_check_batch is not None:
        trainer.val_check_batch = max(1, int(loop.max_batches * trainer.val_check_interval))


def before_launcher_kills(say: Callable[[], None]) -> None:
    """Have something said before Lightning's launcher kills a run of which another process has died.

    Under ``devices: 2`` a thread of the first process looks after the others every 5 s, and kills the first
    one with SIGKILL, which nothing can catch (Lightning 2.6). Nothing happens under other launchers.
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

    A fused optimizer of torch says that it divides gradients by the scale itself, and Lightning then refuses
    to clip them, also with ``bf16-mixed``, which has no scale. Without this mark torch's scaler divides them
    before the step (torch 2.11 to 2.14, Lightning 2.6).
    """
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]


def recomputing() -> bool:
    """Tell whether this forward runs inside backward, as gradient checkpointing runs it again.

    torch has no public question for it (2.11 to 2.14).
    """
    return bool(torch._C._current_graph_task_id() != -1)


def softmax_backward(grad: Tensor, output: Tensor, dim: int) -> Tensor:
    """Return the gradient of a softmax's input from that of its output, in the output's type.

    The kernel that autograd itself calls; written out in tensors it is three passes.
    """
    found: Tensor = torch._softmax_backward_data(grad, output, dim, output.dtype)
    return found


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return ``x Wᵀ + b``, without a gradient.

    On an AMD EPYC, oneDNN computes float32 products of more than a few rows in 0.84 to 0.87 times the time of
    MKL, which torch takes; of 16 rows it takes longer.
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
    """Return a transformers model of a config with random weights; only Auto classes have it public."""
    make = kind.from_config if hasattr(kind, "from_config") else kind._from_config
    return make(config, **options)


@contextmanager
def without_bars() -> Iterator[None]:
    """Let transformers draw no progress bar of tensors or files; bars of downloads stay."""
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
    """Let jsonargparse take ``null`` for a key of a class inside a class; a second call does nothing.

    It writes such a value as Python does, ``None``, before the inner parser reads it as YAML, where that is a
    text (4.53).
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
    """Let a setting that takes a whole number or a fraction read ``1`` as a whole number: one batch, not all.

    For ``Optional[Union[int, float]]``, which Lightning's Trainer has, ``typing`` returns an equal type that
    was asked for earlier: with torch 2.11 that is ``Optional[Union[float, int]]``. jsonargparse (4.53) takes
    the first type that fits, here 1.0.

    Args:
        parser: The parser whose settings are changed.
    """
    for action in parser._actions:
        kinds = get_args(getattr(action, "_typehint", None))
        if {int, float} <= {*kinds}:
            action._typehint = Union[tuple(sorted(kinds, key=lambda kind: kind is not int))]  # noqa: UP007


def inherit_names_of_weights(kind: Any) -> None:
    """Let a class derived from one of transformers read the weights under the names that its parent reads.

    transformers renames the weights of many checkpoints, and looks for the rules under the class's own name
    and model type alone, so that every weight of a derived class would be missing.

    Args:
        kind: The class; nothing is changed if it has rules, or is one of transformers.
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
    """Return a transformers model and what its checkpoint lacked.

    With ``output_loading_info`` the return type is a pair, which transformers does not declare.
    """
    model, info = load_model(kind, name, output_loading_info=True, **options)
    return model, info


def save_model(model: Any, folder: str | Path, **options: Any) -> None:
    """Write a transformers model as a checkpoint folder, without a progress bar."""
    with without_bars():
        model.save_pretrained(folder, **options)


def cache_argument(model: nn.Module) -> str:
    """Return the name under which a transformers model takes the keys and values of past tokens.

    It is ``cache`` in transformers 5.24, which warns at every call about the earlier ``past_key_values``, the
    only name in 5.17.

    Args:
        model: A language model; it may be wrapped, as by FSDP1 or ``torch.compile``.

    Raises:
        TypeError: If neither the model nor a part of it takes past tokens.
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
    """Return in what a layer's experts differ from those of Qwen3; nothing where they are laid out alike.

    Where transformers says so is not public (5.17 to 5.24); ``has_post_expert_norm`` is newer than 5.17.
    """
    if not hasattr(experts, "_apply_gate"):
        return ["they are not those of transformers"]
    found = {key: getattr(experts, key, None) for key in _LAYOUT}
    found["has_post_expert_norm"] = getattr(experts, "has_post_expert_norm", False)
    wanted = _LAYOUT | {"has_post_expert_norm": False}
    return [f"{key} is {value}" for key, value in found.items() if value != wanted[key]]


def apply_gate(experts: nn.Module, gate_up: Tensor) -> Tensor:
    """Return ``act(gate) * up`` of the experts of transformers: ``(S, 2f)`` to ``(S, f)``."""
    inside: Any = experts
    gated: Tensor = inside._apply_gate(gate_up)
    return gated


def qwen3_routers(decoder: nn.Module) -> tuple[list[nn.Module], Any]:
    """Return the routers of Qwen3-Omni's experts, and transformers' load-balancing loss of their logits.

    Neither is public (transformers 5.17 to 5.24). A router returns its logits ``(tokens, experts)`` first.
    """
    from transformers.models.qwen3_omni_moe import modeling_qwen3_omni_moe as theirs

    kind = theirs.Qwen3OmniMoeThinkerTextTopKRouter
    return [m for m in decoder.modules() if isinstance(m, kind)], theirs.load_balancing_loss_func


def tell_device(module: nn.Module, device: torch.device) -> None:
    """Let a LightningModule know its device where it was not moved by ``to``.

    Needed under FSDP1, which moves the weights itself (Lightning 2.6).
    """
    from lightning.fabric.utilities.device_dtype_mixin import _update_properties

    _update_properties(module, device=device)


def clean_masks_here() -> None:
    """Let the video model of SAM3 drop double finds, small holes and sprinkles with the functions below.

    transformers runs compiled code for it that the package kernels downloads, and leaves all of it out,
    with a warning, where that package is absent.
    """
    from transformers.models.sam3_video import modeling_sam3_video

    modeling_sam3_video.cv_utils_kernel = _MaskCleaning  # type: ignore[assignment]


class _MaskCleaning:
    """The two functions of ``kernels-community/cv-utils`` that are called."""

    @staticmethod
    def generic_nms(ious: Tensor, scores: Tensor, iou_threshold: float, use_iou_matrix: bool) -> Tensor:
        """Return the numbers of the masks kept, best first; ``ious`` are those of all pairs, ``(N, N)``."""
        doubles = (ious > iou_threshold).tolist()
        kept: list[int] = []
        for number in scores.argsort(descending=True).tolist():
            if not any(doubles[number][other] for other in kept):
                kept.append(number)
        return torch.tensor(kept, device=scores.device)

    @staticmethod
    def cc_2d(masks: Tensor, get_counts: bool) -> tuple[Tensor, Tensor]:
        """Return the connected parts of ``(N, 1, H, W)``, and of each pixel how large its part is."""
        import numpy as np
        from scipy.ndimage import label

        joined = np.ones((3, 3))  # corners touch
        parts = np.stack([label(mask, joined)[0] for mask in masks[:, 0].cpu().numpy()])
        sizes = np.stack([np.bincount(part.ravel())[part] for part in parts])
        found = (torch.from_numpy(array)[:, None].to(masks.device, torch.int32) for array in (parts, sizes))
        return next(found), next(found)
