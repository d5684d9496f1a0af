"""The native processor writes exactly what the released adapter was trained on."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from crab_lightning.processing import GeometryError, NativeProcessor, Processor, audio_tokens, visual_tokens
from crab_lightning.structures import SYSTEM_MESSAGE, Example, Media, Reply
from tests.processing.examples import frames, image_example, sample, sound, video_example


def count(inputs: dict[str, torch.Tensor], token_id: int) -> int:
    return int((inputs["input_ids"] == token_id).sum())


def stock_inputs(processor: NativeProcessor, example: Example) -> dict[str, torch.Tensor]:
    """What the published processor makes of the same media, told not to resize or retime them."""
    return dict(
        processor.stock(
            text=[processor.render(example.conversation, example.target)],
            images=example.images or None,
            videos=example.videos or None,
            audio=[a.numpy() for a in example.audios] or None,
            videos_kwargs={"do_resize": False, "fps": 1.0},
            images_kwargs={"do_resize": False},
            return_tensors="pt",
        )
    )


def test_it_is_a_processor(processor: NativeProcessor) -> None:
    assert isinstance(processor, Processor)


def test_conversation_is_written_as_the_released_format(processor: NativeProcessor) -> None:
    text = processor.render(("Open:", Media.VIDEO, Media.AUDIO, Media.IMAGE, "Ask?"), "Answer.")
    assert text == (
        f"<|im_start|>system\n{SYSTEM_MESSAGE}<|im_end|>\n"
        "<|im_start|>user\nOpen:<|vision_bos|><|VIDEO|><|vision_eos|><|audio_bos|><|AUDIO|><|audio_eos|>"
        "<|vision_bos|><|IMAGE|><|vision_eos|>Ask?<|im_end|>\n"
        "<|im_start|>assistant\nAnswer.<|im_end|>\n"
    )


@pytest.mark.parametrize("every", [True, False])
def test_several_turns_are_those_of_the_stock_template_and_learnt_as_wanted(
    processor: NativeProcessor, every: bool
) -> None:
    example = video_example(target="two cats")
    opening, *media, ask = example.conversation
    example.conversation = (opening, *media, ask, Reply(" a dog\n"), "1 more?", Reply("a bell"), "\nThen?")
    example.learn_replies = every
    user = [{"type": "video", "video": ""}, {"type": "audio", "audio": ""}, {"type": "text", "text": ask}]
    chat: list[dict[str, Any]] = [
        {"role": "system", "content": [{"type": "text", "text": SYSTEM_MESSAGE}]},
        {"role": "user", "content": [{"type": "text", "text": opening}, *user]},
    ]
    for role, text in zip(
        ["assistant", "user"] * 2, [" a dog\n", "1 more?", "a bell", "\nThen?"], strict=True
    ):
        chat.append({"role": role, "content": [{"type": "text", "text": text}]})
    text = processor.stock.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert processor.render(example.conversation) == (text[0] if isinstance(text, list) else text)
    encoded = processor.encode(example)
    learnt = encoded.labels != -100
    said = processor.tokenizer.decode(encoded.labels[learnt])
    assert said == ("\n a dog\n<|im_end|>\na bell<|im_end|>" if every else "") + "\ntwo cats<|im_end|>"
    assert torch.equal(encoded.labels[learnt], encoded.inputs["input_ids"][learnt])
    whole = stock_inputs(processor, example)["input_ids"][0]
    assert torch.equal(encoded.inputs["input_ids"], whole)


@pytest.mark.parametrize(
    "target", ["a dog barks", " leading blank", "two\nlines", "<obj>(10,224)</obj>.", "日本 été"]
)
def test_labels_are_newline_target_and_end_token(processor: NativeProcessor, target: str) -> None:
    encoded = processor.encode(video_example(target=target))
    assert encoded.labels is not None
    learnt = encoded.labels != -100
    assert torch.equal(encoded.labels[learnt], encoded.inputs["input_ids"][learnt])
    assert processor.tokenizer.decode(encoded.labels[learnt]) == f"\n{target}<|im_end|>"
    # one unbroken run, with the final newline after it
    places = learnt.nonzero().flatten().tolist()
    assert places == list(range(places[0], len(learnt) - 1))


@pytest.mark.parametrize("example", [video_example(), image_example(), video_example(target=None)])
def test_inputs_equal_those_of_the_stock_processor(processor: NativeProcessor, example: Example) -> None:
    ours, theirs = processor.encode(example).inputs, stock_inputs(processor, example)
    assert torch.equal(ours["input_ids"], theirs["input_ids"][0])
    for key in {"pixel_values_videos", "pixel_values", "video_grid_thw", "image_grid_thw"} & theirs.keys():
        assert torch.equal(ours[key], theirs[key]), key
    if "video_second_per_grid" in theirs:
        assert ours["video_second_per_grid"].tolist() == list(theirs["video_second_per_grid"]) == [2.0]
    mask = theirs["feature_attention_mask"][0].bool()
    assert ours["feature_attention_mask"].shape == (1, int(mask.sum()))
    torch.testing.assert_close(
        ours["input_features"][0], theirs["input_features"][0][:, mask], atol=1e-4, rtol=0
    )


@pytest.mark.parametrize(("clip_frames", "tokens"), [(10, 320), (20, 640), (4, 128), (1, 64), (9, 320)])
def test_visual_token_counts(processor: NativeProcessor, clip_frames: int, tokens: int) -> None:
    inputs = processor.encode(video_example(count=clip_frames, seconds=1.0)).inputs
    assert count(inputs, processor.placeholders.video) == tokens == visual_tokens(clip_frames, 224, 224)


@pytest.mark.parametrize(
    ("seconds", "tokens"), [(10, 250), (20, 500), (4, 100), (1, 25), (5, 125), (60, 1500)]
)
def test_audio_token_counts(processor: NativeProcessor, seconds: float, tokens: int) -> None:
    example = video_example(count=2, seconds=seconds)
    assert count(processor.encode(example).inputs, processor.placeholders.audio) == tokens


def test_audio_tokens_follow_the_published_formula() -> None:
    assert [audio_tokens(m) for m in (100, 101, 103, 104, 1000, 3000)] == [25, 25, 26, 26, 250, 750]


def test_image_takes_64_tokens(processor: NativeProcessor) -> None:
    inputs = processor.encode(image_example()).inputs
    assert count(inputs, processor.placeholders.image) == 64
    assert inputs["image_grid_thw"].tolist() == [[1, 16, 16]]


def test_released_geometry_refuses_another_size(processor: NativeProcessor) -> None:
    example = dataclasses.replace(video_example(), videos=[frames(4, size_px=112)])
    with pytest.raises(GeometryError, match=r"ave/v: video of 112 x 112 px .* 224 x 224"):
        processor.encode(example)


def test_released_geometry_refuses_another_time_scale(processor: NativeProcessor) -> None:
    example = dataclasses.replace(video_example(), seconds_per_grid=[1.0])
    with pytest.raises(GeometryError, match=r"1\.0 s per grid .* expects 2\.0"):
        processor.encode(example)


def test_plain_geometry_keeps_size_and_time(tiny: Path) -> None:
    plain = NativeProcessor(tiny, "plain")
    example = dataclasses.replace(video_example(), videos=[frames(4, size_px=112)], seconds_per_grid=[7.5])
    inputs = plain.encode(example).inputs
    assert inputs["video_grid_thw"].tolist() == [[2, 8, 8]]
    assert inputs["video_second_per_grid"].tolist() == [7.5]
    with pytest.raises(GeometryError, match="one positive number of seconds per grid"):
        plain.encode(dataclasses.replace(example, seconds_per_grid=[]))
    with pytest.raises(GeometryError, match="multiples of 28"):
        plain.encode(dataclasses.replace(example, videos=[frames(4, size_px=100)]))


def test_plain_geometry_reads_long_clips(tiny: Path) -> None:
    times = [36.67, 600.1]  # neither is a number of float32
    example = dataclasses.replace(video_example(), videos=[frames(4), frames(4)], seconds_per_grid=times)
    example.conversation = (Media.VIDEO, *example.conversation)
    inputs = NativeProcessor(tiny, "plain").encode(example).inputs
    assert inputs["video_second_per_grid"].tolist() == pytest.approx(times)


def test_plain_geometry_keeps_two_clips_apart(tiny: Path) -> None:
    talk = ("Two:", Media.AUDIO, Media.VIDEO, Media.VIDEO, "Which?")
    example = Example(
        sample("ab", "a2v"), talk, "first", [frames(4), frames(6, 1)], [], [sound(1.0)], [1.0, 2.5]
    )
    inputs = NativeProcessor(tiny, "plain").encode(example).inputs
    assert inputs["video_grid_thw"].tolist() == [[2, 16, 16], [3, 16, 16]]


def test_reserved_token_in_a_text_is_refused(processor: NativeProcessor) -> None:
    example = dataclasses.replace(video_example(), conversation=("<|im_end|>", Media.VIDEO, Media.AUDIO))
    with pytest.raises(ValueError, match=r"ave/v: its text contains the reserved token '<\|im_end\|>'"):
        processor.encode(example)


def test_missing_clip_is_refused(processor: NativeProcessor) -> None:
    with pytest.raises(ValueError, match="1 placeholder for audio, but 0 clips were"):
        processor.encode(dataclasses.replace(video_example(), audios=[]))


def test_sample_beyond_max_length_is_refused(tiny: Path) -> None:
    with pytest.raises(ValueError, match="more than max_length 300"):
        NativeProcessor(tiny, max_length=300).encode(video_example())


def test_overlong_audio_is_refused(processor: NativeProcessor) -> None:
    with pytest.raises(GeometryError, match=r"301\.000 s of audio"):
        processor.encode(dataclasses.replace(video_example(), audios=[torch.zeros(301 * 16_000)]))


def test_checkpoint_with_another_processor_is_refused(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "altered"
    shutil.copytree(tiny, folder)
    config = json.loads((folder / "processor_config.json").read_text())
    config["video_processor"]["image_mean"] = [0.5, 0.5, 0.5]
    (folder / "processor_config.json").write_text(json.dumps(config))
    with pytest.raises(GeometryError, match=r"video_processor\.image_mean is \(0\.5"):
        NativeProcessor(folder)


def test_checkpoint_with_another_chat_template_is_refused(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "altered"
    shutil.copytree(tiny, folder)
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text().replace("<|im_start|>assistant", "<|im_start|>bot"))
    with pytest.raises(ValueError, match="chat template writes"):
        NativeProcessor(folder)


def test_training_batches_are_padded_right_and_prompts_left(processor: NativeProcessor) -> None:
    examples = [video_example(), image_example()]
    batch = processor.collate([processor.encode(e) for e in examples])
    assert batch.labels is not None
    assert batch.inputs["attention_mask"][1].tolist() == sorted(
        batch.inputs["attention_mask"][1], reverse=True
    )
    assert (batch.labels[batch.inputs["attention_mask"] == 0] == -100).all()
    prompts = processor.collate([processor.encode(dataclasses.replace(e, target=None)) for e in examples])
    assert prompts.labels is None
    assert prompts.inputs["attention_mask"][:, -1].tolist() == [1, 1]
    assert prompts.inputs["attention_mask"][1, 0] == 0


def test_prompts_and_training_examples_do_not_mix(processor: NativeProcessor) -> None:
    items = [processor.encode(video_example()), processor.encode(image_example(target=None))]
    with pytest.raises(ValueError, match="1 example with a target and 1 without"):
        processor.collate(items)


def test_batch_keeps_order_and_marks_repeats(processor: NativeProcessor) -> None:
    items = [processor.encode(image_example(key)) for key in "ab"]
    batch = processor.collate(items, repeated=[False, True])
    assert [s.id for s in batch.samples] == ["s4/a", "s4/b"]
    assert batch.repeated == [False, True]


def test_decode_drops_markup_and_outer_blanks(processor: NativeProcessor) -> None:
    ids = processor.tokenizer("\n a dog <answer>x</answer> <|im_end|>")["input_ids"]
    assert processor.decode(ids) == "a dog <answer>x</answer>"
