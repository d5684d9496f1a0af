"""The scale of a metric: its range, direction and unit, and its value in a mean over datasets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

_ROUNDING = 1e-5
PERCENT = "%"


@dataclass(frozen=True)
class Scale:
    """The way in which the value of a metric is printed, compared and averaged.

    The default fits most benchmarks: a fraction in [0, 1], printed in percent, higher is better.

    Args:
        higher_is_better: Whether a higher value is better.
        low: Smallest possible value; ``None`` if there is none.
        high: Largest possible value; ``None`` if there is none.
        unit: With ``%``, values are multiplied by 100 when printed. With any other unit (``s``, ``m``, empty)
            they are printed unchanged.
        counts_as: The values that count as 0 and as 1 in the mean over datasets; values beyond them also
            count as 0 or 1. When left out, these are the ends of the range. A metric without a bounded range
            and without ``counts_as`` is not part of the mean.

    Raises:
        TypeError: If ``unit`` is no text.
        ValueError: If ``low`` is not below ``high``, or ``counts_as`` is not two different numbers, of which
            the second is the better one.
    """

    higher_is_better: bool = True
    low: float | None = 0.0
    high: float | None = 1.0
    unit: str = PERCENT
    counts_as: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.unit, str):
            raise TypeError(f"the unit of a Scale is {self.unit!r}; give a text, such as 's', or '' for none")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(
                f"low of a Scale is {self.low!r} and high is {self.high!r}; low must be below high. State in"
                " higher_is_better which end is the better one"
            )
        if self.counts_as is None:
            return
        if len(self.counts_as) != 2 or self.counts_as[0] == self.counts_as[1]:
            raise ValueError(
                f"counts_as of a Scale is {self.counts_as!r}; give two different numbers, the value that"
                " counts as 0 and the value that counts as 1"
            )
        worst, best = self.counts_as
        if (best > worst) is not self.higher_is_better:
            direction = "higher" if self.higher_is_better else "lower"
            raise ValueError(
                f"counts_as of a Scale is {self.counts_as!r}, but {direction} is better; give the value that"
                f" counts as 0 first and the better one that counts as 1 second: {(best, worst)!r}"
            )

    def share(self, value: float | None) -> float | None:
        """Return a value converted to [0, 1], where 1 is best; ``None`` if this is not defined."""
        ends = self.counts_as
        if ends is None and self.low is not None and self.high is not None:
            ends = (self.low, self.high) if self.higher_is_better else (self.high, self.low)
        if value is None or ends is None:
            return None
        worst, best = ends
        return min(max((value - worst) / (best - worst), 0.0), 1.0)

    def text(self, value: float | None) -> str:
        """Return a value as text with two decimals; a dash for ``None``."""
        return "–" if value is None else f"{self._printed(value):.2f}"

    def signed(self, difference: float) -> str:
        """Return a difference of two values as text with a sign and two decimals."""
        text = f"{self._printed(difference):+.2f}"
        return "0.00" if text in ("+0.00", "-0.00") else text.replace("-", "−")

    def label(self, name: str) -> str:
        """Return the name of a metric with its unit, if it is no fraction in percent, and its direction."""
        notes = [self.unit] if self.unit not in (PERCENT, "") else []
        notes += ["times 100"] if self.unit == PERCENT and self.high != 1 else []
        notes += [] if self.higher_is_better else ["lower is better"]
        return f"{name} ({', '.join(notes)})" if notes else name

    def _printed(self, value: float) -> float:
        return 100 * value if self.unit == PERCENT else value


COUNT = Scale(high=None, unit="")
"""Scale of a count, for which neither direction is better."""


def scale_of(metric: Any, key: str) -> Scale:
    """Return the scale of one value of a metric.

    A metric of this package has the attribute ``scale``, and ``scales`` for keys with other scales (the end
    of the key is compared). Lower is better if ``higher_is_better`` is False or ``scale`` says so. For other
    metrics of torchmetrics the scale is made from ``higher_is_better`` and the plot bounds; it is in percent
    if the bounds are 0 and 1.

    Args:
        metric: The metric.
        key: Key of the value.
    """
    if (declared := _declared(metric, key)) is not None:
        return declared
    higher = metric.higher_is_better is not False
    own: Scale | None = getattr(metric, "scale", None)
    if own is None:
        low, high = metric.plot_lower_bound, metric.plot_upper_bound
        own = Scale(low=low, high=high, unit=PERCENT if (low, high) == (0.0, 1.0) else "")
    try:
        return replace(own, higher_is_better=higher and own.higher_is_better)
    except ValueError as err:
        raise ValueError(f"{type(metric).__name__}: {err}") from None


def check_scales(metrics: Any) -> None:
    """Check the scales that the metrics of a collection state, before the first answer.

    Raises:
        TypeError: If one of them is no :class:`Scale`.
        ValueError: If the direction of a metric is against its ``counts_as``.
    """
    for name, metric in metrics.items(keep_base=True, copy_state=False):
        stated = getattr(metric, "scales", {})
        if not isinstance(stated, Mapping):
            raise TypeError(
                f"scales of {type(metric).__name__} is {stated!r}; give a mapping from keys to Scale objects"
            )
        own = {} if getattr(metric, "scale", None) is None else {"scale": metric.scale}
        for place, scale in {**own, **{f"scales[{key!r}]": one for key, one in stated.items()}}.items():
            if not isinstance(scale, Scale):
                kind = type(metric).__name__
                raise TypeError(f"{place} of {kind} is {scale!r}; give a crab_lightning.metrics.Scale")
        scale_of(metric, name)


def entry_scales(metrics: Any) -> dict[str, dict[str, Any]]:
    """Return the scales of the values of a collection, by key, without those that are the default.

    Args:
        metrics: A ``MetricCollection`` whose ``compute`` has been called.

    Raises:
        ValueError: If a value is outside the range that its metric states.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, metric in metrics.items(keep_base=True, copy_state=False):
        values = metric.compute()  # kept by the metric since the collection was computed
        for key, value in (values if isinstance(values, Mapping) else {name: values}).items():
            scale = scale_of(metric, key)
            # The plot bounds of torchmetrics are no ranges: R2Score, for example, can be below its own.
            if _declared(metric, key) is not None or getattr(metric, "scale", None) is not None:
                _check_range(type(metric).__name__, key, value, scale)
            if scale != Scale():
                found[key] = asdict(scale)
    return found


