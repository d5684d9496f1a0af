"""The model with the thinker of Qwen3-Omni, a mixture of experts with encoders for sound and pictures."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import Qwen3OmniMoeThinkerForConditionalGeneration

from crab_lightning.compat import qwen3_routers, recomputing
from crab_lightning.models.native import OmniModule
from crab_lightning.processing import NativeProcessor
from crab_lightning.processing.qwen3_omni import Qwen3OmniProcessor
from crab_lightning.structures import Batch


class Qwen3OmniModule(OmniModule):
    """The thinker of Qwen3-Omni, frozen, with adapters on the attention and on the experts.

    The experts are three-dimensional parameters and not linear layers. So ``adapter.target_modules`` contains
    ``q_proj``, ``k_proj``, ``v_proj`` and ``o_proj``, and ``adapter.expert_rank`` adapts the experts. The
    router of the experts is not adapted.

    Args:
        pretrained: Folder or hub name of a Qwen3-Omni checkpoint, the whole model or its thinker.
        router_loss: Weight of the load-balancing loss of the experts' router (Switch Transformer,
            arXiv:2101.03961). The router is frozen, but adapters change its input: with this loss they learn
            to spread tokens over the experts. 0 leaves the loss out.
        options: The arguments of ``OmniModule``. ``quantization`` is not allowed.

    Shapes: B samples, T text tokens, M mel frames (10 ms each), P image patches. See ``Batch``.

    Raises:
        ValueError: If ``router_loss`` is negative or is set without adapters, or ``quantization`` is set.
            When the model is loaded, also if an entry of ``adapter.target_modules`` matches no linear layer,
            or weights are missing.

    Sources: base model arXiv:2509.17765; I-LoRA arXiv:2603.04128.
    """

    paradigm = "qwen3_omni"
    thinker_class: ClassVar[Any] = Qwen3OmniMoeThinkerForConditionalGeneration
    processor_class: ClassVar[type[NativeProcessor]] = Qwen3OmniProcessor

    def __init__(
        self,
        pretrained: str = "Qwen/Qwen3-Omni-30B-A3B-Instruct",
        *,
        router_loss: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(pretrained, **options)
        if router_loss < 0 or (router_loss and self.adapter is None):
            raise ValueError(
                f"model.router_loss is {router_loss}; it must be at least 0, and 0 without model.adapter"
            )
        self.router_loss = router_loss
        if self.quantization is not None:
            raise ValueError(
                f"model.quantization is {self.quantization!r}; it keeps linear layers in 4 bits, but nearly "
                "all weights of Qwen3-Omni belong to experts, which are not linear layers. Leave it out, and"
                " set trainer.strategy to fsdp2 if the weights do not fit on one GPU"
            )

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the losses of ``OmniModule``; in training, also add the loss of the router."""
        if not (self.router_loss and self.training):
            return super().losses(batch)
        routers, balance = qwen3_routers(self.decoder())
        found: list[Tensor] = []

        def keep(_: nn.Module, args: Any, output: tuple[Tensor, ...]) -> None:
            if not recomputing():
                found.append(output[0])  # the logits of the experts

        handles = [router.register_forward_hook(keep) for router in routers]
        try:
            sums, counts = super().losses(batch)
        finally:
            for handle in handles:
                handle.remove()
        config = self.text_config()
        mask = batch.inputs["attention_mask"]
        loss = balance(tuple(found), config.num_experts, config.num_experts_per_tok, mask)
        assert self._announced is not None  # there are adapters
        self._announced.add_loss(self.router_loss * loss)
        return sums, counts
