"""The layers run for answers alone compute what the model's own forward computes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from crab_lightning.adapters import ADAPTERS, AdapterConfig, record_routes
from crab_lightning.models.decoder_pass import DecoderPass, can_run
from crab_lightning.models.engine import SlotCache, padded
from crab_lightning.processing import NativeProcessor
from crab_lightning.structures import Batch
from tests.distributed.sharded_fit import of_kind
from tests.models.conftest import Build
from tests.models.test_every_adapter import filled
from tests.processing.examples import video_example

ROUTED = {
    "input": AdapterConfig(kind="ilora", rank=4, router="input"),
    "scaled": AdapterConfig(kind="ilora", rank=4, head_scale=[1.0, 0.0, 2.0]),
    "one_head": AdapterConfig(kind="ilora", rank=4, heads=1),
    "attention": AdapterConfig(kind="lora", rank=4, target_modules=["q_proj", "v_proj", "up_proj"]),
}
NEAR = {"atol": 2e-3, "rtol": 1e-2}  # float32 of random weights; another position or adapter is far off
CASES = {kind: of_kind(kind) for kind in ADAPTERS} | ROUTED | {"none": None}


@pytest.mark.parametrize("case", CASES)
def test_prompts_and_steps_equal_the_models_own_forward(
    case: str, build: Build, prompts: list[Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crab_lightning.models.decoder_pass.READ_TOKENS", 100)  # rows joined, and not all
    monkeypatch.setattr("crab_lightning.models.decoder_pass.SHARED_TOKENS", 4)  # the system message
    module: Any = filled(build(adapter=CASES[case])).eval()
    batch, width = prompts[0], prompts[0].inputs["input_ids"].shape[1]
    inputs = module.prompt_inputs(batch)
    kept: list[Any] = []

    class Kept(SlotCache):
        """Remembers the prompts that are put in."""

        def put(self, slot: int, past: Any) -> int:
            kept.append(past)
            return super().put(slot, past)

    monkeypatch.setattr("crab_lightning.models.engine.SlotCache", Kept)
    with torch.no_grad():
        module.announce(batch)
        cache = DynamicCache()
        own = module.read_tokens(inputs.ids, inputs.positions, inputs.mask, cache, inputs.media)[:, -1]
        engine: Any = module.engine(3)
        assert engine.blocks is not None
        first: list[torch.Tensor] = []  # what the head reads
        head = engine.head
        engine.head = lambda x: (first.append(x), head(x))[1]
        answers = module.queue(engine, batch)
        engine.step()
        assert all(len(answer.tokens) == 2 for answer in answers)
        tokens = torch.tensor([answer.tokens[:1] for answer in answers])
        after = (inputs.positions[:, :, -1].amax(0) + 1).expand(3, -1)[:, :, None]
        mask = torch.cat((inputs.mask, inputs.mask.new_ones(3, 1)), 1)
        module.announce_step(batch.samples)
        stepped = module.read_tokens(tokens, after, mask, cache, {})
    torch.testing.assert_close(first[0], own, **NEAR)
    torch.testing.assert_close(first[1][:, -1], stepped[:, -1], **NEAR)
    for row, past in enumerate(kept):
        start = width - int(inputs.mask[row].sum())
        for layer, (keys, values) in zip(cache.layers, past, strict=True):
            torch.testing.assert_close(keys.transpose(0, 1), layer.keys[row, :, start:width], **NEAR)
            torch.testing.assert_close(values.transpose(0, 1), layer.values[row, :, start:width], **NEAR)


def test_a_clip_and_a_beginning_that_prompts_share_are_read_once(
    build: Build, processor: NativeProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    module: Any = filled(build(adapter=of_kind("ilora"))).eval()
    clip = video_example("a", target=None, count=4, seconds=1.0)
    again = replace(clip, conversation=(*clip.conversation[:-1], "What is to be heard in it?"))
    asked = [clip, again, video_example("c", target=None, count=4, seconds=1.0, seed=5)]
    encoded = [processor.encode(one) for one in asked]
    read: list[list[int]] = []
    own = DecoderPass._read

    def kept(self: DecoderPass, rows: Any) -> torch.Tensor:
        read.append([row.length for row in rows])
        return own(self, rows)

    def states(engine: Any, rows: list[Any]) -> torch.Tensor:
        found: list[torch.Tensor] = []
        head = engine.head
        engine.head = lambda x: (found.append(x), head(x))[1]
        module.queue(engine, processor.collate(rows))
        engine.head = head
        return found[0]

    monkeypatch.setattr(DecoderPass, "_read", kept)
    parts = {name.rsplit(".", 1)[-1]: part for name, part in module.model.named_modules()}
    rows = {"patches": 0, "chunks": 0}

    def count(name: str, output: torch.Tensor) -> None:
        rows[name] += len(output)

    with torch.no_grad():
        alone = torch.cat([states(module.engine(1), [row]) for row in encoded])
        lengths = [length for [length] in read]
        engine = module.engine(3)
        parts["patch_embed"].register_forward_hook(lambda *call: count("patches", call[-1]))
        parts["conv1"].register_forward_hook(lambda *call: count("chunks", call[-1]))
        torch.testing.assert_close(states(engine, encoded), alone, **NEAR)
        assert rows == {"patches": 2 * 2 * 256, "chunks": 2}  # two clips of four frames and of a second
        torch.testing.assert_close(states(engine, encoded[2:]), alone[2:], **NEAR)
        assert rows == {"patches": 2 * 2 * 256, "chunks": 2}
    first, second, third = read[3]
    assert first == lengths[0]
    assert second < lengths[1] / 2  # the clip was read with the first question
    assert lengths[2] / 2 < third < lengths[2]  # another clip behind the same message
    assert read[4] == [1]  # asked again in the next batch


def test_rows_are_joined_only_where_no_adapter_looks_at_the_batch(build: Build) -> None:
    engines: dict[str, Any] = {kind: build(adapter=of_kind(kind)).engine(1) for kind in ADAPTERS}
    alone = {kind: engine.blocks.alone for kind, engine in engines.items()}
    assert {kind for kind in ("lora", "ilora", "moka", "multi_lora") if alone[kind]} == {"lora", "ilora"}


def test_other_decoders_run_through_their_own_forward(build: Build, prompts: list[Batch]) -> None:
    module = build(attention="eager")
    assert can_run(build().decoder())
    assert not can_run(module.decoder())
    assert module.engine(1).blocks is None
    with record_routes(other := build()):
        assert not can_run(other.decoder())
    assert [p.text for p in module.generate(prompts[0])] == [p.text for p in build().generate(prompts[0])]
    layer: Any = build().decoder()
    layer.layers[0].self_attn.sliding_window = 8
    assert not can_run(layer)


def test_padded_reading_leaves_padding_out() -> None:
    def read(ids: torch.Tensor, positions: Any, mask: Any, cache: Any) -> torch.Tensor:
        keys = ids[:, None, :, None].float()
        cache.update(keys, keys, 0)
        return ids[..., None].float()

    ids = torch.tensor([[0, 0, 5], [1, 2, 3]])
    states, pasts = padded(read)(ids, ids, (ids > 0).long())
    assert states.flatten().tolist() == [5, 3]
    assert [past[0][0].flatten().tolist() for past in pasts] == [[5], [1, 2, 3]]
