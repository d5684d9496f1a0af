"""Vision and audio encoders of LLM+V+A and V-LLM+A; they do not depend on a language model."""

from typing import TYPE_CHECKING

from crab_lightning.lazy import lazy_exports

if TYPE_CHECKING:
    from crab_lightning.encoders.base import AudioEncoder as AudioEncoder
    from crab_lightning.encoders.base import VisualEncoder as VisualEncoder
    from crab_lightning.encoders.beats import Beats as Beats
    from crab_lightning.encoders.beats import BeatsConfig as BeatsConfig
    from crab_lightning.encoders.beats import beats_fbank as beats_fbank
    from crab_lightning.encoders.beats import beats_tokens as beats_tokens
    from crab_lightning.encoders.beats import fbank_frames as fbank_frames
    from crab_lightning.encoders.beats_audio import BeatsAudio as BeatsAudio
    from crab_lightning.encoders.beats_audio import BeatsFileError as BeatsFileError
    from crab_lightning.encoders.beats_audio import load_beats as load_beats
    from crab_lightning.encoders.beats_audio import save_beats as save_beats
    from crab_lightning.encoders.clip import ClipVision as ClipVision
    from crab_lightning.encoders.dino import DinoVision as DinoVision
    from crab_lightning.encoders.pe_av import PeAudio as PeAudio
    from crab_lightning.encoders.pe_av import PeVision as PeVision
    from crab_lightning.encoders.siglip import SiglipVision as SiglipVision
    from crab_lightning.encoders.whisper import WhisperAudio as WhisperAudio

__getattr__, __all__ = lazy_exports(__name__, __file__)
