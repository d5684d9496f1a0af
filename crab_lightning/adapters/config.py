"""What to adapt, and with which kind of adapter."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

AdapterKind = Literal["lora", "ilora"]
RouterInput = Literal["latent", "input"]
AdapterDtype = Literal["float32", "bfloat16"]

LANGUAGE_MODEL_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass
class AdapterConfig:
    """Kind, size and targets of the adapters of one model.

    Args:
        kind: ``ilora`` routes every token over ``heads`` B matrices; ``lora`` has one and no router.
        rank: Width r of the shared low-rank activation.
        alpha: The update is scaled by ``alpha / rank``.
        dropout: Share of the layer input zeroed before A while training, in [0, 1).
        heads: Number n of B matrices of ``ilora``; ``lora`` does not read it.
        router: What the router of ``ilora`` reads: ``latent`` the low-rank activation (equation 5 of the
            paper), ``input`` the layer's own input, as the released weights need it.
        target_modules: Linear layers to adapt, by the end of their dotted name (``q_proj``,
            ``self_attn.q_proj``); ``*`` and ``?`` are wildcards.
        within: Only layers below a module of this name are searched; ``null`` searches the whole model.
        dtype: Type in which adapter weights are stored. 32-bit weights take the small steps that bfloat16
            rounds away; they are cast to the activations' type where they are used.

    Raises:
        ValueError: If a value is out of range or names an unknown kind or router.
    """

    kind: AdapterKind = "ilora"
    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    heads: int = 3
    router: RouterInput = "latent"
    target_modules: list[str] = field(default_factory=lambda: list(LANGUAGE_MODEL_PROJECTIONS))
    within: str | None = "language_model"
    dtype: AdapterDtype = "float32"

    def __post_init__(self) -> None:
        _one_of("kind", self.kind, ("ilora", "lora"))
        _one_of("router", self.router, ("latent", "input"))
        _one_of("dtype", self.dtype, ("float32", "bfloat16"))
        for name in ("rank", "heads"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"adapter.{name} is {value!r}; it must be a whole number of at least 1")
        if not math.isfinite(self.alpha) or self.alpha <= 0:
            raise ValueError(f"adapter.alpha is {self.alpha!r}; it must be a finite number above 0")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"adapter.dropout is {self.dropout!r}; it must be at least 0 and below 1")
        if isinstance(self.target_modules, str) or not self.target_modules:
            raise ValueError(
                f"adapter.target_modules is {self.target_modules!r}; "
                "give a list of layer names such as [q_proj, v_proj]"
            )


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"adapter.{name} is {value!r}; known: {', '.join(known)}")
