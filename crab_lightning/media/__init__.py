"""Reads audio, video and image files into tensors, and writes them. Only this subpackage knows codecs."""

from typing import TYPE_CHECKING

from crab_lightning.lazy import lazy_exports

if TYPE_CHECKING:
    from crab_lightning.media.audio import SoundGaps as SoundGaps
    from crab_lightning.media.audio import read_audio as read_audio
    from crab_lightning.media.audio import sound_gaps as sound_gaps
    from crab_lightning.media.audio_window import apply_window as apply_window
    from crab_lightning.media.container import MediaInfo as MediaInfo
    from crab_lightning.media.container import MediaLimits as MediaLimits
    from crab_lightning.media.container import decoder_versions as decoder_versions
    from crab_lightning.media.container import probe as probe
    from crab_lightning.media.cut import cut_video as cut_video
    from crab_lightning.media.cut import read_audio_piece as read_audio_piece
    from crab_lightning.media.cut import read_video_piece as read_video_piece
    from crab_lightning.media.errors import AudioWindowError as AudioWindowError
    from crab_lightning.media.errors import EmptyMedia as EmptyMedia
    from crab_lightning.media.errors import MediaError as MediaError
    from crab_lightning.media.errors import MediaTooLarge as MediaTooLarge
    from crab_lightning.media.errors import MissingMedia as MissingMedia
    from crab_lightning.media.errors import NoAudioTrack as NoAudioTrack
    from crab_lightning.media.errors import NoVideoTrack as NoVideoTrack
    from crab_lightning.media.errors import TruncatedMedia as TruncatedMedia
    from crab_lightning.media.errors import UnreadableMedia as UnreadableMedia
    from crab_lightning.media.image import is_picture as is_picture
    from crab_lightning.media.image import picture_size as picture_size
    from crab_lightning.media.image import read_image as read_image
    from crab_lightning.media.image import read_mask as read_mask
    from crab_lightning.media.image import write_upright as write_upright
    from crab_lightning.media.mel import MEL_BINS as MEL_BINS
    from crab_lightning.media.mel import log_mel as log_mel
    from crab_lightning.media.mel import mel_frames as mel_frames
    from crab_lightning.media.video import Resizer as Resizer
    from crab_lightning.media.video import VideoClip as VideoClip
    from crab_lightning.media.video import frame_indices as frame_indices
    from crab_lightning.media.video import read_frame_at as read_frame_at
    from crab_lightning.media.video import read_video as read_video
    from crab_lightning.media.video import stretch as stretch
    from crab_lightning.media.whole import cut_off as cut_off
    from crab_lightning.media.write import wav_bytes as wav_bytes
    from crab_lightning.media.write import write_audio as write_audio
    from crab_lightning.media.write import write_video as write_video

__getattr__, __all__ = lazy_exports(__name__, __file__)
