"""The base class of the metrics: exact sums, list states with a type, and NaN without samples."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from crab_lightning.metrics.scale import Scale

_UNIT = 2.0**-40
_LARGEST = 2.0**14
_FULL = 2**62
"""Limit of a sum: half of the range of int64. One update of 256 largest scores cannot exceed the range."""


def to_units(values: Tensor) -> Tensor:
    """Return per-sample scores as int64 multiples of 2^-40.

    The sum of floating-point numbers depends on their order, and so on the batch size and the number of
    processes. The sum of whole numbers does not. The rounding changes a mean by less than 5e-13, and a sum
    can hold more than four million samples with the score 1.

    Args:
        values: Scores of any shape, finite.

    Returns:
        int64 of the same shape.

    Raises:
        ValueError: If a score is not finite, or so large that a few of them leave the range of int64.
    """
    if not bool((values.abs() <= _LARGEST).all()):
        worst = values.flatten()[values.flatten().abs().nan_to_num(math.inf).argmax()].item()
        raise ValueError(
            f"a metric adds the score {worst:g}, which is not finite or above {_LARGEST:g}. Decide what such"
            " an answer scores, or choose a larger unit"
        )
    return torch.round(values.to(torch.float64) / _UNIT).to(torch.int64)


def mean_of(units: Tensor, count: Tensor) -> Tensor:
    """Return the mean of scores that were summed as units; NaN if ``count`` is 0.

    Args:
        units: int64 sum of results of :func:`to_units`.
        count: int64 number of summed scores, broadcast against ``units``.

    Returns:
        float64.
    """
    return units.to(torch.float64) * _UNIT / count


class BenchmarkMetric(Metric):
    """The base class of the metrics, with states that are summed or joined over processes.

    Without samples, ``compute`` returns NaN for every value. An error would end a run because of one empty
    dataset, and 0 would mean that all answers are wrong.

    Scores are fractions in float64, unless ``scale`` (or ``scales``, by key) says otherwise; only printed
    scores are in percent. ``higher_is_better`` is the direction.
    """

    scale: ClassVar[Scale] = Scale()
    scales: ClassVar[Mapping[str, Scale]] = {}

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self._typed_lists: dict[str, torch.dtype] = {}
        self._sums: list[str] = []

    def add_sum(self, name: str, *shape: int) -> None:
        """Add an int64 state of this shape, which is summed over processes."""
        self.add_state(name, torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")
        self._sums.append(name)

    def add_list(self, name: str, dtype: torch.dtype) -> None:
        """Add a list of one-dimensional tensors, which is joined over processes and grows with the data."""
        self.add_state(name, [], dist_reduce_fx="cat")
        self._typed_lists[name] = dtype

    def append(self, name: str, values: Tensor) -> None:
        """Add one-dimensional values to a list state."""
        state: list[Tensor] = getattr(self, name)
        state.append(values.to(self.device, self._typed_lists[name]))

    def joined(self, name: str) -> Tensor:
        """Return a list state as one tensor, before or after synchronisation."""
        state: Tensor | list[Tensor] = getattr(self, name)
        if isinstance(state, Tensor):
            return state
        return torch.cat([torch.zeros(0, dtype=self._typed_lists[name], device=self.device), *state])

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Synchronise the states; a process without samples sends an empty tensor of the right type.

        torchmetrics would send an empty float32 tensor, which cannot be gathered with tensors of other types.
        """
        for name, dtype in self._typed_lists.items():
            if isinstance(state := getattr(self, name), list) and not state:
                setattr(self, name, [torch.zeros(0, dtype=dtype, device=self.device)])
        super().sync(*args, **kwargs)

    def _wrap_update(self, update: Callable[..., None]) -> Callable[..., None]:
        # A sum that leaves the range of int64 would get a wrong value without an error.
        wrapped: Callable[..., None] = super()._wrap_update(update)

        @wraps(wrapped)
        def checked(*args: Any, **kwargs: Any) -> None:
            wrapped(*args, **kwargs)
            for name in self._sums:
                state: Tensor = getattr(self, name)
                if bool(((state > _FULL) | (state < -_FULL)).any()):
                    raise ValueError(
                        f"{type(self).__name__}.{name} has become too large to be summed exactly. Choose a"
                        " larger unit for its scores"
                    )

        return checked

    def _wrap_compute(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        # The warning on compute before update is hidden, because a process may have none of the samples.
        wrapped: Callable[..., Any] = super()._wrap_compute(compute)

        def quiet(*args: Any, **kwargs: Any) -> Any:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="The ``compute`` method of metric")
                return wrapped(*args, **kwargs)

        return quiet
