"""The thinker of Qwen3-Omni: a mixture of experts with its own encoders for sound and pictures."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import Qwen3OmniMoeThinkerForConditionalGeneration

from crab_lightning.models.native import OmniModule
from crab_lightning.processing import NativeProcessor
from crab_lightning.processing.qwen3_omni import Qwen3OmniProcessor


class Qwen3OmniModule(OmniModule):
    """Qwen3-Omni thinker, frozen, with adapters on the attention of its language model.

    The experts and their router stay as they are: they are three-dimensional parameters, no linear layers, so
    ``adapter.target_modules`` names ``q_proj``, ``k_proj``, ``v_proj`` and ``o_proj``. The router's
    load-balancing loss is not added, since nothing that is trained would change its choices directly.

    Args:
        pretrained: Folder or hub name of a Qwen3-Omni checkpoint, the whole model or its thinker.
        options: The arguments of ``OmniModule``. ``quantization`` is refused.

    Shapes: B samples, T text tokens, M mel frames (10 ms each), P image patches. See ``Batch``.

    Raises:
        ValueError: If an entry of ``adapter.target_modules`` matches no linear layer, weights are missing, or
            ``quantization`` is set.

    Sources: base model arXiv:2509.17765; I-LoRA arXiv:2603.04128.
    """

    paradigm = "qwen3_omni"
    thinker_class: ClassVar[Any] = Qwen3OmniMoeThinkerForConditionalGeneration
    processor_class: ClassVar[type[NativeProcessor]] = Qwen3OmniProcessor

    def __init__(self, pretrained: str = "Qwen/Qwen3-Omni-30B-A3B-Instruct", **options: Any) -> None:
        super().__init__(pretrained, **options)
        if self.quantization is not None:
            raise ValueError(
                f"model.quantization is {self.quantization!r}; it keeps linear layers in 4 bits, and nearly "
                "all weights of Qwen3-Omni are experts, which are not linear layers. Leave it out, and"
                " set trainer.strategy to fsdp2 if the weights do not fit on one GPU"
            )
