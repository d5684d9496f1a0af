"""The curriculum of the mini base model runs, continues after an interruption and writes a model card."""

from __future__ import annotations

import json
import re
from ast import literal_eval
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import Qwen2_5OmniThinkerForConditionalGeneration

import crab_lightning
from crab_lightning.mini.pretrain import base
from crab_lightning.mini.pretrain.base import (
    CURRICULUM,
    SIZES,
    PretrainConfig,
    Stage,
    model_card,
    pretrain_mini,
)
from crab_lightning.mini.pretrain.conversations import KINDS, draw
from crab_lightning.mini.pretrain.corpus import Corpus, go_on
from crab_lightning.mini.pretrain.dialogue import bare, turns
from crab_lightning.mini.pretrain.texts import call, choose, conclude, copy, match, recall
from crab_lightning.mini.pretrain.towers import (
    CELLS,
    LOOKS,
    PictureBatches,
    PictureTask,
    WordScores,
    embeddings,
    picture_labels,
    pretrain_audio,
    pretrain_vision,
    random_picture,
    random_sound,
)
from crab_lightning.mini.pretrain.training import Muon
from crab_lightning.mini.world.describe import QA
from crab_lightning.mini.world.scenes import Rng, rng_for
from crab_lightning.mini.world.sounds import SOUNDS
from crab_lightning.mini.world.vocabulary import CATEGORIES
from crab_lightning.models.checkpoints import towers_of
from crab_lightning.processing import NativeProcessor

ASSET = Path(crab_lightning.__file__).parent / "assets" / "mini_omni"


def test_a_picture_is_labelled_where_it_shows_something() -> None:
    scene, first, second = random_picture(rng_for(1, "test"))
    looks, boxes = picture_labels(scene, first, second)
    assert looks.shape == (CELLS * CELLS,)
    assert 0 < int((looks > 0).sum()) < CELLS * CELLS
    assert int(looks.max()) <= len(LOOKS)
    shown = boxes[looks > 0]
    assert bool((shown[:, 0] < shown[:, 2]).all())
    assert bool((shown[:, 1] < shown[:, 3]).all())


def test_a_sound_is_labelled_only_while_it_is_heard() -> None:
    scene, labels = random_sound(rng_for(2, "test"))
    seconds = labels.reshape(scene.duration_s, -1, labels.shape[1])
    for second in range(scene.duration_s):
        heard = len(scene.heard_at(second + 0.5))
        assert seconds[second].sum(-1).tolist() == [float(heard)] * seconds.shape[1]


@pytest.mark.parametrize("names", [LOOKS, SOUNDS])
def test_the_vocabulary_has_one_token_for_each_look_and_sound(
    names: tuple[str, ...],
) -> None:
    tokenizer = NativeProcessor(ASSET).tokenizer
    tokens = [tokenizer(" " + name.rsplit("_", 1)[-1])["input_ids"] for name in names]
    assert {len(ids) for ids in tokens} == {1}
    assert len({ids[0] for ids in tokens}) == len(names)


def test_a_token_scores_highest_for_the_word_it_points_to() -> None:
    words = torch.eye(3, 5) * torch.tensor([[0.1], [1.0], [9.0]])  # lengths do not matter
    scores = WordScores(words, blank=True)
    tokens = torch.cat([words[[2, 0]], torch.full((1, 5), -1.0)])
    assert scores(tokens).shape == (3, 4)
    assert scores(tokens).argmax(-1).tolist() == [3, 1, 0]
    assert WordScores(words)(tokens).shape == (3, 3)
    assert [name for name, _ in scores.named_parameters()] == ["bias"]


def test_the_shipped_base_is_what_the_curriculum_makes() -> None:
    made = json.loads((ASSET / "pretraining.json").read_text(encoding="utf-8"))
    curriculum = [asdict(stage) for stage in CURRICULUM]
    # As texts, because the order of the kinds decides what is drawn.
    assert json.dumps(made["curriculum"]) == json.dumps(curriculum)
    assert made["sizes"] == json.loads(json.dumps(asdict(SIZES)))
    assert made["scale"] == 1
    assert list(made["losses"]) == [stage.name for stage in CURRICULUM]
    assert (ASSET / "README.md").read_text(encoding="utf-8") == model_card(made)


