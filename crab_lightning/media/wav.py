"""Sound as the bytes of a WAV file, for endpoints that are asked over the network."""

from __future__ import annotations

import io
import wave

from torch import Tensor

from crab_lightning.structures import SAMPLE_RATE_HZ

_FLOAT_WAV = 3


def wav_bytes(samples: Tensor, *, lossless: bool = False) -> bytes:
    """Return a 16 kHz mono WAV file.

    Args:
        samples: float ``(S,)`` in [-1, 1].
        lossless: Store 32-bit floats, which not every reader knows, instead of 16-bit integers.
    """
    values = samples.detach().cpu().float().numpy()
    if lossless:
        data = values.astype("<f4").tobytes()
        head = _float_head(len(data))
        return head + data
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE_HZ)
        file.writeframes((values.clip(-1, 1) * 32767).round().astype("<i2").tobytes())
    return out.getvalue()


def _float_head(size: int) -> bytes:
    """Return the header of a WAV file of 32-bit floats; the standard library writes integers only."""
    fields = (
        (1, 2),  # channels
        (SAMPLE_RATE_HZ, 4),
        (SAMPLE_RATE_HZ * 4, 4),  # bytes a second
        (4, 2),  # bytes a frame
        (32, 2),  # bits a sample
    )
    form = _FLOAT_WAV.to_bytes(2, "little") + b"".join(v.to_bytes(n, "little") for v, n in fields)
    chunks = b"fmt " + len(form).to_bytes(4, "little") + form + b"data" + size.to_bytes(4, "little")
    return b"RIFF" + (4 + len(chunks) + size).to_bytes(4, "little") + b"WAVE" + chunks
