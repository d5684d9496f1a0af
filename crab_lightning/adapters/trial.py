"""A trial of an adapter layer of another package, which finds faults that a training would not show."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from crab_lightning.adapters.batch import Places
from crab_lightning.adapters.insert import draw_adapters
from crab_lightning.adapters.kinds.lora import LoRALinear
from crab_lightning.structures import AUDIO, TEXT, VISUAL

_IN, _OUT, _RANK = 6, 8, 2


def try_layer(kind: type[LoRALinear]) -> None:
    """Put a layer around a small linear layer, and check its weights and its first output.

    Nothing is checked if the config of the kind cannot be made with the rank alone.

    Args:
        kind: The layer class.

    Raises:
        ValueError: If the layer cannot be made or run; if a weight or a buffer has no first value, or one
            that depends on the base weights; if it has a tensor that is no parameter, or parameters that no
            method of it reads; or if its first output is not that of its base.
    """
    name = f"{kind.__module__}.{kind.__qualname__}"
    try:
        config = kind.config_class(rank=_RANK).completed(None, ["task"])
    except (TypeError, ValueError):
        return
    with torch.random.fork_rng(devices=[]):
        try:
            _try(kind(nn.Linear(_IN, _OUT), config), name)
        except ValueError:
            raise
        except Exception as err:
            raise ValueError(
                f"{name} fails in a trial ({type(err).__name__}: {err}). Correct the class"
            ) from err


def _try(layer: LoRALinear, name: str) -> None:
    own = [key for key, _ in layer.named_parameters(recurse=False)]
    known = ("lora_A", "lora_B", "lora_route")
    computes = type(layer).update is not LoRALinear.update or type(layer).forward is not LoRALinear.forward
    if (added := [key for key in own if key not in known]) and not computes:
        raise ValueError(f"{name} has the parameter {added[0]}, but no method `update` that uses it")
    if loose := [key for key, value in vars(layer).items() if isinstance(value, Tensor)]:
        raise ValueError(
            f"{name}.{loose[0]} is a tensor but no parameter, so it is neither trained nor saved. Make it in"
            " add_parameters with self._parameter, or register it as a buffer with persistent=False"
        )
    with torch.no_grad():
        draw_adapters(layer.to("meta"))
        layer.base.to_empty(device="cpu")
        nn.init.normal_(layer.base.weight)
        if layer.base.bias is not None:
            nn.init.normal_(layer.base.bias)
        x = torch.randn(1, 3, _IN)
        layer.batch.tell(("task",), _places)
        if type(layer).update is not LoRALinear.update:
            update: Any = layer.update(x)
            if not isinstance(update, Tensor) or update.shape != (1, 3, _OUT):
                found = f"shape {tuple(update.shape)}" if isinstance(update, Tensor) else repr(update)
                raise ValueError(f"{name}.update returns {found}; it must return a tensor (..., d)")
        if not torch.allclose(layer(x), layer.base(x), atol=1e-6):
            raise ValueError(
                f"{name}: a new layer does not give the output of its base. `update` must return only the"
                " update, which must be zero at first, for example because lora_B is"
            )


def _places() -> Places:
    modality = torch.tensor([[TEXT, VISUAL, AUDIO]])
    present = torch.ones_like(modality, dtype=torch.bool)
    return Places(modality, present, present)
