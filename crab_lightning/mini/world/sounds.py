"""The sounds: a loop of one second for each object and tool, and of two seconds for each voice.

They differ in frequencies and rhythm, and are about equally loud. Every loop repeats a short sound at least
twice a second, so that even a part of 0.4 s is enough to recognize it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from crab_lightning.structures import SAMPLE_RATE_HZ

Wave = NDArray[np.float64]

RMS = 0.08
"""Root mean square of a loop, before ``SceneObject.loudness``. It is lower if ``PEAK`` limits the loop."""
PEAK = 0.45
"""Upper bound of the samples of a loop, so that the sum of two loops stays below 1."""


def _time(seconds: int = 1) -> Wave:
    return np.arange(seconds * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ


def _band_noise(low_hz: float, high_hz: float, seed: int) -> Wave:
    """Return one second of noise in a frequency band.

    It is made in the frequency domain, so it can be repeated without a click.
    """
    rng = np.random.default_rng(seed)
    spectrum = np.zeros(SAMPLE_RATE_HZ // 2 + 1, complex)
    low, high = int(low_hz), min(int(high_hz), SAMPLE_RATE_HZ // 2)
    spectrum[low:high] = np.exp(2j * np.pi * rng.random(high - low))
    wave = np.fft.irfft(spectrum, SAMPLE_RATE_HZ)
    return np.asarray(wave / np.abs(wave).max())


def _partials(phase: Wave, amplitudes: list[float]) -> Wave:
    """Return the sum of harmonics 1, 2, ... with these amplitudes; ``phase`` counts full cycles."""
    return np.asarray(sum(a * np.sin(2 * np.pi * (k + 1) * phase) for k, a in enumerate(amplitudes) if a))


def _pulse(rate_hz: int, decay_per_s: float, seconds: int = 1) -> Wave:
    """Return an envelope that jumps to 1 ``rate_hz`` times a second and then decays."""
    return np.asarray(np.exp(-decay_per_s * ((_time(seconds) * rate_hz) % 1.0) / rate_hz))


def _hump(rate_hz: int, share: float, seconds: int = 1) -> Wave:
    """Return an envelope that rises and falls ``rate_hz`` times a second, in a share of each period."""
    within = (_time(seconds) * rate_hz) % 1.0
    return np.sqrt(np.maximum(np.sin(np.pi * np.minimum(within / share, 1.0)), 0.0))


def _violin(f: float) -> Wave:
    t = _time()
    phase = round(1000 * f) * t + 4.0 * np.sin(2 * np.pi * 6 * t)
    return _partials(phase, [1, 0.8, 0.6, 0.5, 0.4])


def _guitar(f: float) -> Wave:
    return _partials(round(200 * f) * _time(), [1, 0.7, 0.4, 0.2]) * _pulse(4, 8.0)


def _accordion(f: float) -> Wave:
    t = _time()
    return np.asarray(sum(_partials(round(g * f) * t, [1, 0, 0.5, 0, 0.25]) for g in (330, 415, 494)))


def _banjo(f: float) -> Wave:
    return _partials(round(1600 * f) * _time(), [1, 0.9, 0.8, 0.7]) * _pulse(8, 45.0)


def _dog(f: float) -> Wave:
    t = _time()
    within = (t * 3) % 1.0
    tone = _partials(np.cumsum((650 - 500 * np.minimum(within, 0.5)) * f) / SAMPLE_RATE_HZ, [1, 0.7, 0.4])
    return np.asarray((tone + 0.8 * _band_noise(600, 2200, 5)) * _hump(3, 0.42))


def _cat(f: float) -> Wave:
    within = (_time() * 2) % 1.0
    pitch_hz = (700 + 900 * np.sin(np.pi * within)) * f
    return _partials(np.cumsum(pitch_hz) / SAMPLE_RATE_HZ, [1, 0.5, 0.15]) * _hump(2, 0.9)


def _helicopter(f: float) -> Wave:
    return _band_noise(40, 320 * f, 7) * _pulse(12, 18.0)


def _motorcycle(f: float) -> Wave:
    t = _time()
    saw = _partials(round(75 * f) * t, [1.0 / (1 + 0.12 * k) for k in range(22)])
    return np.asarray(saw / np.abs(saw).max() + 0.35 * _band_noise(4500, 7500, 11))


def _taps(f: float) -> Wave:
    return np.asarray(_band_noise(300, 6000, 13) * _pulse(4, 90.0))


def _hiss(f: float) -> Wave:
    return _band_noise(2500 * f, 7800, 17) * _hump(2, 0.8)


def _buzz(f: float) -> Wave:
    return _partials(round(140 * f) * _time(), [1.0 if k % 2 == 0 else 0.0 for k in range(20)])


def _tune(f: float) -> Wave:
    t = _time()
    notes_hz = np.array([523, 659, 784, 1047])[(t * 4).astype(int)] * f
    return _partials(np.cumsum(notes_hz) / SAMPLE_RATE_HZ, [1, 0.2]) * _hump(4, 0.95)


def _voice(base_hz: float, rise: float, rate_hz: int, breath: float) -> Callable[[float], Wave]:
    def make(f: float) -> Wave:
        within = (_time(2) * rate_hz) % 1.0
        phase = np.cumsum(base_hz * f * (1 + rise * (within - 0.5))) / SAMPLE_RATE_HZ
        tone = _partials(phase, [1, 0.8, 0.6, 0.4, 0.3, 0.2, 0.1])
        noise = np.tile(_band_noise(2500, 6500, 19), 2)
        return np.asarray((tone / np.abs(tone).max() + breath * noise) * _hump(rate_hz, 0.75, 2))

    return make


_TIMBRES: dict[str, Callable[[float], Wave]] = {
    make.__name__.removeprefix("_"): make
    for make in (
        *(_violin, _guitar, _accordion, _banjo, _dog, _cat, _helicopter, _motorcycle),
        *(_taps, _hiss, _buzz, _tune),
    )
} | {
    "voice_slow": _voice(110, -0.3, 2, 0.0),
    "voice_lively": _voice(340, 0.6, 5, 0.0),
    "voice_harsh": _voice(200, 0.0, 3, 1.2),
}

SOUNDS: tuple[str, ...] = tuple(_TIMBRES)
"""All names that ``SceneObject.sound`` may have."""


@cache
def loop(name: str, pitch: int = 0) -> NDArray[np.float32]:
    """Return the loop of a sound, ``(S,)`` for one or two seconds at 16 kHz. The array cannot be changed.

    Args:
        name: One of ``SOUNDS``.
        pitch: -1, 0 or 1 for a sound that is 5 % lower, unchanged or 5 % higher.

    Raises:
        KeyError: If there is no sound of this name.
    """
    if name not in _TIMBRES:
        raise KeyError(f"no sound is called {name!r}; the sounds are: {', '.join(SOUNDS)}")
    wave = _TIMBRES[name](1.0 + 0.05 * pitch)
    gain = min(RMS / float(np.sqrt(np.mean(wave**2))), PEAK / float(np.abs(wave).max()))
    scaled = (wave * gain).astype(np.float32)
    scaled.setflags(write=False)
    return scaled


@lru_cache(maxsize=1)
def noise_floor() -> NDArray[np.float32]:
    """Return ten seconds of faint white noise, which is about 45 dB softer than the loops."""
    noise = np.random.default_rng(23).standard_normal(10 * SAMPLE_RATE_HZ) * 4e-4
    return noise.astype(np.float32)


@lru_cache(maxsize=32)
def time_tone(duration_s: int) -> NDArray[np.float32]:
    """Return a faint tone that rises from 5.2 to 7.4 kHz during the clip, ``(S,)``.

    It tells the time in the clip, as the time bar does in the frames.
    """
    pitch_hz = np.linspace(5200.0, 7400.0, duration_s * SAMPLE_RATE_HZ)
    tone = (6e-3 * np.sin(2 * np.pi * np.cumsum(pitch_hz) / SAMPLE_RATE_HZ)).astype(np.float32)
    tone.setflags(write=False)
    return tone
