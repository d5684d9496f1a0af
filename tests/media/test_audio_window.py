"""Audio windows: the numbers of the AV-UIE v2 format description."""

from __future__ import annotations

import pytest
import torch

from crab_lightning.media import AudioWindowError, apply_window, mel_frames
from crab_lightning.structures import AudioWindow

MUSIC_AVQA = AudioWindow(kind="strided", units=60, every=6, before=0.5, after=1.5)


def _ramp(samples: int) -> torch.Tensor:
    return torch.arange(1, samples + 1, dtype=torch.float64)


def _audio_tokens(samples: int) -> int:
    return ((mel_frames(samples) - 1) // 2 + 1 - 2) // 2 + 1


def test_units_drop_only_the_remainder() -> None:
    audio = _ramp(160_129)
    window = apply_window(audio, AudioWindow(kind="units", units=10))
    assert torch.equal(window, audio[:160_120])
    assert torch.equal(apply_window(audio, AudioWindow(kind="units", units=5)), audio[:160_125])


def test_units_are_not_cut_to_ten_seconds() -> None:
    assert apply_window(_ramp(30 * 16_000), AudioWindow(kind="units", units=10)).numel() == 30 * 16_000


@pytest.mark.parametrize("kind", ["all", "units"])
def test_every_clip_is_padded_to_one_second(kind: str) -> None:
    window = apply_window(_ramp(4_000), AudioWindow(kind=kind, units=10))  # type: ignore[arg-type]
    assert window.numel() == 16_000
    assert torch.equal(window[:4_000], _ramp(4_000))
    assert not window[4_000:].any()


def test_empty_clip_becomes_one_second_of_silence() -> None:
    assert torch.equal(apply_window(torch.zeros(0), AudioWindow(kind="all")), torch.zeros(16_000))


def test_one_unit_is_one_second_of_a_five_second_clip() -> None:
    audio = _ramp(5 * 16_000 + 3)
    window = apply_window(audio, AudioWindow(kind="one_unit", units=5), 3)
    assert torch.equal(window, audio[48_000:64_000])
    assert _audio_tokens(window.numel()) == 25


@pytest.mark.parametrize("unit", [5, -1, None])
def test_unit_beyond_the_clip_is_an_error_not_silence(unit: int | None) -> None:
    with pytest.raises(
        AudioWindowError, match=f"audio unit {unit} was asked for, but the window has units 0 to 4"
    ):
        apply_window(_ramp(80_000), AudioWindow(kind="one_unit", units=5), unit)


@pytest.mark.parametrize("samples", [100, 16_000, 30_000, 64_000, 64_001, 200_000])
def test_head_is_exactly_four_seconds(samples: int) -> None:
    audio = _ramp(samples)
    window = apply_window(audio, AudioWindow(kind="head", head_s=4.0))
    assert window.numel() == 64_000
    kept = min(samples, 64_000)
    assert torch.equal(window[:kept], audio[:kept])
    assert not window[kept:].any()
    assert _audio_tokens(window.numel()) == 100


def test_strided_keeps_twenty_of_sixty_seconds() -> None:
    audio = _ramp(60 * 16_000)
    window = apply_window(audio, MUSIC_AVQA)
    assert window.numel() == 20 * 16_000
    assert _audio_tokens(window.numel()) == 500
    pieces = window.view(10, 32_000)
    # The first window has half a unit of nothing on its left, so its 1.5 units are padded to 2.
    assert not pieces[0, :8_000].any()
    assert torch.equal(pieces[0, 8_000:], audio[:24_000])
    for k in range(1, 10):
        start = 6 * k * 16_000 - 8_000
        assert torch.equal(pieces[k], audio[start : start + 32_000])


def test_strided_truncates_half_units_of_odd_length() -> None:
    audio = _ramp(60 * 16_001 + 7)  # u = 16001
    window = apply_window(audio, MUSIC_AVQA)
    pieces = window.view(10, 32_002)
    assert torch.equal(pieces[0], torch.cat([torch.zeros(32_002 - 24_001), audio[:24_001]]))
    assert torch.equal(pieces[1], audio[int(5.5 * 16_001) : int(7.5 * 16_001)])
    assert torch.equal(pieces[9], audio[int(53.5 * 16_001) : int(55.5 * 16_001)])


def test_strided_on_a_short_clip_still_has_twenty_units() -> None:
    assert apply_window(_ramp(16_000 * 10), MUSIC_AVQA).numel() == 20 * (160_000 // 60)


def test_window_that_ends_behind_the_clip_is_padded_on_the_right() -> None:
    window = apply_window(_ramp(20_000), AudioWindow(kind="strided", units=4, every=3, before=1, after=2))
    assert torch.equal(window[15_000:20_000], _ramp(20_000)[10_000:15_000])
    assert torch.equal(window[20_000:], torch.cat([_ramp(20_000)[15_000:], torch.zeros(5_000)]))


@pytest.mark.parametrize(
    ("audio", "window", "message"),
    [
        (torch.zeros(2, 100), AudioWindow(kind="all"), r"shape \(2, 100\)"),
        (torch.zeros(100), AudioWindow(kind="units", units=0), "audio.units is 0"),
        (torch.zeros(100), AudioWindow(kind="strided", units=5, every=0), "audio.every is 0"),
    ],
)
def test_senseless_windows_are_refused(audio: torch.Tensor, window: AudioWindow, message: str) -> None:
    with pytest.raises(AudioWindowError, match=message):
        apply_window(audio, window)
