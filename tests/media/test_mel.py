"""Log-mel of the clip's own length against the feature extractor that the checkpoints were trained with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import WhisperFeatureExtractor
from transformers.audio_utils import mel_filter_bank

from crab_lightning.media import log_mel, mel_frames
from crab_lightning.media.mel import _mel_filters


@pytest.fixture(scope="module")
def extractor() -> Any:
    return WhisperFeatureExtractor(feature_size=128)


def _expected(extractor: Any, audio: torch.Tensor) -> torch.Tensor:
    made = extractor(
        audio.numpy(),
        sampling_rate=16_000,
        return_attention_mask=True,
        padding="max_length",
        return_tensors="pt",
    )
    features: torch.Tensor = made["input_features"][0][:, made["attention_mask"][0].bool()]
    return features


@pytest.mark.parametrize("samples", [160_000, 160_001, 160_125, 64_000, 16_000, 15_999, 8_037, 250, 150, 1])
def test_equals_the_feature_extractor_on_real_frames(samples: int, extractor: Any) -> None:
    generator = torch.Generator().manual_seed(samples)
    audio = torch.randn(samples, generator=generator) * 0.1
    mel = log_mel(audio)
    assert mel.shape == (128, mel_frames(samples))
    torch.testing.assert_close(mel, _expected(extractor, audio), atol=2e-6, rtol=0)


def test_silence_equals_the_feature_extractor(extractor: Any) -> None:
    audio = torch.zeros(16_000)
    torch.testing.assert_close(log_mel(audio), _expected(extractor, audio), atol=1e-6, rtol=0)


@pytest.mark.parametrize("samples", [16_000, 16_100, 16_159])
def test_click_at_the_very_end_sets_the_floor_as_in_the_padded_clip(samples: int, extractor: Any) -> None:
    # The loudest frame lies behind the clip: it is not returned, but the lower bound is measured from it.
    audio = torch.full((samples,), 1e-4)
    audio[-1] = 1.0
    torch.testing.assert_close(log_mel(audio), _expected(extractor, audio), atol=2e-6, rtol=0)


def test_filters_equal_slaneys() -> None:
    expected = mel_filter_bank(201, 128, 0.0, 8000.0, 16_000, norm="slaney", mel_scale="slaney")
    torch.testing.assert_close(_mel_filters(), torch.from_numpy(expected).T.float(), atol=1e-8, rtol=1e-5)


@pytest.mark.parametrize("audio", [torch.zeros(0), torch.zeros(1, 100)])
def test_no_sound_is_an_error(audio: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        log_mel(audio)