def _declared(metric: Any, key: str) -> Scale | None:
    """Return the scale that a metric states for one key, and not for all its values."""
    stated: Mapping[str, Scale] = getattr(metric, "scales", {})
    return next((scale for end, scale in stated.items() if key == end or key.endswith(f"_{end}")), None)


def _check_range(metric: str, key: str, value: Any, scale: Scale) -> None:
    for number in value.flatten().tolist() if hasattr(value, "flatten") else [float(value)]:
        spare = _ROUNDING * max(1.0, abs(number))
        below = scale.low is not None and number < scale.low - spare
        if below or (scale.high is not None and number > scale.high + spare):
            end = "no end" if scale.high is None else scale.high
            start = "no start" if scale.low is None else scale.low
            raise ValueError(
                f"{metric} returns {number:g} for {key!r}, but its scale says that values are from {start} to"
                f" {end}. Correct the metric, or state its range: scale = Scale(low=..., high=...), with None"
                " where there is no limit"
            )


def units_said(units: Iterable[str]) -> str:
    """Return the part of a table's title that names the unit of its numbers."""
    return "in percent" if set(units) <= {PERCENT} else "in percent or in the unit named"


def read_scale(entry: Mapping[str, Any], key: str | None) -> Scale:
    """Return the scale of a metric from a dataset's entry in ``metrics.json``."""
    stored = (entry.get("scales") or {}).get(key)
    if stored is None:
        return Scale()
    ends = stored.get("counts_as")
    return Scale(**{**stored, "counts_as": None if ends is None else (ends[0], ends[1])})
