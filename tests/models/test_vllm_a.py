"""V-LLM+A on a tiny checkpoint: positions, sound in its places, answers, freeze policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from crab_lightning.adapters import AdapterConfig
from crab_lightning.mini import make_tiny_vllm_a
from crab_lightning.models import VllmAModule
from crab_lightning.models.connectors import ConnectorConfig
from crab_lightning.structures import Example, Media
from tests.models.conftest import assert_batches_change_no_answer
from tests.processing.examples import frames, sample, sound
from tests.quiet import with_trained_adapters

PX = 56
CONNECTOR = ConnectorConfig(kind="window_qformer", queries=1, hidden=16, heads=2, ffn=24)
Build = Callable[..., VllmAModule]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_vllm_a(tmp_path_factory.mktemp("vllm_a"))


@pytest.fixture(scope="module")
def stage1(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stage1")
    torch.manual_seed(1)
    module = VllmAModule(
        str(tiny / "vllm"),
        beats=str(tiny / "beats"),
        dtype="float32",
        train_connectors=["audio"],
        connector=CONNECTOR,
    )
    module.configure_model()
    assert {name.split(".")[1] for name in module.trainable_names()} == {"audio_connector"}
    module.save_adapter(folder)
    return folder / "audio_connector.safetensors"


@pytest.fixture
def build(tiny: Path, stage1: Path) -> Build:
    def make(**options: Any) -> VllmAModule:
        torch.manual_seed(0)
        full: dict[str, Any] = {"adapter": AdapterConfig(rank=4), "dtype": "float32", "max_new_tokens": 5}
        full |= {"geometry": "plain", "audio_connector": stage1, "connector": CONNECTOR}
        full |= {"pretrained": tiny / "vllm", "beats": tiny / "beats"}
        module = VllmAModule(**(full | options))
        module.configure_model()
        return with_trained_adapters(module)

    return make


def example(key: str, target: str | None, seconds: float, count: int = 0, grid_s: float = 2.0) -> Example:
    seen = Media.VIDEO if count else Media.IMAGE
    return Example(
        sample(key),
        ("Look", seen, "and listen:", Media.AUDIO, f"What is {key}?"),
        target,
        videos=[frames(count, size_px=PX)] if count else [],
        images=[] if count else [frames(1, seed=3, size_px=PX)[0]],
        audios=[sound(seconds, seed=len(key))],
        seconds_per_grid=[grid_s] if count else [],
    )


def examples(target: str | None) -> list[Example]:
    return [
        example("a", target, 1.5, 4, 8.0),
        example("a longer one", target, 0.1),
        example("third", target, 0.8, 3, 0.5),
    ]


def test_sound_takes_a_place_for_each_window(build: Build) -> None:
    processor: Any = build().processor
    inputs = processor.encode(example("a", None, 30.0, 2)).inputs
    assert (inputs["media_kind"] == 2).sum() == 88
    assert (inputs["input_ids"] == processor.visual_ids[Media.VIDEO]).sum() == 4


def positions_of_the_library(
    module: VllmAModule, inputs: dict[str, torch.Tensor], seconds: list[float]
) -> Any:
    processor: Any = module.processor
    ids = inputs["input_ids"]
    kinds = (ids == processor.visual_ids[Media.IMAGE]).int() + 2 * (
        ids == processor.visual_ids[Media.VIDEO]
    ).int()
    found, _ = module.model.language_model.model.get_rope_index(  # type: ignore[operator,union-attr]
        ids,
        kinds,
        image_grid_thw=inputs.get("image_grid_thw"),
        video_grid_thw=inputs.get("video_grid_thw"),
        second_per_grid_ts=torch.tensor(seconds) if seconds else None,
        attention_mask=inputs["attention_mask"],
    )
    return found


def unheard(
    key: str, *parts: str | int, grids_s: tuple[float, ...] = (), target: str | None = None
) -> Example:
    """Return an example without sound: texts, and numbers of frames of which 0 is an image."""
    clips = [part for part in parts if isinstance(part, int)]
    return Example(
        sample(key),
        tuple(p if isinstance(p, str) else Media.VIDEO if p else Media.IMAGE for p in parts),
        target,
        videos=[frames(count, size_px=PX) for count in clips if count],
        images=[frames(1, seed=3, size_px=PX)[0] for count in clips if not count],
        seconds_per_grid=list(grids_s),
    )


# Whole seconds: transformers before 5.23 drops what is behind the point.
UNHEARD = {
    "text": unheard("t", "What is this? It is long enough."),
    "image": unheard("i", "Look", 0, "What is this?"),
    "video": unheard("v", "Look", 6, "What is this?", grids_s=(2.0,)),
    "long video": unheard("l", 8, "It?", grids_s=(9.0,)),
    "two videos": unheard("w", "Look", 4, "and", 3, "Which?", grids_s=(2.0, 5.0)),
    "video between images": unheard("b", 0, "then", 5, "then", 0, "What?", grids_s=(1.0,)),
}


@pytest.mark.parametrize("kind", UNHEARD)
def test_positions_without_sound_equal_the_librarys(kind: str, build: Build) -> None:
    module = build()
    example = UNHEARD[kind]
    inputs = module.processor.collate([module.processor.encode(example)]).inputs
    assert torch.equal(
        inputs["position_ids"], positions_of_the_library(module, inputs, example.seconds_per_grid)
    )


@pytest.mark.parametrize("target", ["a dog", None])
def test_positions_of_a_padded_batch_equal_the_librarys(target: str | None, build: Build) -> None:
    module = build()
    batch = [replace(e, target=target) for e in UNHEARD.values()]
    inputs = module.processor.collate([module.processor.encode(e) for e in batch]).inputs
    theirs = positions_of_the_library(module, inputs, [s for e in batch for s in e.seconds_per_grid])
    own = inputs["attention_mask"].bool()
    assert not own.all()
    assert torch.equal(inputs["position_ids"][:, own], theirs[:, own])


@pytest.mark.skipif(
    tuple(map(int, transformers.__version__.split(".")[:2])) < (5, 23),
    reason="transformers rounds the seconds of a grid down before 5.23",
)
def test_fractions_of_a_second_equal_the_librarys(build: Build) -> None:
    module = build()
    example = unheard("f", "Look", 8, "and", 6, "Which?", grids_s=(0.5, 1.07))
    inputs = module.processor.collate([module.processor.encode(example)]).inputs
    assert torch.equal(inputs["position_ids"], positions_of_the_library(module, inputs, [0.5, 1.07]))


def test_sound_counts_like_text(build: Build) -> None:
    module = build()
    inputs = module.processor.collate([module.processor.encode(example("a", None, 1.5, 4, 8.0))]).inputs
    assert torch.equal(inputs["position_ids"], positions_of_the_library(module, inputs, [8.0]))
    heard = inputs["position_ids"][:, inputs["media_kind"] == 2]
    assert heard.shape[1] == 4
    assert torch.equal(heard - heard[0, 0], torch.arange(4).expand(3, -1))


def test_frames_step_with_time_and_text_goes_on_behind_one_frame(build: Build) -> None:
    processor: Any = build().processor
    inputs = processor.encode(example("a", None, 1.5, 4, 8.0)).inputs
    video = inputs["input_ids"] == processor.visual_ids[Media.VIDEO]
    positions = inputs["position_ids"]
    first = int(video.nonzero()[0])
    block = positions[:, video] - first
    # 2 positions a second, 8 s between two pairs of frames; 2 x 2 merged patches each
    assert block[0].tolist() == [0, 0, 0, 0, 16, 16, 16, 16]
    assert block[1].tolist() == [0, 0, 1, 1] * 2
    assert block[2].tolist() == [0, 1] * 4
    behind = positions[:, first + 8 :]
    assert torch.equal(behind, (torch.arange(behind.shape[1]) + first + 2).expand(3, -1))


def test_an_answer_is_generated_where_it_would_be_learnt(build: Build) -> None:
    module = build(max_new_tokens=3)
    processor: Any = module.processor
    prompt = unheard("l", 8, "It?", grids_s=(99.0,))  # the last frame lies far behind all text
    learnt = processor.encode(replace(prompt, target="a dog barks")).inputs["position_ids"]
    seen: list[torch.Tensor] = []
    rotary: Any = module.decoder().rotary_emb
    rotary.register_forward_pre_hook(lambda _, args: seen.append(args[1][:, 0]))
    module.generate(processor.collate([processor.encode(prompt)]))
    generated = torch.cat(seen, dim=1)
    assert len(seen) > 1
    assert torch.equal(generated, learnt[:, : generated.shape[1]])


@torch.no_grad()
def test_sound_stands_in_its_places_and_pictures_are_the_models_own(build: Build) -> None:
    module = build(adapter=None).eval()
    model: Any = module.model
    processor: Any = module.processor
    inputs = processor.collate([processor.encode(e) for e in examples(None)]).inputs
    found = module.hidden_states(inputs)
    embeds = model.language_model.get_input_embeddings()(inputs["input_ids"])
    features, own = model.audio(inputs["sounds"], inputs["sound_steps"])
    heard = iter(model.audio_connector(features, own))
    for row, place in (inputs["media_kind"] == 2).nonzero().tolist():
        embeds[row, place] = next(heard)
    assert next(heard, None) is None
    left = {k: v for k, v in inputs.items() if k not in ("media_kind", "sounds", "sound_steps")}
    theirs = model.language_model(**left, inputs_embeds=embeds, output_hidden_states=True).hidden_states[-1]
    mask = inputs["attention_mask"].bool()
    torch.testing.assert_close(found[mask], theirs[mask], atol=1e-5, rtol=1e-5)


def test_batched_answers_equal_single_ones(build: Build) -> None:
    assert_batches_change_no_answer(build().eval(), examples(None))


def test_stage_2_trains_adapters_only(build: Build) -> None:
    module = build().train()
    assert all("lora_" in name for name in module.trainable_names())
    assert not module.connectors()["audio"].training
    module.check_policy()
    processor = module.processor
    batch = processor.collate([processor.encode(e) for e in examples("a dog barks")])
    sums, counts = module.losses(batch)
    assert counts.tolist() == [len(processor.chat._tokenize("a dog barks<|im_end|>"))] * 3  # type: ignore[attr-defined]
    torch.autograd.backward(sums.sum())
    assert all(p.grad is not None for p in module.parameters() if p.requires_grad)


def test_stage_1_reaches_the_connector_through_the_frozen_model(build: Build) -> None:
    module = build(adapter=None, train_connectors=["audio"], gradient_checkpointing=True).train()
    processor = module.processor
    batch = processor.collate([processor.encode(e) for e in examples("a dog barks")])
    torch.autograd.backward(module.losses(batch)[0].sum())
    assert all(p.grad is not None for p in module.connectors()["audio"].parameters())
    module.check_policy()


def test_stage_2_without_a_connector_file_is_refused(build: Build) -> None:
    with pytest.raises(ValueError, match=r"model\.audio_connector is null .*would keep random weights"):
        build(audio_connector=None)


def test_conversation_is_qwens(build: Build) -> None:
    processor: Any = build().processor
    text = processor.chat.tokenizer.decode(processor.encode(example("a", "yes", 0.1)).inputs["input_ids"])
    assert text.startswith(
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nLook<|vision_start|>"
        "<|image_pad|><|image_pad|><|image_pad|><|image_pad|><|vision_end|>and listen:"
    )
    assert text.endswith("What is a?<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>")
