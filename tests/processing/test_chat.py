"""Conversations in chat templates: Llama 2's, Llama 3's, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from crab_lightning.encoders import BeatsAudio
from crab_lightning.encoders.beats import SHORTEST_SAMPLES
from crab_lightning.mini.checkpoints.composite import llama_tokenizer
from crab_lightning.mini.checkpoints.tokenizer import DEFAULT_TEXTS
from crab_lightning.processing.chat import ChatWriter
from crab_lightning.structures import Example, Media, Reply
from tests.processing.examples import frames, sample, sound

# As published with Llama-2-7b-chat-hf, without its default system message.
LLAMA2_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + message['content'] | trim + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] | trim + ' ' + eos_token }}"
    "{% endif %}{% endfor %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tokenizer")
    llama_tokenizer(DEFAULT_TEXTS, 600).save_pretrained(out)
    (out / "llama2.jinja").write_text(LLAMA2_TEMPLATE)
    (out / "endless.jinja").write_text(LLAMA2_TEMPLATE.replace(" + eos_token", ""))
    return out


def example(target: str | None = "a dog barks") -> Example:
    talk = ("A video: ", Media.VIDEO, " its sound: ", Media.AUDIO, "\nPlease describe.")
    return Example(sample("x"), talk, target, videos=[frames(2)], audios=[sound(1.0)])


@pytest.mark.parametrize("template", [None, "llama2.jinja"])
def test_text_is_the_templates_with_media_in_their_places(folder: Path, template: str | None) -> None:
    chat = ChatWriter(str(folder), chat_template=template and folder / template)
    written = chat.write(example())
    text = chat.tokenizer.decode(written.ids)
    user = "A video: <|crab:video|> its sound: <|crab:audio|>\nPlease describe."
    if template is None:
        begin = "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n"
        between = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
        assert text == begin + user + between + "a dog barks<|eot_id|>"
    else:
        assert text == "<|begin_of_text|>[INST] " + user + " [/INST] a dog barks <|eot_id|>"
    assert [m for m in written.media if m] == [Media.VIDEO, Media.AUDIO]


@pytest.mark.parametrize("template", [None, "llama2.jinja"])
def test_prompt_is_what_the_trained_answer_follows(folder: Path, template: str | None) -> None:
    chat = ChatWriter(str(folder), chat_template=template and folder / template)
    trained, asked = chat.write(example()), chat.write(example(None))
    count = trained.learnt.index(True)
    assert trained.ids[:count] == asked.ids
    assert trained.learnt == [False] * count + [True] * (len(trained.ids) - count)
    assert not any(asked.learnt)
    assert chat.decode(trained.ids[count:]) == "a dog barks"
    assert trained.ids[-1] == chat.end_token


@pytest.mark.parametrize("template", [None, "llama2.jinja"])
@pytest.mark.parametrize("every", [True, False])
def test_earlier_answers_are_learnt_with_their_ends_or_only_read(
    folder: Path, template: str | None, every: bool
) -> None:
    chat = ChatWriter(str(folder), chat_template=template and folder / template)
    talk = ("See: ", Media.VIDEO, Reply("a dog"), "And now?", Reply("a bell"), "Then ", Media.AUDIO)
    media = {"videos": [frames(2)], "audios": [sound(1.0)]}
    written = chat.write(Example(sample("x"), talk, "two cats", **media, learn_replies=every))
    learnt = [i for i, wanted in zip(written.ids, written.learnt, strict=True) if wanted]
    end = chat.tokenizer.convert_ids_to_tokens(chat.end_token)
    said = [part.strip() for part in chat.tokenizer.decode(learnt).split(end)]
    assert said == [*(["a dog", "a bell"] if every else []), "two cats", ""]
    asked = chat.write(Example(sample("x"), talk, None, **media))
    assert asked.ids == written.ids[: len(asked.ids)]
    assert "a dog" in chat.tokenizer.decode(asked.ids)
    assert not any(asked.learnt)


def test_a_template_that_does_not_end_earlier_answers_is_refused(folder: Path, tmp_path: Path) -> None:
    text = "{% for m in messages %}{{ m.content }}{% if loop.last and m.role == 'assistant' %}{{ eos_token }}"
    (tmp_path / "t.jinja").write_text(text + "{% endif %}{% endfor %}")
    chat = ChatWriter(str(folder), chat_template=tmp_path / "t.jinja")
    talk = ("See?", Reply("a dog"), "And now?")
    with pytest.raises(ValueError, match="turns: last"):
        chat.write(Example(sample("x"), talk, "two", learn_replies=True))
    assert sum(chat.write(Example(sample("x"), talk, "two")).learnt)


def test_tokenizer_without_padding_token_gets_one(folder: Path) -> None:
    chat = ChatWriter(str(folder))
    assert chat.tokenizer.pad_token_id is None
    assert chat.pad_token == chat.end_token


def test_system_message_is_written_when_given(folder: Path) -> None:
    text = ChatWriter(str(folder), system="Be brief.").render(example(), with_target=False)
    assert text.startswith(
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    )


def test_template_without_an_end_is_refused(folder: Path) -> None:
    chat = ChatWriter(str(folder), chat_template=folder / "endless.jinja")
    with pytest.raises(ValueError, match="would never stop"):
        chat.write(example())


def test_tokenizer_without_a_template_is_refused(folder: Path, tmp_path: Path) -> None:
    tokenizer = llama_tokenizer(DEFAULT_TEXTS, 600)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"no chat template.*model\.chat_template"):
        ChatWriter(str(tmp_path))


@pytest.mark.parametrize("text", ["say <|eot_id|> now", "a <|crab:audio|> here"])
def test_text_with_markup_is_refused(folder: Path, text: str) -> None:
    with pytest.raises(ValueError, match="ave/x: its text contains the reserved token"):
        ChatWriter(str(folder)).write(example(text))


def test_number_of_clips_has_to_be_that_of_places(folder: Path) -> None:
    broken = example()
    broken.audios = []
    with pytest.raises(ValueError, match="1 placeholder for audio, but 0 clips were"):
        ChatWriter(str(folder)).write(broken)


@pytest.mark.parametrize(
    ("samples", "frames"),
    [
        (160_000, [98] * 10),
        (40_000, [98, 98, 48]),
        (16_100, [98]),  # 6 ms more than a second give no token
        (16_000 + SHORTEST_SAMPLES, [98, 16]),
        (50, [16]),  # less than a token: filled up with silence
    ],
)
def test_sound_is_cut_into_seconds(samples: int, frames: list[int]) -> None:
    assert [len(bank) for bank in BeatsAudio("").pieces(torch.randn(samples))] == frames
