"""What the value of a metric means: its range, its direction, its unit, and what it counts in a mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

PERCENT = "%"


@dataclass(frozen=True)
class Scale:
    """How a metric's value is read, printed, compared and averaged.

    The default is that of most benchmarks: a fraction in [0, 1], printed in percent, higher is better.

    Args:
        higher_is_better: Direction.
        low: Smallest possible value; ``None`` where there is none.
        high: Largest possible value; ``None`` where there is none.
        unit: ``%`` multiplies by 100 when printed; any other unit (``s``, ``m``, empty) is printed unscaled.
        counts_as: Values that count as 0 and as 1 in the mean over datasets; what lies beyond them is
            clipped. Left out: the ends of the range. A metric without a bounded range that does not state
            them is no part of that mean.
    """

    higher_is_better: bool = True
    low: float | None = 0.0
    high: float | None = 1.0
    unit: str = PERCENT
    counts_as: tuple[float, float] | None = None

    def share(self, value: float | None) -> float | None:
        """Return a value converted to [0, 1] where 1 is best, clipped; ``None`` where none is defined."""
        ends = self.counts_as
        if ends is None and self.low is not None and self.high is not None:
            ends = (self.low, self.high) if self.higher_is_better else (self.high, self.low)
        if value is None or ends is None:
            return None
        worst, best = ends
        return min(max((value - worst) / (best - worst), 0.0), 1.0)

    def text(self, value: float | None) -> str:
        """Return a value as it is printed, with two decimals; a dash for none."""
        return "–" if value is None else f"{self._printed(value):.2f}"

    def signed(self, difference: float) -> str:
        """Return a difference of values as it is printed."""
        text = f"{self._printed(difference):+.2f}"
        return "0.00" if text in ("+0.00", "-0.00") else text.replace("-", "−")

    def label(self, name: str) -> str:
        """Return a metric's name with what a reader has to know beside it."""
        notes = [self.unit] if self.unit not in (PERCENT, "") else []
        notes += [] if self.higher_is_better else ["lower is better"]
        return f"{name} ({', '.join(notes)})" if notes else name

    def _printed(self, value: float) -> float:
        return 100 * value if self.unit == PERCENT else value


COUNT = Scale(high=None, unit="")
"""A number of things; neither direction is meant."""


def scale_of(metric: Any, key: str) -> Scale:
    """Return the scale of one value of a metric.

    A metric of this package says it in ``scale`` and, where the values of its dictionary differ, in
    ``scales`` by the end of their key. Lower is better if its ``higher_is_better`` or its ``scale`` says so.
    Of another torchmetrics metric ``higher_is_better`` and the plot bounds are read; it is printed in percent
    if these are 0 and 1.

    Args:
        metric: The metric.
        key: Key of its value.
    """
    declared: Mapping[str, Scale] = getattr(metric, "scales", {})
    for end, scale in declared.items():
        if key == end or key.endswith(f"_{end}"):
            return scale
    higher = metric.higher_is_better is not False
    own: Scale | None = getattr(metric, "scale", None)
    if own is None:
        low, high = metric.plot_lower_bound, metric.plot_upper_bound
        own = Scale(low=low, high=high, unit=PERCENT if (low, high) == (0.0, 1.0) else "")
    return replace(own, higher_is_better=higher and own.higher_is_better)


def entry_scales(metrics: Any) -> dict[str, dict[str, Any]]:
    """Return the scales of a computed collection's values, those that are not :class:`Scale`'s default.

    Args:
        metrics: A ``MetricCollection`` whose ``compute`` has been called.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, metric in metrics.items(keep_base=True, copy_state=False):
        values = metric.compute()  # kept by the metric since the collection was computed
        for key in values if isinstance(values, Mapping) else [name]:
            if (scale := scale_of(metric, key)) != Scale():
                found[key] = asdict(scale)
    return found


def units_said(units: Iterable[str]) -> str:
    """Return the words with which the title of a table says in what its numbers are."""
    return "in percent" if set(units) <= {PERCENT} else "in percent or in the unit named"


def read_scale(entry: Mapping[str, Any], key: str | None) -> Scale:
    """Return the scale of a metric in a dataset's entry of ``metrics.json``."""
    stored = (entry.get("scales") or {}).get(key)
    if stored is None:
        return Scale()
    ends = stored.get("counts_as")
    return Scale(**{**stored, "counts_as": None if ends is None else (ends[0], ends[1])})
