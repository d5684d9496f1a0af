"""The processor of Qwen3-Omni's thinker."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import Qwen3OmniMoeProcessor

from crab_lightning.processing.geometry import MediaRules
from crab_lightning.processing.native import NativeProcessor

_CHUNK_MEL_FRAMES = 100
_CHUNK_TOKENS = 13


def qwen3_audio_tokens(frames: int) -> int:
    """Return the number of language-model tokens for ``frames`` log-mel frames, which is 13 for each second.

    Three convolutions halve each chunk of 100 frames, and the rest after the last whole chunk, rounded up.
    """
    chunks, rest = divmod(frames, _CHUNK_MEL_FRAMES)
    for _ in range(3):
        rest = -(-rest // 2)
    return chunks * _CHUNK_TOKENS + rest


QWEN3_OMNI = MediaRules(
    patch_px=16, tokens_of_mel=qwen3_audio_tokens, mirrored_end=True, whole_positions=False
)


class Qwen3OmniProcessor(NativeProcessor):
    """Makes the inputs of Qwen3-Omni's thinker, and decodes its answers.

    Differences to Qwen2.5-Omni, besides the names of tokens: patches have 16 px, so that sides are multiples
    of 32; a second of sound has 13 tokens; the spectrogram is mirrored at both ends; positions in time keep
    their fractions (13 a second in the published config); there is no system message; and the colours are
    normalised as in the checkpoint's own processor. Frames keep the size that the data give. The processor of
    transformers would enlarge a video to at least 128 x 32 x 32 pixels in a frame, and reduce it to at most
    768 x 32 x 32.

    Args:
        pretrained: Folder or hub name of a Qwen3-Omni checkpoint, of which only processor and config are
            read.
        geometry: ``released`` uses 224 px and 2.0 s for a pair of frames, as for the other models. ``plain``
            keeps the true time scale and the size of the clip.
        max_length: Longest sample in tokens. A longer sample is an error and is not cut. By default, there is
            no limit.

    Raises:
        GeometryError: If the checkpoint's processor uses other patches or spectrograms than the published
            one.
        ValueError: If the checkpoint is of another architecture, or has another chat template.

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
