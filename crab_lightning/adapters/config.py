"""What to adapt, and with which kind of adapter."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

AdapterKind = Literal["lora", "multi_lora", "ilora"]
RouterInput = Literal["latent", "input"]
AdapterDtype = Literal["float32", "bfloat16"]

LANGUAGE_MODEL_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass
class AdapterConfig:
    """Kind, size and targets of the adapters of one model.

    Args:
        kind: ``ilora`` routes every token over ``heads`` B matrices; ``lora`` has one and no router;
            ``multi_lora`` has one LoRA for each of ``tasks`` and takes that of the sample's task.
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
        tasks: Task keys of ``multi_lora``; left out, all tasks of the run's data. Other kinds do not read it.
        head_scale: Factor of each head's contribution, for ``ilora``: ``[1, 0, 1]`` drops the second head.
            The routes are not normalised again. It may differ from what the weights were trained with.

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
    tasks: list[str] | None = None
    head_scale: list[float] | None = None

    def __post_init__(self) -> None:
        _one_of("kind", self.kind, get_args(AdapterKind))
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
        self._check_tasks_and_heads()

    def _check_tasks_and_heads(self) -> None:
        if self.tasks is not None and (not self.tasks or len(set(self.tasks)) < len(self.tasks)):
            raise ValueError(f"adapter.tasks is {self.tasks!r}; give task keys, each once, or leave it out")
        if self.head_scale is None:
            return
        if self.kind != "ilora":
            raise ValueError(f"adapter.head_scale is for kind ilora; adapter.kind is {self.kind!r}")
        if len(self.head_scale) != self.heads or not all(map(math.isfinite, self.head_scale)):
            raise ValueError(
                f"adapter.head_scale is {self.head_scale!r}; adapter.heads is {self.heads}, so give "
                f"{self.heads} finite numbers"
            )


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"adapter.{name} is {value!r}; known: {', '.join(known)}")
