"""The plan's formulas against what small runs keep, hold and send."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crab_lightning.adapters import AdapterConfig
from crab_lightning.mini import TinyNativeConfig, make_tiny_native
from crab_lightning.models import OmniModule
from crab_lightning.planning.memory import Setting, activation_bytes, knobs, memory, pace, tower_bytes
from crab_lightning.planning.shape import Shape, measure

TOKENS, ROWS = 192, 2
ADAPTER = AdapterConfig(rank=8, dropout=0.1)
RECIPE = AdapterConfig(rank=128, alpha=256, dropout=0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = TinyNativeConfig(hidden=64, layers=3, heads=4, kv_heads=2, ffn=160)
    return make_tiny_native(tmp_path_factory.mktemp("plan") / "tiny", config=sizes)


@pytest.fixture(scope="module")
def published() -> Shape:
    return measure("Qwen/Qwen2.5-Omni-7B", RECIPE)


def setting(**changed: Any) -> Setting:
    return replace(
        Setting(
            devices=8,
            nodes=1,
            sharding="ddp",
            rows=4,
            sample_tokens=725,
            longest_tokens=1350,
            batch_tokens=None,
            target_tokens=120,
            patches=1280,
            audio_tokens=250,
            accumulate=1,
            checkpointing=True,
            weight_bytes=2,
            four_bit=False,
            moments=2,
            samples=222_000,
            epochs=5,
            flops=4e14,
            link=3e11,
            network=4e10,
        ),
        **changed,
    )


def kept(decoder: Any, dtype: torch.dtype, width: int) -> int:
    """Return the bytes that a forward keeps for backward, parameters and inputs left out."""
    known = {p.untyped_storage().data_ptr() for p in decoder.parameters()}
    known |= {b.untyped_storage().data_ptr() for b in decoder.buffers()}
    found: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in known:
            found[place] = tensor  # held, so that no place is used twice
        return tensor

    mask = torch.ones(ROWS, TOKENS // ROWS, dtype=torch.long)
    mask[0, -5:] = 0  # padded, as batches are
    states = torch.randn(ROWS, TOKENS // ROWS, width, dtype=dtype, requires_grad=True)
    places = torch.arange(TOKENS // ROWS).expand(3, ROWS, -1)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        decoder(inputs_embeds=states, attention_mask=mask, position_ids=places, use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for tensor in found.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_decoder_keeps_what_the_formula_says(folder: Path, dtype: Any) -> None:
    module = OmniModule(str(folder), adapter=ADAPTER, dtype=dtype)
    module.configure_model()
    module.train()
    decoder: Any = module.decoder()
    kind = getattr(torch, dtype)
    three = kept(decoder, kind, 64)
    decoder.layers = decoder.layers[:1]
    decoder.config.num_hidden_layers = 1
    one = kept(decoder, kind, 64)
    shape = replace(measure(str(folder), ADAPTER), layers=2)
    # Of two layers: what all share (masks, the last norm) is in both runs.
    assert three - one == pytest.approx(activation_bytes(shape, TOKENS, kind.itemsize, False), rel=0.05)


def test_checkpointing_keeps_the_inputs_of_layers(folder: Path) -> None:
    module = OmniModule(str(folder), adapter=ADAPTER, dtype="float32", gradient_checkpointing=True)
    module.configure_model()
    module.train()
    decoder: Any = module.decoder()
    three = kept(decoder, torch.float32, 64)
    decoder.layers, decoder.config.num_hidden_layers = decoder.layers[:1], 1
    one = kept(decoder, torch.float32, 64)
    shape = measure(str(folder), ADAPTER)
    two, none = (activation_bytes(replace(shape, layers=n), TOKENS, 4, True) for n in (2, 0))
    assert three - one == pytest.approx(two - none, rel=0.05)


def test_counts_are_those_of_the_real_model(folder: Path) -> None:
    module = OmniModule(str(folder), adapter=ADAPTER, dtype="float32")
    module.configure_model()
    shape = measure(str(folder), ADAPTER)
    assert shape.adapters == sum(p.numel() for p in module.parameters() if p.requires_grad)
    assert shape.base + shape.adapters == sum(p.numel() for p in module.parameters())
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad])
    for p in module.parameters():
        p.grad = torch.zeros_like(p) if p.requires_grad else None
    optimizer.step()
    moments = [v for state in optimizer.state.values() for v in state.values() if v.ndim]
    one = memory(shape, setting(devices=1, sharding="none", weight_bytes=4))
    assert one["optimizer"] == sum(v.nbytes for v in moments)
    held = sum(p.nbytes for p in module.parameters())
    assert one["frozen weights"] + one["trained weights"] == held


def test_published_sizes_give_the_known_counts(published: Shape) -> None:
    assert published.adapters == 679_028_224  # 28 layers of r(h + n d) + n r over seven projections
    assert published.base == pytest.approx(8.93e9, rel=1e-3)
    assert published.source == "published sizes of Qwen/Qwen2.5-Omni-7B"


def test_sharding_divides_what_is_held_by_the_processes(published: Shape) -> None:
    whole, shared = (memory(published, setting(sharding=kind)) for kind in ("ddp", "fsdp2"))
    for part in ("frozen weights", "trained weights", "optimizer"):
        assert shared[part] == pytest.approx(whole[part] / 8)
    assert shared["gathered layers"] > 0
    assert sum(shared.values()) < sum(whole.values())
    assert memory(published, setting(sharding="fsdp2_offload"))["optimizer"] == 0


def test_recipe_fits_80_gb_and_needs_a_knob_in_24(published: Shape) -> None:
    assert sum(memory(published, setting()).values()) < 80e9
    assert sum(memory(published, setting()).values()) > 24e9
    offered = knobs(published, setting(), 24e9)
    assert offered[0][0] == "trainer.strategy fsdp2"
    assert all(total < sum(memory(published, setting()).values()) for _, total, _ in offered)


def test_sharding_sends_more_than_copies_do(published: Shape) -> None:
    copies, shares = (pace(published, setting(sharding=kind)) for kind in ("ddp", "fsdp2"))
    assert copies.sent_bytes == pytest.approx(2 * 7 / 8 * 4 * published.adapters)
    assert shares.sent_bytes > 5 * copies.sent_bytes
    assert copies.compute_s == shares.compute_s
    assert pace(published, setting(checkpointing=False)).compute_s < copies.compute_s


def test_unknown_name_without_a_folder_is_refused() -> None:
    with pytest.raises(FileNotFoundError, match=r"its sizes are not known here .*Give a folder"):
        measure("someone/else", None)


def test_nothing_is_built_outside_the_meta_device() -> None:
    seen: list[str] = []
    original = nn.Parameter.__new__

    def note(cls: Any, data: Any = None, requires_grad: bool = True) -> Any:
        seen.append("none" if data is None else data.device.type)
        return original(cls, data, requires_grad)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Parameter, "__new__", note)
        measure("Qwen/Qwen2.5-Omni-7B", ADAPTER)
    assert set(seen) == {"meta"}


def test_ddp_keeps_its_buckets_beside_the_gradients_and_one_process_does_not(published: Shape) -> None:
    several, alone = (memory(published, setting(devices=n)) for n in (8, 1))
    gradients = published.adapters * published.adapter_bytes
    assert alone["gradients"] == gradients
    assert several["gradients"] == 2 * gradients  # DDP reduces in buckets that are as large as these
    kept = several.keys() - {"gradients", "fragmentation"}  # a share of all that is held
    assert all(several[name] == alone[name] for name in kept)


def test_logits_hours_and_the_smaller_batch_are_worked_by_hand(published: Shape) -> None:
    s = setting()
    assert memory(published, setting(target_tokens=10))["logits"] == 4 * 10 * 152_064 * (2 * 2 + 12)
    assert memory(published, s)["logits"] == 480 * 152_064 * 16
    seen, heard = 4 * 1280 * (6 * 1280 + 3 * 3420), 4 * 2 * 250 * (6 * 1280 + 2 * 5120)
    assert tower_bytes(published, 4, 1280, 250, 2) == 2 * max(seen, heard)
    assert tower_bytes(published, 4, 0, 250, 2) == 2 * heard
    found = pace(published, s)
    assert found.hours == pytest.approx(222_000 * 5 / (4 * 8) * found.step_s / 3600)
    assert found.tokens_per_s == pytest.approx(4 * 725 * 8 / found.step_s)
    assert (setting(nodes=2).world, setting(nodes=2, sharding="fsdp2_hybrid").shards) == (16, 8)
    text, _, changed = next(entry for entry in knobs(published, s, 1.0) if "batch_size" in entry[0])
    assert text == "data.batch_size 2 and trainer.accumulate_grad_batches 2"
    assert (changed.rows, changed.accumulate) == (2, 2)


def test_gathered_layers_packed_batches_nodes_and_trained_towers_are_worked_by_hand(published: Shape) -> None:
    p, held = published, published.adapters * published.adapter_bytes
    two_layers = 2 * (2 * p.layer + p.layer_adapters * p.adapter_bytes)  # the next is gathered ahead
    assert memory(p, setting(sharding="fsdp2"))["gathered layers"] == 2 * p.rest + two_layers
    packed = setting(batch_tokens=5800)
    assert (packed.usual_rows, packed.most_tokens) == (8, 5800)
    towers = 2 * 4 * (p.vision[2] * 1280 + p.audio[2] * 2 * 250)
    longer = pace(replace(p, trains_towers=True), setting()).compute_s - pace(p, setting()).compute_s
    assert longer == pytest.approx(2 * towers / 4e14)
    weights = 2 * p.base + held
    inside = 7 / 8 * (weights + weights - 2 * p.towers + held)  # for forward, for backward, and gradients
    hybrid = pace(p, setting(nodes=2, sharding="fsdp2_hybrid"))
    assert hybrid.sent_bytes == pytest.approx(inside + 2 * 1 / 2 * held / 8)
    assert hybrid.transfer_s == pytest.approx(inside / 3e11 + held / 8 / 4e10)
