"""Weighing candidate answers equals reading each of them alone, on every paradigm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from crab_lightning.adapters import AdapterConfig
from crab_lightning.mini import TinyLlmVaConfig, make_tiny_llm_va, make_tiny_native, make_tiny_vllm_a
from crab_lightning.models import AVModule, LlmVaModule, OmniModule, VllmAModule
from crab_lightning.models.connectors import ConnectorConfig
from crab_lightning.structures import Batch, Example, Media
from tests.processing.examples import frames, sample, sound
from tests.quiet import with_trained_adapters

PX = 56
SEGMENTS = ConnectorConfig(queries=2, hidden=16, heads=2, ffn=24)
WINDOWS = ConnectorConfig(kind="window_qformer", queries=1, hidden=16, heads=2, ffn=24)
OPTIONS = {
    "ave/a": ("<answer>dog</answer>", "<answer>playing the violin, fiddle</answer>.", "<answer>no</answer>"),
    "ave/a longer one": None,
    "ave/third": ("<answer>one</answer>", "<answer>two</answer>"),
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("likelihood")
    make_tiny_native(folder / "native")
    make_tiny_llm_va(folder / "llm_va", config=TinyLlmVaConfig(image_px=PX, patch_px=14))
    make_tiny_vllm_a(folder / "vllm_a")
    return folder


def build(paradigm: str, folder: Path, **more: Any) -> AVModule:
    torch.manual_seed(0)
    options: dict[str, Any] = {"adapter": AdapterConfig(rank=4), "dtype": "float32", "max_new_tokens": 4}
    options |= {"geometry": "plain"} | more
    module: AVModule
    if paradigm == "native":
        module = OmniModule(str(folder / "native"), **options)
    elif paradigm == "llm_va":
        base = folder / "llm_va"
        module = LlmVaModule(
            str(base / "llm"),
            vision=str(base / "clip"),
            beats=str(base / "beats"),
            connector=SEGMENTS,
            **options,
        )
    else:
        base = folder / "vllm_a"
        options["train_connectors"] = ["audio"]
        module = VllmAModule(str(base / "vllm"), beats=str(base / "beats"), connector=WINDOWS, **options)
    module.configure_model()
    with_trained_adapters(module)
    module.candidates = lambda s: OPTIONS[s.id]
    return module.eval()


def example(key: str, target: str | None, count: int, seconds: float) -> Example:
    return Example(
        sample(key),
        ("Look and listen:", Media.VIDEO, Media.AUDIO, f"What is {key}?"),
        target,
        videos=[frames(count, size_px=PX)],
        audios=[sound(seconds, seed=len(key))],
        seconds_per_grid=[1.0],
    )


ASKED = [("a", 2, 1.5), ("a longer one", 4, 2.0), ("third", 2, 0.5)]


def prompts(module: AVModule) -> Batch:
    return module.processor.collate([module.processor.encode(example(k, None, n, s)) for k, n, s in ASKED])


@torch.no_grad()
def one_at_a_time(module: AVModule, key: str, count: int, seconds: float, text: str) -> tuple[float, int]:
    """Return log-probability and length of an answer by the way that training takes."""
    batch = module.processor.collate([module.processor.encode(example(key, text, count, seconds))])
    labels = batch.labels
    assert labels is not None
    if isinstance(module, OmniModule):  # training also learns the newline that ends the prompt
        labels[0, int((labels[0] != -100).nonzero()[0])] = -100
    sums, tokens = module.losses(batch)
    return -float(sums), int(tokens)


@pytest.mark.parametrize("decoding", ["likelihood", "both"])
@pytest.mark.parametrize("paradigm", ["native", "llm_va", "vllm_a"])
def test_candidates_weigh_what_each_weighs_alone(paradigm: str, decoding: Any, checkpoints: Path) -> None:
    module = build(paradigm, checkpoints)
    written = module.generate(prompts(module))
    module.decoding = decoding
    found = module.generate(prompts(module))
    for (key, count, seconds), prediction in zip(ASKED, found, strict=True):
        texts = OPTIONS[prediction.sample.id]
        if texts is None:
            assert prediction.candidates is None
            continue
        assert prediction.candidates is not None
        alone = [one_at_a_time(module, key, count, seconds, text) for text in texts]
        assert prediction.candidates.log_probs == pytest.approx([a for a, _ in alone], abs=2e-4)
        assert prediction.candidates.tokens == tuple(n for _, n in alone)
        assert len({n for _, n in alone}) > 1 or len(texts) == 2
    # A prompt without a closed set is answered in words, as before; the others only where asked.
    said = [p.text for p in found]
    kept = [p.text for p in written]
    assert said == (["", kept[1], ""] if decoding == "likelihood" else kept)


def test_many_passes_give_what_one_gives(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = build("native", checkpoints)
    candidates = [
        [module.processor.answer_tokens(text) for text in OPTIONS[s.id] or ()]
        for s in prompts(module).samples
    ]
    with torch.no_grad():
        once = module.prompt_reader(prompts(module)).token_log_probs(candidates)
        monkeypatch.setattr("crab_lightning.models.likelihood.PACKED_TOKENS", 1)
        often = module.prompt_reader(prompts(module)).token_log_probs(candidates)
    assert [len(row) for row in once] == [3, 0, 2]
    for row, again in zip(once, often, strict=True):
        for tokens, same in zip(row, again, strict=True):
            assert tokens == pytest.approx(same, abs=1e-4)


def test_bfloat16_weights_agree_with_float32(checkpoints: Path) -> None:
    whole, half = build("native", checkpoints), build("native", checkpoints, dtype="bfloat16")
    for module in (whole, half):
        module.decoding = "likelihood"
    a, b = (m.generate(prompts(m))[0].candidates for m in (whole, half))
    assert a is not None
    assert b is not None
    assert b.log_probs == pytest.approx(a.log_probs, rel=0.05)


def test_flash_attention_is_refused(checkpoints: Path) -> None:
    module = build("native", checkpoints)
    module.decoding = "likelihood"
    module.attention = "flash_attention_2"  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"set model\.attention to sdpa"):
        module.generate(prompts(module))


def test_answer_tokens_are_those_of_training(checkpoints: Path) -> None:
    for paradigm in ("native", "llm_va", "vllm_a"):
        processor = build(paradigm, checkpoints).processor
        encoded = processor.encode(example("a", "<answer>dog</answer>", 2, 1.0))
        assert encoded.labels is not None
        learnt = encoded.labels[encoded.labels != -100].tolist()
        tokens = processor.answer_tokens("<answer>dog</answer>")
        assert learnt[-len(tokens) :] == tokens
        assert len(learnt) - len(tokens) == (paradigm == "native")  # its prompt's newline is learnt as well
