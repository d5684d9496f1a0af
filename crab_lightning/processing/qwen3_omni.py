"""Conversation and media to the inputs of Qwen3-Omni's thinker."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import Qwen3OmniMoeProcessor

from crab_lightning.processing.geometry import MediaRules
from crab_lightning.processing.native import NativeProcessor

_CHUNK_MEL_FRAMES = 100
_CHUNK_TOKENS = 13


def qwen3_audio_tokens(frames: int) -> int:
    """Return the number of language-model tokens of ``frames`` log-mel frames (13 a second).

    Three convolutions halve each chunk of 100 frames, rounding up, and the rest behind the last whole chunk.
    """
    chunks, rest = divmod(frames, _CHUNK_MEL_FRAMES)
    for _ in range(3):
        rest = -(-rest // 2)
    return chunks * _CHUNK_TOKENS + rest


QWEN3_OMNI = MediaRules(
    patch_px=16, tokens_of_mel=qwen3_audio_tokens, mirrored_end=True, whole_positions=False
)


class Qwen3OmniProcessor(NativeProcessor):
    """Reads and writes what Qwen3-Omni's thinker sees.

    It differs from Qwen2.5-Omni in what stands below, and in the names of its tokens: patches of 16 px, so
    that sides are multiples of 32; 13 sound tokens a second; a spectrogram that is mirrored at both ends;
    positions in time that keep their fractions (13 a second in the published config); no system message;
    colours as the checkpoint's own processor has them. Frames keep the size that the data give: the stock
    processor would enlarge a video to at least 128 x 32 x 32 pixels a frame, and shrink it to at most 768 x
    32 x 32.

    Args:
        pretrained: Folder or hub name of a Qwen3-Omni checkpoint; only its processor and config are read.
        geometry: ``released`` shows 224 px and 2.0 s per pair of frames, as for the other models; ``plain``
            keeps the clip's own time scale and size.
        max_length: Longest sample in tokens; a longer one is an error, never cut. No limit when left out.

    Raises:
        GeometryError: If the checkpoint's processor works on other patches or spectrograms than the published
            one.
        ValueError: If the checkpoint is of another family of models, or its chat template writes otherwise.

    Source: ``Qwen3OmniMoeProcessor`` and ``get_rope_index`` in transformers 5.24; arXiv:2509.17765.
    """

    reader: ClassVar[str] = "Qwen3OmniModule"
    family: ClassVar[str] = "Qwen3-Omni"
    stock_class: ClassVar[Any] = Qwen3OmniMoeProcessor
    rules: ClassVar[MediaRules] = QWEN3_OMNI
    system_message: ClassVar[str | None] = None
    token_id_suffix: ClassVar[str] = "token_id"

    def _expected_of_family(self) -> dict[str, tuple[Any, Any]]:
        window = self.thinker_config.audio_config.n_window
        return {"config.audio_config.n_window": (window, _CHUNK_MEL_FRAMES // 2)}
