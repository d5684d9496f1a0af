"""The settings of adapters: their kind, their size, and the layers that they adapt."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

from crab_lightning.value_types import check_arguments

ENTRY_POINTS = "crab_lightning.adapters"
"""Group of the entry points with which other packages add kinds."""

AdapterDtype = Literal["float32", "bfloat16"]

LANGUAGE_MODEL_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class _ByKind(type):
    """Makes ``AdapterConfig(kind="lora", ...)`` an object of the config class of that kind."""

    def __call__(cls, *args: Any, **values: Any) -> Any:
        if cls is not AdapterConfig:
            return super().__call__(*args, **values)
        from crab_lightning.adapters.kinds import make_config

        return make_config(*args, **values)

    @property
    def __signature__(cls) -> inspect.Signature:
        whole = inspect.signature(cls.__init__)  # type: ignore[misc]
        return whole.replace(parameters=list(whole.parameters.values())[1:])


@dataclass
class AdapterConfig(metaclass=_ByKind):
    """Kind, size and targets of the adapters of one model.

    ``AdapterConfig(kind=...)`` returns the config of that kind, which is a subclass of this class. The call
    accepts the keys of all kinds. A key that the chosen kind does not read must have its default value, and
    is then dropped. So a config that lists all keys stays valid when its kind is changed.

    Args:
        kind: Kind of the adapters.
        rank: Width r of the low-rank activation.
        alpha: The update is scaled by ``alpha / rank``.
        dropout: Probability, in [0, 1), with which an input value of A is set to zero during training.
        target_modules: Linear layers to adapt, by the end of their dotted name (``q_proj``,
            ``self_attn.q_proj``); ``*`` and ``?`` are wildcards.
        within: Only layers below a module of this name are adapted; ``null`` searches the whole model.
        dtype: Type in which adapter weights are stored. float32 keeps small updates, which bfloat16 would
            round away. The weights are cast to the type of the activations when they are used.

    Raises:
        TypeError: If no kind has a key of this name.
        ValueError: If a value is out of range, the kind is unknown, or a key that the kind does not read has
            another value than its default.
    """

    decisive: ClassVar[tuple[str, ...]] = ("kind", "rank", "alpha")
    """Settings that change what the same weights compute. Saved adapters load only where these are equal."""
    value_advice: ClassVar[Mapping[str, str]] = {
        "kind": "If another package adds this kind, install that package in this environment"
    }
    """Key -> advice that the error for a wrong value of the key adds."""

    kind: str = "ilora"
    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: list[str] = field(default_factory=lambda: list(LANGUAGE_MODEL_PROJECTIONS))
    within: str | None = "language_model"
    dtype: AdapterDtype = "float32"

    def __post_init__(self) -> None:
        check_arguments(type(self), vars(self), "adapter")
        at_least_one("rank", self.rank)
        if not math.isfinite(self.alpha) or self.alpha <= 0:
            raise ValueError(f"adapter.alpha is {self.alpha!r}; it must be a finite number above 0")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"adapter.dropout is {self.dropout!r}; it must be at least 0 and below 1")
        if not self.target_modules:
            raise ValueError(
                f"adapter.target_modules is {self.target_modules!r}; "
                "give a list of layer names such as [q_proj, v_proj]"
            )

    def details(self) -> dict[str, Any]:
        """Return the keys that only this kind has, with their values; a key that is null is left out."""
        common = {key.name for key in fields(AdapterConfig)}
        own = {key.name: getattr(self, key.name) for key in fields(self) if key.name not in common}
        return {name: value for name, value in own.items() if value is not None}

    def completed(self, saved: AdapterConfig | None, tasks: Sequence[str] | None) -> AdapterConfig:
        """Return the config with the values that only the run knows; most kinds return it unchanged.

        Args:
            saved: Config of the adapters that the run loads; ``None`` if it loads none.
            tasks: Task keys of the run's data; ``None`` if the run has no data.
        """
        return self

    def identity(self) -> dict[str, Any]:
        """Return the settings that must be equal in a Lightning checkpoint; no weight shape shows them."""
        return {}

    def __str__(self) -> str:
        parts = [f"rank {self.rank}", f"alpha {self.alpha:g}", f"dropout {self.dropout:g}"]
        return f"{self.kind}: " + ", ".join(parts + [f"{k} {_short(v)}" for k, v in self.details().items()])


@dataclass
class ExpertAdapterConfig(AdapterConfig):
    """Adapters that can also go on the experts of a mixture-of-experts model.

    Args:
        expert_rank: Rank of the adapters on the experts of a mixture-of-experts model. Every expert gets two
            adapters: one on the gate and up projections together, and one on the down projection. The update
            is scaled by ``alpha / rank``, as in all other layers. ``null`` adds no adapters to the experts.
    """

    decisive = (*AdapterConfig.decisive, "expert_rank")

    expert_rank: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.expert_rank is not None:
            at_least_one("expert_rank", self.expert_rank)


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def at_least_one(name: str, value: int, heads: int | None = None) -> None:
    """Raise ``ValueError`` if the value of a key is not from 1 to ``heads`` (if given)."""
    if value < 1 or (heads is not None and value > heads):
        limit = "" if heads is None else f" and at most adapter.heads, which is {heads}"
        raise ValueError(f"adapter.{name} is {value!r}; it must be a whole number of at least 1{limit}")
