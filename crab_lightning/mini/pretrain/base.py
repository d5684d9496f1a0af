"""Pre-trains the small base model that the demo fine-tunes: one curriculum, one command, one seed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from crab_lightning.compat import load_model, save_model
from crab_lightning.mini.checkpoints.native import TinyNativeConfig, make_tiny_native
from crab_lightning.mini.pretrain.corpus import Corpus, corpus_texts
from crab_lightning.mini.pretrain.optimizers import Optimizers
from crab_lightning.mini.pretrain.towers import pretrain_audio, pretrain_vision
from crab_lightning.models.checkpoints import towers_of
from crab_lightning.models.losses import last_hidden_states
from crab_lightning.processing import NativeProcessor
from crab_lightning.structures import Batch

SIZES = TinyNativeConfig(hidden=192, kv_heads=4, ffn=512, vocab=1500, positions_per_s=2)


@dataclass(frozen=True)
class Stage:
    """One stage of the curriculum, with a learning rate that falls as a cosine.

    Args:
        name: Name in the log and in the model card.
        steps: Optimizer steps.
        data: ``labelled pictures`` or ``labelled sounds`` train one tower alone. Otherwise these are the
            weights of kinds of conversations (:data:`corpus.KINDS`), which train the whole model.
        lr: Peak learning rate; the towers get a seventh of it once the whole model is trained.
        questions: Largest number of questions about one clip.
        lists: How many times more often a question is drawn whose answer lists all there is.
    """

    name: str
    steps: int
    data: str | dict[str, float]
    lr: float = 2e-3
    questions: int = 8
    lists: int = 3


_ALL = {"picture": 13, "moment": 18, "sound": 7, "clip": 9, "face": 5, "action": 5, "events": 11, "music": 7,
        "two_videos": 6, "two_sounds": 6}  # fmt: skip

CURRICULUM = (
    Stage("vision tower", 4000, "labelled pictures"),
    Stage("audio tower", 1500, "labelled sounds"),
    # Everything once, so that the language model learns what the towers report.
    Stage("describe", 2800, {**_ALL, "text": 12}, questions=10),
    # To list what is there, when and in which order: the first half of most answers.
    Stage("list", 1300, {**_ALL, "two_videos": 12, "two_sounds": 9, "text": 8}, lists=20),
    # Where things are, first with few things in the picture.
    Stage("places", 1300, {"spot": 50, "moment": 20, "picture": 8, "events": 6, "text": 16}, questions=6),
    # To repeat words that stand in any order. Whatever is looked up in a text needs this first: without this
    # stage, 900 steps of "place_short" left the answers at a guess.
    Stage("copy", 500, {"copy": 1}),
    # To look up what was told: first where the answer repeats the name, and the place stood behind it; then
    # in all forms; then with pictures. At a learning rate of 2e-3 the model forgets to copy before that.
    Stage("look up again", 350, {"place_again": 60, "copy": 40}, lr=1e-3),
    Stage(
        "look up", 700, {"place_again": 15, "place_short": 25, "recall": 30, "match": 15, "copy": 15}, lr=1e-3
    ),
    Stage(
        "look up in pictures",
        350,
        {"place_again": 6, "place_short": 6, "recall": 14, "match": 10, "copy": 6, "spot": 58},
        lr=1e-3,
    ),
    # Everything again, so that nothing is forgotten.
    Stage(
        "all",
        1900,
        {
            **_ALL,
            "spot": 20,
            "match": 8,
            "recall": 8,
            "place_again": 3,
            "place_short": 3,
            "copy": 6,
            "two_videos": 15,
            "text": 12,
        },
        lr=1.5e-3,
    ),
)
"""Data, steps and learning rate of the whole pre-training, in their order."""


@dataclass(frozen=True)
class PretrainConfig:
    """Settings of the pre-training.

    Args:
        seed: Seed of weights, vocabulary and data. No clip of it is in a Mini AV-UIE root with another seed.
        scale: Factor on the steps of every stage, for a short trial; every stage has at least one step.
        tokens: Largest number of tokens in a batch, padding included.
        vocabulary_items: Number of questions of each dataset from which the vocabulary is learnt.
        workers: Number of loader processes.
        threads: Number of CPU threads. One is the fastest on a shared machine.
    """

    seed: int = 424_242
    scale: float = 1.0
    tokens: int = 2400
    vocabulary_items: int = 60
    workers: int = 1
    threads: int = 1


def pretrain_mini(out: Path | str, config: PretrainConfig | None = None, command: str = "") -> Path:
    """Write a pre-trained mini checkpoint folder with a model card.

    A finished stage is kept in ``<out>/work``, so that the same call continues after an interruption.

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
    for tower in towers_of(model):
        _keep_float32(tower)
    losses: dict[str, float] = {}
    for number, stage in enumerate(CURRICULUM):
        done = work / f"{number}.pt"
        if done.exists():
            held = torch.load(done, weights_only=True)
            model.load_state_dict(held["model"])
            losses = held["losses"]
            continue
        losses[stage.name] = _train(model, folder, config, number)
        part = done.with_suffix(".part")
        torch.save({"model": model.state_dict(), "losses": losses}, part)
        part.replace(done)
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
    if stage.data == "labelled pictures":
        return pretrain_vision(model, steps=steps, seed=seed, lr=stage.lr)
    if stage.data == "labelled sounds":
        return pretrain_audio(model, steps=steps, seed=seed, lr=stage.lr)
    assert isinstance(stage.data, dict)
    in_tower = {id(p) for tower in towers_of(model) for p in tower.parameters()}
    named = list(model.named_parameters())
    towers = [(n, p) for n, p in named if id(p) in in_tower]
    rest = [(n, p) for n, p in named if id(p) not in in_tower]
    optimizer = Optimizers([(rest, stage.lr), (towers, stage.lr / 7)], steps)
    torch.manual_seed(seed)
    corpus = Corpus(NativeProcessor(folder), seed, config.tokens, stage.questions, stage.data, stage.lists)
    ahead = 3 if config.workers else None
    loader = DataLoader(corpus, batch_size=None, num_workers=config.workers, prefetch_factor=ahead)
    model.train()
    losses: list[float] = []
    for step, batch in zip(range(steps), loader, strict=False):
        for _, parameter in towers:  # every third step is enough for them, and costs less
            parameter.requires_grad_(step % 3 == 0)
        with torch.autocast("cpu", torch.bfloat16):
            loss = target_loss(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        if step % 50 == 49:
            print(f"{stage.name}: step {step + 1} of {steps}, loss {sum(losses[-50:]) / 50:.3f}", flush=True)
    for _, parameter in towers:
        parameter.requires_grad_(True)
    return sum(losses[-50:]) / len(losses[-50:])


def _keep_float32(tower: nn.Module) -> None:
    """Exclude a tower from autocast: bfloat16 makes its small matrices no faster."""
    tower.forward = torch.autocast("cpu", enabled=False)(tower.forward)


def target_loss(model: Any, batch: Batch) -> torch.Tensor:
    """Return the mean cross-entropy of the target tokens; logits are computed only for these tokens."""
    assert batch.labels is not None
    hidden = last_hidden_states(model, **batch.inputs, use_cache=False)[:, :-1]
    labels = batch.labels[:, 1:]
    kept = labels != -100
    loss: torch.Tensor = F.cross_entropy(model.lm_head(hidden[kept]).float(), labels[kept])
    return loss
