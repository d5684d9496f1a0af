"""The audio windows of AV-UIE v2 (section 3), which choose the part of a waveform that is heard."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from crab_lightning.media.errors import AudioWindowError
from crab_lightning.structures import SAMPLE_RATE_HZ, AudioWindow


def apply_window(audio: Tensor, window: AudioWindow, unit: int | None = None) -> Tensor:
    """Return the part of a waveform in a window, after zeros are added at the end up to at least one second.

    All lengths are rounded down to whole samples, as in the released loader. A unit of a clip with L samples
    has ``L // window.units`` samples.

    Args:
        audio: float ``(S,)``, 16 kHz.
        window: The audio window of the dataset.
        unit: Index of the unit that is heard. Only ``one_unit`` needs it.

    Returns:
        ``(S',)``. ``all`` returns the padded clip. ``units`` removes at most ``units - 1`` samples at the
        end. ``one_unit`` returns one unit. ``head`` returns exactly ``head_s`` seconds, padded with zeros.
        ``strided`` joins the parts ``[t - before, t + after]``, in units, for t = 0, every, 2 every and so on
        below ``units``. A part that begins before the clip is padded with zeros on the left to ``before +
        after`` units, and a part that ends after the clip on the right.

    Raises:
        AudioWindowError: If ``unit`` is missing or out of range, a number of the window is out of range, or
            the waveform is not ``(S,)``.
    """
    if audio.ndim != 1:
        raise AudioWindowError(
            f"the waveform has shape {tuple(audio.shape)}; a mono waveform (S,) is needed."
        )
    audio = _pad_end(audio, SAMPLE_RATE_HZ)
    if window.kind == "all":
        return audio
    if window.kind == "head":
        samples = int(window.head_s * SAMPLE_RATE_HZ)
        return _pad_end(audio[:samples], samples)
    if window.units <= 0 or window.units > audio.numel():
        raise AudioWindowError(
            f"audio.units is {window.units}; it must lie between 1 and the clip's {audio.numel()} samples."
        )
    unit_samples = audio.numel() // window.units
    if window.kind == "units":
        return audio[: unit_samples * window.units]
    if window.kind == "one_unit":
        if unit is None or not 0 <= unit < window.units:
            # The released code returns silence here, but an index outside the clip is a mistake in the
            # manifest.
            raise AudioWindowError(
                f"audio unit {unit} was asked for, but the window has units 0 to {window.units - 1}. "
                f"Correct the row's frame number, or the dataset's audio.units."
            )
        return audio[unit * unit_samples : (unit + 1) * unit_samples]
    return _strided(audio, window, unit_samples)


def _strided(audio: Tensor, window: AudioWindow, unit_samples: int) -> Tensor:
    if window.every <= 0:
        raise AudioWindowError(f"audio.every is {window.every}; it must be at least 1.")
    kept = int((window.before + window.after) * unit_samples)
    pieces = []
    for centre in range(0, window.units, window.every):
        first = max(0.0, centre - window.before)
        last = min(float(window.units), centre + window.after)
        piece = audio[int(first * unit_samples) : int(last * unit_samples)]
        missing = max(0, kept - piece.numel())
        # Add silence before the start or after the end of the clip.
        pieces.append(functional.pad(piece, (missing, 0) if centre < window.before else (0, missing)))
    return torch.cat(pieces)


def _pad_end(audio: Tensor, samples: int) -> Tensor:
    return functional.pad(audio, (0, max(0, samples - audio.numel())))
