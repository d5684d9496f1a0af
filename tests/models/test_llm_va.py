"""LLM+V+A on a tiny checkpoint: loss, answers, freeze policy, saving."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPVisionModel, LlamaForCausalLM

from crab_lightning.adapters import AdapterConfig, LoRALinear
from crab_lightning.mini import make_tiny_llm_va
from crab_lightning.mini.checkpoints.composite import TinyLlmVaConfig
from crab_lightning.models import LlmVaModule
from crab_lightning.models.composite import splice
from crab_lightning.models.connectors import ConnectorConfig
from crab_lightning.processing import LlmVaProcessor
from crab_lightning.structures import Example, Media
from tests.models.conftest import assert_batches_change_no_answer
from tests.processing.examples import frames, sample, sound
from tests.quiet import with_trained_adapters

PX = 32
CONNECTOR = ConnectorConfig(queries=3, hidden=16, heads=2, ffn=24)
Build = Callable[..., LlmVaModule]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = TinyLlmVaConfig(image_px=PX, patch_px=16)
    return make_tiny_llm_va(tmp_path_factory.mktemp("llm_va"), config=sizes)


@pytest.fixture
def build(tiny: Path) -> Build:
    def make(**options: Any) -> LlmVaModule:
        torch.manual_seed(0)
        full: dict[str, Any] = {"adapter": AdapterConfig(rank=4), "dtype": "float32", "max_new_tokens": 5}
        full |= {"pretrained": tiny / "llm", "vision": tiny / "clip", "beats": tiny / "beats"}
        module = LlmVaModule(connector=CONNECTOR, **(full | options))
        module.configure_model()
        return module

    return make


def example(
    key: str, target: str | None, count: int = 2, seconds: float = 1.5, image: bool = False
) -> Example:
    seen = Media.IMAGE if image else Media.VIDEO
    return Example(
        sample(key),
        ("Look and listen:", seen, Media.AUDIO, f"What is {key}?"),
        target,
        videos=[] if image else [frames(count, size_px=PX)],
        images=[frames(1, seed=3, size_px=PX)[0]] if image else [],
        audios=[sound(seconds, seed=len(key))],
    )


EXAMPLES = [("a", 2, 1.5, False), ("a longer one", 3, 2.0, False), ("third", 1, 0.1, True)]


def examples(target: str | None) -> list[Example]:
    return [example(key, target, count, seconds, image) for key, count, seconds, image in EXAMPLES]


def test_frame_and_second_take_as_many_places_as_queries(build: Build) -> None:
    processor: Any = build().processor
    inputs = processor.encode(example("a", None)).inputs
    assert (inputs["media_kind"] == 1).sum() == 2 * 3
    assert (inputs["media_kind"] == 2).sum() == 2 * 3  # a second and a half
    runs = inputs["media_kind"].unique_consecutive().tolist()
    assert runs == [0, 1, 2, 0]


@torch.no_grad()
def test_media_stand_where_the_conversation_has_them(build: Build) -> None:
    module = build(adapter=None).eval()
    model: Any = module.model
    processor: Any = module.processor
    inputs = processor.collate([processor.encode(e) for e in examples(None)]).inputs
    found = module.hidden_states(module._positioned(inputs))
    ids, kind, mask = inputs["input_ids"], inputs["media_kind"], inputs["attention_mask"]
    seen = model.visual_connector(
        module.visual_encoder.features(model.vision, inputs["frames"], inputs["frame_counts"])
    )
    features, own = model.audio(inputs["sounds"], inputs["sound_steps"])
    heard = model.audio_connector(features, own)
    embeds = model.language_model.get_input_embeddings()(ids)
    visual, audible = iter(seen), iter(heard)
    for row in range(3):
        for place in range(ids.shape[1]):
            if kind[row, place]:
                embeds[row, place] = next(visual if kind[row, place] == 1 else audible)
    plain = model.language_model.model(inputs_embeds=embeds, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(found[mask.bool()], plain[mask.bool()], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_patches_are_those_of_the_layer_before_the_last(build: Build, tiny: Path) -> None:
    module = build()
    model: Any = module.model
    picture = torch.zeros(1, 3, PX, PX, dtype=torch.uint8)
    pixels = (
        torch.zeros(1, 3, PX, PX) - torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
    ) / (torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1))
    clip = CLIPVisionModel.from_pretrained(tiny / "clip")
    states = clip(pixel_values=pixels, output_hidden_states=True).hidden_states
    assert len(states) == 3
    found = module.visual_encoder.features(model.vision, picture, torch.tensor([1]))
    torch.testing.assert_close(found, states[1][:, 1:], atol=1e-5, rtol=0)


def test_loss_is_that_of_the_answer_and_its_end_alone(build: Build, tiny: Path) -> None:
    module = build(adapter=None).eval()
    processor: Any = module.processor
    batch = processor.collate([processor.encode(e) for e in examples("a dog barks")])
    sums, counts = module.losses(batch)
    answer = processor.chat._tokenize("a dog barks<|eot_id|>")
    assert counts.tolist() == [len(answer)] * 3
    hidden = module.hidden_states(module._positioned(batch.inputs))
    logits = module.answer_head()(hidden)
    theirs = LlamaForCausalLM.from_pretrained(tiny / "llm").loss_function(
        logits, batch.labels, vocab_size=logits.shape[-1]
    )
    torch.testing.assert_close(sums.sum() / counts.sum(), theirs, atol=1e-4, rtol=1e-4)


def test_batched_answers_equal_single_ones(build: Build) -> None:
    assert_batches_change_no_answer(with_trained_adapters(build()).eval(), examples(None))


def test_answers_equal_the_librarys_greedy_search(build: Build) -> None:
    module = with_trained_adapters(build())
    processor, model = module.processor, module.model
    batch = processor.collate([processor.encode(e) for e in examples(None)])
    seen: list[Any] = []
    handle = module.decoder().register_forward_pre_hook(lambda m, a, k: seen.append(k), with_kwargs=True)
    ours = module.answer(batch).tokens
    handle.remove()
    theirs = model.language_model.generate(  # type: ignore[operator,union-attr]
        inputs_embeds=seen[0]["inputs_embeds"],
        attention_mask=batch.inputs["attention_mask"],
        max_new_tokens=5,
        do_sample=False,
        pad_token_id=0,
    )
    assert ours == [row[: len(o)] for o, row in zip(ours, theirs.tolist(), strict=True)]


def test_stage_2_trains_adapters_and_both_connectors(build: Build) -> None:
    module = build().train()
    parts = {name.split(".")[1] for name in module.trainable_names()}
    assert parts == {"language_model", "visual_connector", "audio_connector"}
    assert all("lora_" in name for name in module.trainable_names() if ".language_model." in name)
    module.check_policy()
    processor = module.processor
    batch = processor.collate([processor.encode(e) for e in examples("a dog barks")])
    sums, _ = module.losses(batch)
    torch.autograd.backward(sums.sum())
    without = [n for n, p in module.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert not any(p.grad is not None for p in module.parameters() if not p.requires_grad)


def test_frozen_parts_stay_in_evaluation_mode(build: Build) -> None:
    model: Any = build(train_connectors=["audio"], adapter=None).train().model
    assert not model.vision.training
    assert not model.audio.training
    assert not model.language_model.training
    assert not model.visual_connector.training
    assert model.audio_connector.training
    assert model.audio_connector.qformer.dropout.training


def test_stage_1_trains_one_connector(build: Build) -> None:
    module = build(adapter=None, train_connectors=["visual"])
    assert {name.split(".")[1] for name in module.trainable_names()} == {"visual_connector"}
    module.check_policy()


def test_parameter_outside_the_policy_stops_the_run(build: Build) -> None:
    module = build()
    module.model.audio.layer_norm.bias.requires_grad = True  # type: ignore[union-attr]
    with pytest.raises(RuntimeError, match=r"1 other parameters are trainable .*audio\.layer_norm\.bias"):
        module.check_policy()


def test_frozen_connector_without_a_file_is_refused(build: Build) -> None:
    with pytest.raises(ValueError, match=r"model\.visual_connector is null and .*would keep random weights"):
        build(train_connectors=["audio"])


def test_stage_2_starts_from_the_connectors_of_stage_1(build: Build, tmp_path: Path) -> None:
    first = build(adapter=None, train_connectors=["visual"])
    with torch.no_grad():
        first.connectors()["visual"].queries.add_(1)
    first.save_adapter(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["visual_connector.safetensors"]
    second = build(visual_connector=str(tmp_path / "visual_connector.safetensors"))
    torch.testing.assert_close(second.connectors()["visual"].queries, first.connectors()["visual"].queries)
    with pytest.raises(FileNotFoundError, match=r"model\.visual_connector is .*does not exist"):
        build(visual_connector=str(tmp_path / "none.safetensors"))


def test_saved_adapters_and_connectors_give_the_same_loss(build: Build, tmp_path: Path) -> None:
    module = with_trained_adapters(build()).eval()
    with torch.no_grad():
        module.connectors()["audio"].queries.add_(1)
    module.save_adapter(tmp_path / "saved")
    again = build(adapter=None, load_adapter=tmp_path / "saved").eval()
    processor = module.processor
    batch = processor.collate([processor.encode(e) for e in examples("a dog barks")])
    assert torch.equal(module.losses(batch)[0], again.losses(batch)[0])
    (tmp_path / "saved" / "audio_connector.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="audio_connector"):
        build(adapter=None, load_adapter=tmp_path / "saved")


def test_adapters_are_in_the_language_model_alone(build: Build) -> None:
    adapted = [n for n, m in build().named_modules() if isinstance(m, LoRALinear)]
    assert len(adapted) == 14
    assert all(".language_model." in name for name in adapted)


def test_frames_of_another_size_are_refused(build: Build) -> None:
    wrong = example("a", None)
    wrong.videos = [frames(1, size_px=28)]
    with pytest.raises(ValueError, match="28 x 28 px; the vision encoder reads 32 x 32"):
        build().processor.encode(wrong)


def test_places_and_tokens_have_to_agree() -> None:
    with pytest.raises(ValueError, match="2 placeholders of media kind 1 for 3 tokens"):
        splice(torch.zeros(1, 2, 4), torch.ones(1, 2), 1, torch.zeros(3, 4))


def test_processor_travels_to_loader_workers(tiny: Path) -> None:
    import pickle

    processor = pickle.loads(pickle.dumps(LlmVaProcessor(tiny / "llm", tiny / "clip")))
    assert processor.encode(example("a", "b")).labels is not None