def test_the_shipped_tower_reports_what_it_sees_by_its_word() -> None:
    model = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(ASSET, dtype=torch.float32)
    words = embeddings(model, NativeProcessor(ASSET).tokenizer, LOOKS)
    task = PictureTask(towers_of(model)[0], words.shape[1], words)
    batch = next(iter(PictureBatches(seed=5, size=24)))
    with torch.inference_mode():
        told = task.look(task.seen(batch["frames"]))
    shown = batch["looks"] > 0
    right = told[shown][:, 1:].argmax(-1) + 1 == batch["looks"][shown]
    assert right.float().mean() > 0.5, "a guess is right in one of thirty cells"


def test_only_the_tower_in_question_is_trained() -> None:
    model = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(ASSET, dtype=torch.float32)
    tokenizer = NativeProcessor(ASSET).tokenizer
    for train, number in ((pretrain_vision, 0), (pretrain_audio, 1)):
        before = {name: weight.clone() for name, weight in model.state_dict().items()}
        assert train(model, tokenizer, steps=1) > 0
        mine = {id(p) for p in towers_of(model)[number].parameters()}
        for name, parameter in model.named_parameters():
            assert id(parameter) in mine or torch.equal(parameter, before[name]), name
        assert any(not torch.equal(p, before[n]) for n, p in model.named_parameters() if id(p) in mine)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_example_fits_the_released_geometry(kind: str) -> None:
    processor = NativeProcessor(ASSET)
    example, rest = draw(kind, rng_for(3, kind), seed=9, most=8, lists=3)
    encoded = go_on(processor, processor.encode(example), rest)
    assert encoded.labels is not None
    assert int((encoded.labels != -100).sum()) > 1
    assert encoded.inputs["position_ids"].shape == (3, len(encoded.labels))


def test_every_answer_of_a_conversation_is_learnt_and_no_question() -> None:
    processor = NativeProcessor(ASSET)
    example, rest = draw("text", rng_for(4, "turns"), seed=9, most=6, lists=3)
    encoded = go_on(processor, processor.encode(example), rest)
    assert encoded.labels is not None
    learnt = processor.tokenizer.decode(encoded.labels[encoded.labels != -100])
    assert example.target is not None
    assert learnt == "".join(f"\n{answer}<|im_end|>" for answer in (example.target, *(a for _, a in rest)))
    whole = processor.tokenizer.decode(encoded.inputs["input_ids"])
    for question, answer in rest:
        assert f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n" in whole


def test_turns_keep_the_answer_in_whatever_form() -> None:
    answers = {"Who?": "a dog", "Where?": "on the left"}
    for question, answer in turns(list(answers.items()), rng_for(5, "forms"), 40):
        last = max(answers, key=question.rfind)
        assert bare(answers[last]) in answer, (question, answer)


def drawn(asked: Callable[[Rng, int], QA], count: int, **options: str) -> list[QA]:
    rng = rng_for(5, "texts")
    return [asked(rng, 9, **options) for _ in range(count)]


def test_what_is_said_of_two_clips_fits_the_one_that_is_asked() -> None:
    asked = [qa for qa in drawn(conclude, 200) if "first and" in qa[0] and "Repeat" not in qa[0]]
    fits = [(q, a) for q, a in asked if " or " in q]
    assert len(fits) > 20
    for question, answer in fits:
        alone = next(s for s in question.split(". ") if "first and" not in s)
        pair = next(s for s in question.split(". ") if "first and" in s)
        noun = alone.split()[-1].strip(".")
        first = noun in pair.split("first and")[0]
        assert ("one" in answer or "first" in answer) == first
        assert ("two" in answer or "second" in answer) != first


def test_what_is_said_again_holds_the_same_words() -> None:
    mixed = 0
    for question, answer in drawn(copy, 40):
        assert question == f"Repeat: {answer}"
        mixed += len(answer.split()) > 10
    assert mixed  # sentences of the tasks too, not only nouns


