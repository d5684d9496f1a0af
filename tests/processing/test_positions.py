"""Positions made in the loader are those that the model would compute."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import Qwen2_5OmniThinkerForConditionalGeneration

from crab_lightning.processing import NativeProcessor
from crab_lightning.processing.positions import Block, rope_positions
from crab_lightning.structures import Batch, Example, Media
from tests.processing.examples import frames, image_example, sample, sound, video_example


def model_positions(tiny: Path, batch: Batch) -> torch.Tensor:
    model = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(tiny)
    inputs = batch.inputs
    positions: torch.Tensor
    positions, _ = model.get_rope_index(
        inputs["input_ids"],
        inputs.get("image_grid_thw"),
        inputs.get("video_grid_thw"),
        inputs["attention_mask"],
        False,
        inputs["feature_attention_mask"].sum(1),
        inputs.get("video_second_per_grid"),
    )
    return positions


@pytest.mark.parametrize("target", ["a dog", None])
def test_batch_positions_equal_the_models(tiny: Path, processor: NativeProcessor, target: str | None) -> None:
    examples = [
        video_example("a", target=target),
        image_example(target=target),
        video_example("b", target=target, count=4),
    ]
    batch = processor.collate([processor.encode(e) for e in examples])
    assert torch.equal(batch.inputs["position_ids"], model_positions(tiny, batch))


def test_two_videos_two_sounds_and_odd_time_scales_equal_the_models(tiny: Path) -> None:
    talk = ("Two:", Media.AUDIO, Media.VIDEO, "and", Media.VIDEO, Media.AUDIO, "Which?")
    example = Example(
        sample("ab", "a2v"), talk, "1", [frames(5), frames(6)], [], [sound(1.3), sound(2.0)], [1.07, 2.53]
    )
    processor = NativeProcessor(tiny, "plain")
    batch = processor.collate([processor.encode(example)])
    assert torch.equal(batch.inputs["position_ids"], model_positions(tiny, batch))


def test_released_grids_lie_50_positions_apart(processor: NativeProcessor) -> None:
    inputs = processor.encode(video_example()).inputs
    times = inputs["position_ids"][0][inputs["input_ids"] == processor.placeholders.video]
    assert torch.unique(times).diff().tolist() == [50, 50, 50, 50]


def test_one_second_a_grid_would_give_other_positions() -> None:
    released, newer = (rope_positions(400, [Block(10, (5, 16, 16), s)], 25) for s in (2.0, 1.0))
    assert not torch.equal(released, newer)
    assert int(newer[0, 10 + 64] - newer[0, 10]) == 25


def test_text_alone_counts_up_in_all_three_coordinates() -> None:
    assert torch.equal(rope_positions(5, [], 25), torch.arange(5).expand(3, -1))
