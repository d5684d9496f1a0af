"""How long a sample will be, told from its row without opening a file."""

from __future__ import annotations

from crab_lightning.processing import visual_tokens
from crab_lightning.structures import AudioWindow, Conversation, DatasetSpec, Sample

AUDIO_TOKENS_PER_S = 25
CHARACTERS_PER_TOKEN = 4  # of English, roughly; only the order of lengths matters
DIRECT_CHARACTERS = 40  # an answer in its tags


def audio_seconds(window: AudioWindow) -> float:
    """Guess the seconds heard through a window, taking a unit for a second as in the released datasets.

    >>> audio_seconds(AudioWindow("strided", units=60))  # MUSIC-AVQA hears 20 of its 60 s
    20.0
    """
    match window.kind:
        case "head":
            return window.head_s
        case "one_unit":
            return 1.0
        case "strided":
            return window.units / window.every * (window.before + window.after)
        case _:
            return float(window.units)


def guess_tokens(
    sample: Sample, spec: DatasetSpec, window: AudioWindow, prompt: Conversation, target_characters: int
) -> int:
    """Return about how many tokens a sample has.

    Args:
        sample: The sample.
        spec: Its dataset's row.
        window: The window through which it is heard.
        prompt: Its conversation.
        target_characters: Length of the text to be learnt; 0 for a prompt.
    """
    size = spec.size_px
    seen = len(sample.videos) * visual_tokens(spec.frames, size, size)
    seen += len(sample.images) * visual_tokens(1, size, size)
    whole = spec.clip_s if window.kind in ("all", "units") else None
    heard = len(sample.audios) * (whole or audio_seconds(window)) * AUDIO_TOKENS_PER_S
    characters = sum(len(part) for part in prompt if isinstance(part, str)) + target_characters
    return round(seen + heard + characters / CHARACTERS_PER_TOKEN)