@pytest.mark.parametrize("form", ["again", "short"])
def test_a_place_is_looked_up_behind_its_name(form: str) -> None:
    for question, answer in drawn(recall, 40, form=form):
        told, asked = question.split(". ")
        noun = asked.removeprefix("Say the ").removesuffix("?").split()[0]
        place = answer.removeprefix(f"{noun} ")
        assert (place == answer) == (form == "short")
        assert f"{noun} {place}" in told.split(", ")


def test_what_is_recalled_was_told() -> None:
    for question, answer in drawn(recall, 60):
        if "[" in answer:
            noun = question.removesuffix(".").rsplit(" ", 1)[1]
            assert f"{noun} {answer}" in question
        elif question.endswith("?") and "What is" in question:
            place = question.rsplit("What is ", 1)[1].removesuffix("?")
            assert f"{answer} {place}" in question
        else:
            noun = question.removesuffix("?").rsplit(" ", 1)[1]
            side = answer.removesuffix(".").rsplit(" ", 1)[1]
            assert re.search(rf"{noun} (on the |in the )?{side}", question)


def test_what_is_matched_was_told() -> None:
    for question, answer in drawn(match, 60):
        fits = re.sub(r"</?\w+>", "", answer).rsplit(" ", 1)[-1]
        told = answer if " first and " in answer else question
        asked = re.search(r"I (?:see|hear) an? (\w+)\.", told)
        order = re.search(r"an? (\w+) first and an? (\w+) second", told)
        assert asked
        assert order
        assert order[1 if fits in ("one", "first") else 2] == asked[1]


def test_things_get_the_classes_of_a_dataset_and_keep_their_times() -> None:
    classes = {c.name: (c.ave, c.llp, c.unav) for c in CATEGORIES}
    timed = [(q, a) for q, a in drawn(call, 200) if q.startswith(("I ", "Repeat: I "))]
    assert len(timed) > 40
    for question, answer in timed:
        number = ("AVE", "LLP", "UnAV", "MUSIC").index(re.findall(r"[Ii]n (\w+), in", question)[0])
        told = re.findall(r"an? (\w+) from (\d+) to (\d+)", question)
        tagged = answer[answer.index("<") :]
        if number < 3:
            expected = [f"{classes[noun][number]},({start} {end})" for noun, start, end in told]
            assert re.sub(r"</?\w+>", "|", tagged.replace(", (", ",(")).strip("|").split("||") == expected
        assert answer.startswith(("<", re.findall(r"I .*?\.", question)[0]))


def test_the_answer_is_among_the_options_once() -> None:
    for question, answer in drawn(choose, 100):
        listed = re.findall(r"(?:Options|Choose from): (\[.*?'\])", question)[0]
        assert literal_eval(listed).count(re.sub(r"</?\w+>", "", answer)) == 1


@pytest.mark.parametrize("kind", ["find", "find_boxes", "find_times"])
def test_a_fact_is_looked_up_by_its_name_in_any_order(kind: str) -> None:
    facts, orders = dict[str, str](), set[tuple[str, ...]]()
    first, rest = draw(kind, rng_for(8, kind), seed=9, most=8, lists=3)
    for question, answer in [(first.conversation[-1], first.target), *rest]:
        names, asked = str(question).removesuffix("?").split(": ")
        assert len(names.split(", ")) == len(set(names.split(", "))) >= 4
        orders.add(tuple(names.split(", ")))
        told = re.findall(r"(\w+) (nowhere|never|left|middle|right|\[[\d,]+\]|from .+?)(?:, |$)", str(answer))
        assert [name for name, _ in told] == names.split(", ")
        for name, fact in told:
            assert facts.setdefault(f"{asked} {name}", fact) == fact
    assert len(orders) > 3
    assert {"nowhere", "never"} & {*facts.values()}
    assert len({*facts.values()}) > 1


def test_the_order_of_two_clips_is_asked_plainly() -> None:
    told = [draw("order", rng_for(i, "order"), seed=9, most=1, lists=0)[0] for i in range(20)]
    assert {example.target for example in told} == {"first", "second"}
    assert {str(example.conversation[-1]).removesuffix("?") for example in told} <= {
        c.name for c in CATEGORIES
    }
    assert {len(example.videos) + len(example.audios) for example in told} == {1}


