"""Makes the small base model that the demo fine-tunes: towers first, then everything on described scenes."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from crab_lightning.models.tiny import TinyNativeConfig, make_tiny_native
from crab_lightning.pretrain.corpus import Corpus, corpus_texts
from crab_lightning.pretrain.towers import pretrain_audio, pretrain_vision
from crab_lightning.processing import NativeProcessor
from crab_lightning.structures import Batch

SIZES = TinyNativeConfig(
    hidden=192,
    layers=4,
    heads=4,
    kv_heads=4,
    ffn=512,
    vision_hidden=64,
    vision_layers=2,
    vision_heads=4,
    audio_hidden=64,
    audio_layers=2,
    audio_heads=4,
    vocab=1500,
    rope_theta=300.0,
)


@dataclass(frozen=True)
class Leg:
    """One cosine of the whole model's training.

    Args:
        steps: Optimizer steps.
        questions: Most questions asked at once about a clip. Many teach much from one rendering; few teach to
            tell which one was asked.
        lr: Peak learning rate of the language model.
        tower_lr: Peak learning rate of the towers, once the language model reads them.
        text: Share of batches that are words alone: without them, the frozen output layer could never say a
            word that only a task needs.
    """

    steps: int
    questions: int
    lr: float
    tower_lr: float
    text: float


LEGS = (
    Leg(3600, 4, 1.5e-3, 3e-4, 0.0),
    Leg(1000, 2, 1e-3, 2e-4, 0.25),
    Leg(500, 2, 1e-3, 1e-4, 0.55),
    Leg(420, 2, 1.2e-3, 1e-4, 0.85),
)


@dataclass(frozen=True)
class PretrainConfig:
    """How long and from where.

    Args:
        seed: Fixes weights, vocabulary and data; Mini AV-UIE trees from other seeds share no clip with it.
        vision_steps: Optimizer steps of the vision tower alone, 12 pictures each.
        audio_steps: Optimizer steps of the audio tower alone, 10 clips of four seconds each.
        legs: Training of the whole model, one after the other.
        tokens: Padded tokens of a batch of the whole model.
        vocabulary_items: Questions of each dataset from whose texts the vocabulary is learnt.
        workers: Loader processes.
        threads: Threads of the training process. One is best on a shared machine: idle threads spin.
    """

    seed: int = 424_242
    vision_steps: int = 3000
    audio_steps: int = 1500
    legs: tuple[Leg, ...] = LEGS
    tokens: int = 4000
    vocabulary_items: int = 60
    workers: int = 1
    threads: int = 1


def pretrain_mini(out: Path | str, config: PretrainConfig | None = None) -> Path:
    """Write a pre-trained mini checkpoint folder; continues from its own working files after a stop.

    Args:
        out: Folder to write; working files lie in ``<out>/work`` until it is done.
        config: Length, seed and learning rates.

    Returns:
        The folder: config, safetensors weights in float16, tokenizer, processor and ``pretraining.json``.
    """
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration

    config = config or PretrainConfig()
    torch.set_num_threads(config.threads)
    folder = Path(out)
    work = folder / "work"
    if not (folder / "config.json").exists():
        make_tiny_native(
            folder, texts=corpus_texts(config.seed, config.vocabulary_items), config=SIZES, seed=config.seed
        )
    work.mkdir(exist_ok=True)
    model = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    for name, tower, steps, train in (
        ("vision", model.model.visual, config.vision_steps, pretrain_vision),
        ("audio", model.model.audio_tower, config.audio_steps, pretrain_audio),
    ):
        done = work / f"{name}.pt"
        if done.exists():
            tower.load_state_dict(torch.load(done, weights_only=True))
            continue
        train(model, steps=steps, seed=config.seed)
        torch.save(tower.state_dict(), done)
    for number in range(len(config.legs)):
        done = work / f"leg{number}.pt"
        if done.exists():
            model.load_state_dict(torch.load(done, weights_only=True))
            continue
        _train_leg(model, NativeProcessor(folder), config, number, work / "now.pt")
        torch.save(model.state_dict(), done)
        (work / "now.pt").unlink(missing_ok=True)
    model.half().save_pretrained(folder)
    (folder / "pretraining.json").write_text(json.dumps(asdict(config), indent=2) + "\n")
    for file in work.iterdir():
        file.unlink()
    work.rmdir()
    return folder


def _train_leg(
    model: Any, processor: NativeProcessor, config: PretrainConfig, number: int, state_file: Path
) -> None:
    leg = config.legs[number]
    towers = [*model.model.visual.parameters(), *model.model.audio_tower.parameters()]
    mine = {id(p) for p in towers}
    rest = [p for p in model.parameters() if id(p) not in mine]
    optimizer = torch.optim.AdamW(
        [{"params": rest, "lr": leg.lr}, {"params": towers, "lr": leg.tower_lr}],
        betas=(0.9, 0.98),
        weight_decay=0.01,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: min(1.0, (s + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * s / leg.steps))),
    )
    first = 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        first = int(state["step"])
    seed = config.seed + 1000 * number + first
    torch.manual_seed(seed)
    corpus = Corpus(processor, seed, config.tokens, leg.questions, leg.text)
    loader = DataLoader(
        corpus, batch_size=None, num_workers=config.workers, prefetch_factor=3 if config.workers else None
    )
    model.train()
    started, losses = time.monotonic(), dict[str, list[float]]()
    for step, batch in zip(range(first, leg.steps), loader, strict=False):
        # The towers see by now; every third step lets them follow what the language model asks for.
        for parameter in towers:
            parameter.requires_grad_(step % 3 == 0)
        loss = target_loss(model, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.setdefault(batch.samples[0].dataset, []).append(float(loss.detach()))
        if step % 50 == 49:
            line = " ".join(f"{k} {sum(v) / len(v):.3f}" for k, v in sorted(losses.items()))
            print(
                f"leg {number} {step + 1}/{leg.steps} {time.monotonic() - started:.0f} s {line}", flush=True
            )
            losses = {}
        if step % 250 == 249:
            held = state_file.with_suffix(".new")
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save({**state, "schedule": schedule.state_dict(), "step": step + 1}, held)
            held.replace(state_file)


def target_loss(model: Any, batch: Batch) -> torch.Tensor:
    """Return the mean cross-entropy of the target tokens; logits are made only where something is learnt."""
    assert batch.labels is not None
    hidden = model.model(**batch.inputs, use_cache=False).last_hidden_state[:, :-1]
    labels = batch.labels[:, 1:]
    kept = labels != -100
    loss: torch.Tensor = F.cross_entropy(model.lm_head(hidden[kept]).float(), labels[kept])
    return loss
