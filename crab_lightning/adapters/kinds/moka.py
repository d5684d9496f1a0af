"""MokA: one A matrix for each modality and one B for all; pictures and sound attend to the question."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from crab_lightning.adapters.batch import Places
from crab_lightning.adapters.config import AdapterConfig
from crab_lightning.adapters.kinds.lora import LoRALinear
from crab_lightning.structures import TEXT

_MODALITIES = 3


@dataclass
class MokAConfig(AdapterConfig):
    """one A for text, one for pictures and one for sound; pictures and sound attend to the prompt's text.

    Args:
        mixing: Weight of the attention output that is added to tokens of pictures and sound.
    """

    decisive = ("kind", "rank", "alpha", "mixing")

    kind: Literal["moka"] = "moka"
    mixing: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not math.isfinite(self.mixing):
            raise ValueError(f"adapter.mixing is {self.mixing!r}; it must be a finite number")


class MokALinear(LoRALinear):
    """A frozen linear layer plus a low-rank update that knows the modality of each token.

    With ``z_i = A_m x_i`` for a token i of modality m (text, pictures or sound), a token of text has
    ``u_i = z_i``. A token of pictures or sound attends to the text Q of the prompt,
    ``u_i = z_i + mixing * sum_{j in Q} softmax_j(z_i · z_j / sqrt r) z_j``. The output is
    ``W x_i + b + alpha/r * B u_i``. Q holds all text of the prompt: the instruction, the question and the
    words of the chat template. It holds no token of the answer, because pictures would then see the text that
    is to be written. Tokens written after the prompt are text.

    One variant of the released code scales z by alpha/r before the attention, and another one after it. This
    class follows the equation of the paper, which does not scale z.

    Shapes: input ``(B, T, h)`` to output ``(B, T, d)``; ``lora_A`` ``(3, r, h)`` in the order text, pictures,
    sound, and ``lora_B`` ``(d, r)``.

    Source: Wei et al., NeurIPS 2025 (arXiv:2506.05191), section 3; ``mixing`` is 0.5 in the released code.
    """

    config_class = MokAConfig
    config: MokAConfig

    def _stack(self) -> tuple[int, ...]:
        return (_MODALITIES,)

    def update(self, x: Tensor) -> Tensor:
        """Return the update of ``x`` ``(B, T, h)``, in its type.

        Raises:
            RuntimeError: If the batch was not announced with ``places``.
            ValueError: If the input has another batch size or length than the announced batch.
        """
        a = self.lora_A.to(x.dtype)
        if self._continues():
            z = self.dropped(x) @ a[TEXT].t()
        else:
            places = self.batch.places("moka")
            if x.shape[:-1] != places.modality.shape:
                raise ValueError(
                    f"moka got an input {tuple(x.shape)} for a batch of {tuple(places.modality.shape)} "
                    "places; it adapts layers that read the whole sequence. Set adapter.within to "
                    "language_model, and read the prompt in one forward pass"
                )
            all_z = (self.dropped(x) @ a.flatten(0, 1).t()).view(*x.shape[:-1], _MODALITIES, self.rank)
            own = places.modality[..., None, None].expand(-1, -1, 1, self.rank).long()
            z = all_z.gather(-2, own).squeeze(-2)
            z = z + self.config.mixing * self._mixed(z, places)
        return (z * self.scaling) @ self.lora_B.to(x.dtype).t()

    def _continues(self) -> bool:
        """Whether this call continues the announced prompt, so that all its tokens are text."""
        if torch.is_grad_enabled():  # a training batch is read once, and again only by checkpointing
            return False
        before, self._read = getattr(self, "_read", -1), self.batch.number
        return before == self.batch.number

    def _mixed(self, z: Tensor, places: Places) -> Tensor:
        """Return the attention of picture and sound tokens over the prompt's text; zero at text tokens."""
        index, known, media = self.batch.once(("moka", z.device), lambda: _question(places))
        question = z.gather(1, index[..., None].expand(-1, -1, self.rank))
        taken = F.scaled_dot_product_attention(z, question, question, attn_mask=known[:, None, :])
        return taken * media[..., None].to(z.dtype)


def _question(places: Places) -> tuple[Tensor, Tensor, Tensor]:
    """Return the positions of the prompts' text, and who attends to them.

    They are int64 ``(B, Q)``; bool ``(B, Q)``, False in padding; and bool ``(B, T)``, True at pictures and
    sound in a row whose prompt has text.
    """
    text = places.prompt & (places.modality == TEXT)
    counts = text.sum(1)
    index = torch.argsort(~text, dim=1, stable=True)[:, : max(1, int(counts.max()))]
    known = torch.arange(index.shape[1], device=text.device) < counts.clamp(min=1)[:, None]
    return index, known, (places.modality != TEXT) & (counts > 0)[:, None]


LAYER = MokALinear