def test_only_the_kinds_of_a_stage_are_drawn() -> None:
    processor = NativeProcessor(ASSET)
    for kind in ("text", "sound"):
        batch = next(iter(Corpus(processor, 1, 700, 2, {kind: 3.0}, lists=3)))
        assert {sample.dataset for sample in batch.samples} == {kind}
    with pytest.raises(ValueError, match="no kind of conversation 'sounds'; there are: picture, "):
        Corpus(processor, 1, 700, 2, {"sounds": 1.0}, lists=3)
    asked = {kind for stage in CURRICULUM if isinstance(stage.data, dict) for kind in stage.data}
    assert asked == set(KINDS)


def test_an_interrupted_pretraining_gives_the_same_bytes_and_a_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = PretrainConfig(scale=1e-6, tokens=600, workers=0, vocabulary_items=2)
    folder, whole = tmp_path / "mini", tmp_path / "whole"

    def stopped(stage: Stage, _: PretrainConfig) -> int:
        if stage.name == "find":
            raise KeyboardInterrupt
        return 1

    with monkeypatch.context() as patch:
        patch.setattr(base, "_steps", stopped)
        with pytest.raises(KeyboardInterrupt):
            pretrain_mini(folder, config)
    first = torch.load(folder / "work" / "newest.pt", weights_only=True)
    assert pretrain_mini(folder, config, "model pretrain --out mini") == folder
    assert not (folder / "work").exists()
    pretrain_mini(whole, config)
    assert (folder / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    model = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(folder, dtype=torch.float16)
    assert model.config.text_config.hidden_size == SIZES.hidden
    shipped = model.state_dict()
    assert any(not torch.equal(shipped[name], weight) for name, weight in first["model"].items())
    NativeProcessor(folder)
    made = json.loads((folder / "pretraining.json").read_text())
    assert {**first["losses"], **made["losses"]} == made["losses"]
    card = (folder / "README.md").read_text()
    assert "    model pretrain --out mini\n" in card
    for stage in CURRICULUM:
        assert f"| {stage.name} | " in card
        assert f" | 1 | {stage.lr:g} | {made['losses'][stage.name]:.3f} |" in card


def test_padding_changes_no_loss() -> None:
    processor = NativeProcessor(ASSET)
    model = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(ASSET, dtype=torch.float32)
    rng = rng_for(6, "test")
    items = []
    for most in (1, 6):
        example, rest = draw("picture", rng, 3, most, 0)
        items.append(go_on(processor, processor.encode(example), rest))
    assert len({len(item.inputs["input_ids"]) for item in items}) == 2
    counts = [int((item.labels != -100).sum()) for item in items if item.labels is not None]
    with torch.no_grad():
        alone = [float(base.target_loss(model, processor.collate([item]))) for item in items]
        together = float(base.target_loss(model, processor.collate(items)))
    expected = sum(loss * count for loss, count in zip(alone, counts, strict=True)) / sum(counts)
    assert together == pytest.approx(expected, rel=1e-5)


def test_muon_makes_the_steps_of_torch() -> None:
    torch.manual_seed(0)
    shapes = [(8, 8), (24, 8), (24, 8), (8, 24), (8, 8)]
    ours = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    starts = [p.detach().clone() for p in ours]
    optimizers = [
        Muon(ours, lr=0.02, weight_decay=0.1),
        torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    ]
    for step in range(3):
        for index, pair in enumerate(zip(ours, theirs, strict=True)):
            # The last matrix gets no gradient in the second step, like the towers in most steps.
            grad = None if index == 4 and step == 1 else torch.randn(shapes[index])
            for parameter in pair:
                parameter.grad = grad
        for optimizer in optimizers:
            optimizer.step()
    for start, one, other in zip(starts, ours, theirs, strict=True):
        moved, expected = one.detach() - start, other.detach() - start
        torch.testing.assert_close(moved, expected, rtol=0, atol=0.02 * float(expected.abs().max()))


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileExistsError, match=f"--out {tmp_path} holds something else .*; name another"):
        pretrain_mini(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
