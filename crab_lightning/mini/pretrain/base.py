"""Pre-training of the small base model of the demo: the curriculum, and the function that follows it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from crab_lightning.compat import load_model, save_model
from crab_lightning.mini.checkpoints.native import TinyNativeConfig, make_tiny_native
from crab_lightning.mini.pretrain.corpus import Corpus, corpus_texts
from crab_lightning.mini.pretrain.towers import pretrain_audio, pretrain_vision
from crab_lightning.mini.pretrain.training import train
from crab_lightning.models.checkpoints import towers_of
from crab_lightning.models.losses import last_hidden_states
from crab_lightning.processing import NativeProcessor
from crab_lightning.structures import Batch

SIZES = TinyNativeConfig(hidden=192, kv_heads=4, ffn=512, vocab=1500, positions_per_s=2)


@dataclass(frozen=True)
class Stage:
    """One stage of the curriculum.

    Args:
        name: Name in the output and in the model card.
        steps: Number of optimizer steps.
        data: ``labelled pictures``, ``digits of boxes`` and ``labelled sounds`` train one tower alone. A
            mapping from the kinds of conversations in :mod:`conversations` to weights trains the whole model.
        lr: Peak learning rate. The towers get a seventh of it when the whole model is trained.
        questions: Largest number of questions about one clip.
        lists: Number of further copies of each question whose answer lists everything, in the pool from which
            the questions about a clip are drawn.
    """

    name: str
    steps: int
    data: str | dict[str, float]
    lr: float = 2e-3
    questions: int = 8
    lists: int = 3


_ALL = {"picture": 13, "moment": 18, "sound": 7, "clip": 9, "face": 5, "action": 5, "events": 11, "music": 7,
        "two_videos": 6, "two_sounds": 6}  # fmt: skip

_READ: dict[str, float] = {
    "find_boxes": 35,
    "spot": 30,
    "moment": 25,
    "find_times": 10,
    "order": 10,
    "copy": 5,
}

CURRICULUM = (
    # The model learns to repeat words in any order, and then to look up the place of a thing in a text that
    # says the place right behind the name. It does not learn the later look-ups without these two stages.
    Stage("copy", 500, {"copy": 1}),
    Stage("look up again", 350, {"place_again": 60, "copy": 40}, lr=1e-3),
    # The towers learn to report things by the word embeddings of the language model. The model can then look
    # up a name in a picture as it does in a text.
    Stage("vision tower", 4000, "labelled pictures"),
    Stage("audio tower", 1500, "labelled sounds"),
    # The language model learns what the towers report. From here on every stage keeps some copying, because
    # the model forgets it otherwise.
    Stage("describe", 2800, {**_ALL, "text": 12, "copy": 4, "place_again": 4}, questions=10),
    # It learns to list what is there, when and in which order. Most answers of the tasks start with a list.
    Stage(
        "list",
        1300,
        {**_ALL, "two_videos": 12, "two_sounds": 9, "text": 8, "copy": 6, "place_again": 6},
        lists=20,
    ),
    # It learns to look up in a picture where a thing is, by its name. A list from left to right does not
    # teach this, because the order tells the side. The first 200 steps show no progress.
    Stage("find", 350, {"find": 95, "copy": 5}),
    Stage("find boxes", 600, {"find_boxes": 95, "copy": 5}),
    Stage(
        "places and times",
        1200,
        {
            "spot": 30,
            "find_boxes": 15,
            "find_times": 20,
            "moment": 20,
            "events": 8,
            "text": 8,
            "copy": 5,
            "place_again": 5,
        },
        questions=6,
    ),
    # It learns all forms of looking up in texts.
    Stage(
        "look up", 500, {"place_again": 15, "place_short": 25, "recall": 30, "match": 15, "copy": 15}, lr=1e-3
    ),
    # It learns which of two videos or sounds comes first. For 300 steps its answers are guesses.
    Stage("order", 500, {"order": 90, "copy": 5, "place_again": 5}),
    # The vision tower learns to report boxes as digits, which the language model can copy.
    Stage("digits", 1800, "digits of boxes", lr=1e-3),
    # It learns to read boxes and times off pictures and sounds: first the left edge, then the upper one. Each
    # picture has one question here, because a model that can copy would take the answer to a second one from
    # the first answer.
    Stage("read off", 700, _READ, questions=1),
    Stage("read off again", 1000, _READ, questions=1),
    Stage("read off a third time", 1000, _READ, lr=1.5e-3, questions=1),
    # It repeats everything, so that what was forgotten comes back. When 5 % of the conversations were about
    # the order (12 % now), the model forgot the order.
    Stage(
        "all",
        3000,
        {
            **_ALL,
            "events": 14,
            "action": 8,
            "two_videos": 14,
            "two_sounds": 12,
            "order": 22,
            "match": 8,
            "recall": 6,
            "spot": 14,
            "find_boxes": 5,
            "find_times": 6,
            "place_again": 3,
            "place_short": 3,
            "copy": 4,
            "text": 8,
        },
        lr=1.5e-3,
        questions=4,
    ),
    # It answers many questions about told facts: which of them fit, where a thing was, what goes into tags.
    # Without this stage the adapters of the demo learnt to see and hear, but seldom to conclude from it.
    Stage(
        "text",
        1200,
        {
            **_ALL,
            "text": 45,
            "match": 25,
            "recall": 20,
            "two_videos": 14,
            "two_sounds": 12,
            "order": 20,
            "spot": 12,
            "find_boxes": 5,
            "find_times": 6,
            "place_again": 3,
            "place_short": 3,
            "copy": 4,
        },
        lr=1.5e-3,
        questions=6,
    ),
    # It learns how the datasets call things, to choose one of the listed answers, and to tell backgrounds
    # apart. Datasets with the same question differ only in their clips, as the published ones do.
    Stage(
        "classes",
        2000,
        {
            **_ALL,
            "events": 20,
            "find_times": 16,
            "classes": 45,
            "options": 25,
            "background": 25,
            "text": 15,
            "match": 20,
            "recall": 10,
            "two_videos": 14,
            "two_sounds": 12,
            "order": 20,
            "spot": 14,
            "find_boxes": 6,
            "place_again": 5,
            "place_short": 5,
            "copy": 4,
        },
        lr=1.5e-3,
        questions=6,
    ),
)
"""The stages of the whole pre-training, in their order."""


@dataclass(frozen=True)
class PretrainConfig:
    """Settings of the pre-training.

    Args:
        seed: Seed of weights, vocabulary and data. No clip of it is in a Mini AV-UIE root with another seed.
        scale: Factor on the steps of every stage, for a short trial. Every stage has at least one step.
        tokens: Largest number of tokens in a batch, with padding.
        vocabulary_items: Number of questions of each dataset from which the vocabulary is learnt.
        workers: Number of loader processes.
        threads: Number of CPU threads. Two threads take 0.7 times as long as one if the cores are idle.
    """

    seed: int = 424_242
    scale: float = 1.0
    tokens: int = 2400
    vocabulary_items: int = 60
    workers: int = 1
    threads: int = 1


def pretrain_mini(out: Path | str, config: PretrainConfig | None = None, command: str = "") -> Path:
    """Write a pre-trained mini checkpoint folder with a model card.

    The weights are rounded to float16 after each stage and kept in ``<out>/work``, so that the same call
    continues after an interruption. The computation is in float32, which every processor can do.

    Args:
        out: Folder to write.
        config: Length and seed.
        command: The command line, for the model card.

    Returns:
        The folder: config, weights in float16, tokenizer, processor, ``pretraining.json`` and ``README.md``.

    Raises:
        FileExistsError: If the folder holds anything else than an interrupted pre-training.
    """
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration

    config = config or PretrainConfig()
    torch.set_num_threads(config.threads)
    folder = Path(out)
    work = folder / "work"
    if not work.is_dir():
        if folder.exists() and (folder.is_file() or any(folder.iterdir())):
            raise FileExistsError(
                f"--out {folder} holds something else than an interrupted pre-training; name another folder"
            )
        texts = corpus_texts(config.seed, config.vocabulary_items)
        make_tiny_native(folder, texts=texts, config=SIZES, seed=config.seed)
        work.mkdir()
    model = load_model(Qwen2_5OmniThinkerForConditionalGeneration, folder, dtype=torch.float32)
    losses: dict[str, float] = {}
    newest = work / "newest.pt"
    if newest.exists():
        held = torch.load(newest, weights_only=True)
        model.load_state_dict(held["model"])
        losses = held["losses"]
    for number, stage in enumerate(CURRICULUM):
        if stage.name in losses:
            continue
        losses[stage.name] = _train(model, folder, config, number)
        part = newest.with_suffix(".part")
        rounded = {name: weight.half() for name, weight in model.state_dict().items()}
        torch.save({"model": rounded, "losses": losses}, part)
        part.replace(newest)
        model.load_state_dict(rounded)  # the next stage starts from these, interrupted or not
    save_model(model.half(), folder)
    made = {"command": command, "torch": torch.__version__, "losses": losses, **asdict(config)}
    made["sizes"] = asdict(SIZES)
    made["curriculum"] = [{**asdict(s), "steps": _steps(s, config)} for s in CURRICULUM]
    (folder / "pretraining.json").write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(model_card(made), encoding="utf-8")
    for file in work.iterdir():
        file.unlink()
    work.rmdir()
    return folder


def model_card(made: dict[str, Any]) -> str:
    """Return the model card of a pre-training, in Markdown.

    Args:
        made: What ``pretraining.json`` holds.
    """
    rows = [
        f"| {s['name']} | {s['data'] if isinstance(s['data'], str) else ', '.join(s['data'])} | {s['steps']}"
        f" | {s['lr']:g} | {made['losses'][s['name']]:.3f} |"
        for s in made["curriculum"]
    ]
    return "\n".join(
        [
            "# Mini base model",
            "",
            "A model of the class Qwen2.5-Omni thinker, pre-trained from random weights on descriptions of",
            "scenes of the synthetic data Mini AV-UIE. It knows nothing about real pictures and sounds. It",
            "is made for the demo and for tests. The licence is that of the repository (Apache-2.0).",
            "",
            f"Made with seed {made['seed']} and torch {made['torch']} by this command:",
            "",
            f"    {made['command'] or 'pretrain_mini(...)'}",
            "",
            "| stage | data | steps | learning rate | loss of the last 50 steps |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _steps(stage: Stage, config: PretrainConfig) -> int:
    return max(1, round(stage.steps * config.scale))


def _train(model: Any, folder: Path, config: PretrainConfig, number: int) -> float:
    """Train one stage and return the mean loss of its last 50 steps."""
    stage = CURRICULUM[number]
    steps, seed = _steps(stage, config), config.seed + 1000 * number
    processor = NativeProcessor(folder)
    if stage.data in ("labelled pictures", "digits of boxes"):
        digits = stage.data == "digits of boxes"
        return pretrain_vision(model, processor.tokenizer, steps=steps, seed=seed, lr=stage.lr, digits=digits)
    if stage.data == "labelled sounds":
        return pretrain_audio(model, processor.tokenizer, steps=steps, seed=seed, lr=stage.lr)
    assert isinstance(stage.data, dict)
    in_tower = {id(p) for tower in towers_of(model) for p in tower.parameters()}
    named = list(model.named_parameters())
    towers = [(n, p) for n, p in named if id(p) in in_tower]
    rest = [(n, p) for n, p in named if id(p) not in in_tower]

    def loss_of(batch: Batch, step: int) -> torch.Tensor:
        for _, parameter in towers:  # it is enough to train them in every third step, and cheaper
            parameter.requires_grad_(step % 3 == 0)
        return target_loss(model, batch)

    torch.manual_seed(seed)
    corpus = Corpus(processor, seed, config.tokens, stage.questions, stage.data, stage.lists)
    groups = [(rest, stage.lr), (towers, stage.lr / 7)]
    loss = train(stage.name, model, groups, loss_of, corpus, steps=steps, workers=config.workers)
    for _, parameter in towers:
        parameter.requires_grad_(True)
    return loss


def target_loss(model: Any, batch: Batch) -> torch.Tensor:
    """Return the mean cross-entropy of the target tokens; logits are computed only for these tokens."""
    assert batch.labels is not None
    # Padding is on the right, where causal attention ignores it. Without a mask a step takes a fifth less.
    inputs = {name: value for name, value in batch.inputs.items() if name != "attention_mask"}
    hidden = last_hidden_states(model, **inputs, use_cache=False)[:, :-1]
    labels = batch.labels[:, 1:]
    kept = labels != -100
    loss: torch.Tensor = F.cross_entropy(model.lm_head(hidden[kept]).float(), labels[kept])
    return loss
