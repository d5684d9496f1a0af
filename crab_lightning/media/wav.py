"""Sound as the bytes of a WAV file, for endpoints that are asked over the network."""

from __future__ import annotations

import io

from torch import Tensor

from crab_lightning.structures import SAMPLE_RATE_HZ


def wav_bytes(samples: Tensor, *, lossless: bool = False) -> bytes:
    """Return a 16 kHz mono WAV file.

    Args:
        samples: float ``(S,)`` in [-1, 1].
        lossless: Store 32-bit floats, which not every reader knows, instead of 16-bit integers.
    """
    from scipy.io import wavfile

    values, out = samples.detach().cpu().float().numpy(), io.BytesIO()
    whole = values if lossless else (values.clip(-1, 1) * 32767).round().astype("<i2")
    wavfile.write(out, SAMPLE_RATE_HZ, whole)
    return out.getvalue()
