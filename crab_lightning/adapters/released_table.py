"""Names and shapes of the weights in a released Crab+ file, computed from the sizes of the base model."""

from __future__ import annotations

from dataclasses import dataclass

RELEASED_RANK, RELEASED_HEADS = 128, 3
PREFIX, SUFFIX = "base_model.model.", ".weight"


@dataclass(frozen=True)
class ThinkerSizes:
    """Sizes of a base model that decide the shapes of its adapters; the defaults are Qwen2.5-Omni-7B's.

    Args:
        audio_layers: Number of layers of the audio encoder.
        audio_width: Hidden size of the audio encoder.
        vision_blocks: Number of blocks of the vision encoder.
        vision_width: Hidden size of the vision encoder.
        vision_ffn: Width inside the MLPs of the vision encoder.
        text_layers: Number of layers of the language model.
        text_width: Hidden size of the language model.
        text_queries: Width of all query heads together.
        text_keys: Width of all key heads together, which is also that of all value heads.
        text_ffn: Width inside the MLPs of the language model.
    """

    audio_layers: int = 32
    audio_width: int = 1280
    vision_blocks: int = 32
    vision_width: int = 1280
    vision_ffn: int = 3420
    text_layers: int = 28
    text_width: int = 3584
    text_queries: int = 3584
    text_keys: int = 512
    text_ffn: int = 18944

    def layers(self) -> dict[str, tuple[int, int]]:
        """Return the number of inputs and of outputs of every adapted layer, by its name in the file."""
        found: dict[str, tuple[int, int]] = {}
        for i in range(self.audio_layers):
            for name in ("q_proj", "k_proj", "v_proj"):
                found[f"audio_tower.layers.{i}.self_attn.{name}"] = (self.audio_width, self.audio_width)
        for i in range(self.vision_blocks):
            found |= _mlp(f"visual.blocks.{i}", self.vision_width, self.vision_ffn)
        for i in range(self.text_layers):
            attention = f"model.layers.{i}.self_attn"
            found[f"{attention}.q_proj"] = (self.text_width, self.text_queries)
            found[f"{attention}.k_proj"] = (self.text_width, self.text_keys)
            found[f"{attention}.v_proj"] = (self.text_width, self.text_keys)
            found[f"{attention}.o_proj"] = (self.text_queries, self.text_width)
            found |= _mlp(f"model.layers.{i}", self.text_width, self.text_ffn)
        return found


def _mlp(block: str, width: int, inner: int) -> dict[str, tuple[int, int]]:
    return {
        f"{block}.mlp.gate_proj": (width, inner),
        f"{block}.mlp.up_proj": (width, inner),
        f"{block}.mlp.down_proj": (inner, width),
    }


def released_table(
    sizes: ThinkerSizes | None = None, rank: int = RELEASED_RANK, heads: int = RELEASED_HEADS
) -> dict[str, tuple[int, int]]:
    """Return the name and shape of every tensor of a released file; 1940 tensors with the defaults.

    Args:
        sizes: Sizes of the base model; Qwen2.5-Omni-7B's when left out.
        rank: Rank of the adapters.
        heads: Number of B matrices of a layer.
    """
    table: dict[str, tuple[int, int]] = {}
    for layer, (inputs, outputs) in (sizes or ThinkerSizes()).layers().items():
        shapes = {"lora_route": (heads, inputs), "lora_A": (rank, inputs)}
        shapes |= {f"lora_B{i}": (outputs, rank) for i in range(heads)}
        table |= {f"{PREFIX}{layer}.{part}{SUFFIX}": shape for part, shape in shapes.items()}
    return table
