"""Adapter kinds by the name that configs and checkpoints use."""

from __future__ import annotations

from crab_lightning.adapters.layers import ILoRALinear, LoRALinear
from crab_lightning.adapters.multi_lora import MultiLoRALinear

ADAPTERS: dict[str, type[LoRALinear]] = {
    "lora": LoRALinear,
    "multi_lora": MultiLoRALinear,
    "ilora": ILoRALinear,
}
