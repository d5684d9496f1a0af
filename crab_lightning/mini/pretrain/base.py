"""Makes the small base model that the demo fine-tunes: towers first, then everything on described scenes."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from crab_lightning.compat import load_model, save_model
from crab_lightning.mini.checkpoints.native import TinyNativeConfig, make_tiny_native
from crab_lightning.mini.pretrain.corpus import KINDS, Corpus, corpus_texts
from crab_lightning.mini.pretrain.optimizers import Optimizers
from crab_lightning.mini.pretrain.towers import pretrain_audio, pretrain_vision
from crab_lightning.models.checkpoints import towers_of
from crab_lightning.models.losses import last_hidden_states
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
)


@dataclass(frozen=True)
class Leg:
    """One cosine of the whole model's training.

    Args:
        steps: Optimizer steps.
        questions: Most questions asked about a clip, turn by turn: many teach much from one rendering.
        lr: Peak learning rate of the language model.
        tower_lr: Peak learning rate of the towers, once the language model reads them.
        text: Share of batches that are words alone: without them, the frozen output layer could never say a
            word that only a task needs.
        kinds: Chances of kinds of clips, instead of those in :data:`corpus.KINDS`.
        rope_theta: Base of the rotary positions. Qwen's million leaves dimensions that hardly turn, by which
            a word finds what it names wherever that lies; with 300 a model learns phrases, but never where
            the thing they name is.
    """

    steps: int
    questions: int
    lr: float
    tower_lr: float
    text: float
    kinds: dict[str, float] = field(default_factory=dict)
    rope_theta: float = 1e6


def _only(**kinds: float) -> dict[str, float]:
    """Return the chances of the named kinds, and 0 for all others."""
    return dict.fromkeys(KINDS, 0.0) | kinds


LEGS = (
    Leg(3200, 10, 2e-3, 3e-4, 0.12, rope_theta=300.0),
    # which of two clips is meant, and what follows from words (shipped: the first 750 steps of 1,700)
    Leg(
        750,
        8,
        2e-3,
        2e-4,
        0.3,
        {"picture": 0.25, "moment": 0.3, "two_videos": 0.13, "two_sounds": 0.13, "clip": 0.06, "sound": 0.04},
    ),
    # and, first with one thing in sight, where things are (shipped: the first 500 steps of 1,200)
    Leg(
        500, 6, 2e-3, 2e-4, 0.18, {"spot": 0.42, "picture": 0.06, "moment": 0.24, "sound": 0.03, "clip": 0.04}
    ),
    Leg(
        700,
        5,
        2.2e-3,
        4e-4,
        0.12,
        {
            "spot": 0.62,
            "picture": 0.05,
            "moment": 0.2,
            "sound": 0.01,
            "clip": 0.02,
            "face": 0.01,
            "action": 0.01,
            "events": 0.03,
            "music": 0.03,
            "two_videos": 0.02,
            "two_sounds": 0.02,
        },
    ),
    Leg(
        1500,
        6,
        2e-3,
        4e-4,
        0.1,
        {
            "spot": 0.5,
            "picture": 0.08,
            "moment": 0.22,
            "sound": 0.02,
            "clip": 0.02,
            "face": 0.02,
            "action": 0.02,
            "events": 0.06,
            "music": 0.02,
            "two_videos": 0.02,
            "two_sounds": 0.02,
        },
    ),
    # at last everything again, and much that follows from words
    Leg(
        700,
        8,
        2e-3,
        2e-4,
        0.3,
        {
            "spot": 0.15,
            "picture": 0.08,
            "moment": 0.25,
            "sound": 0.04,
            "clip": 0.06,
            "face": 0.03,
            "action": 0.03,
            "events": 0.14,
            "music": 0.05,
            "two_videos": 0.09,
            "two_sounds": 0.08,
        },
    ),
    # Looking up what was told, and where things are: nothing else, or a small model never finds out how.
    # First words alone in their easiest form, then in all forms, then with pictures.
    Leg(150, 8, 2e-3, 3e-4, 0.0, _only(terse=1.0)),
    Leg(600, 8, 2e-3, 3e-4, 0.0, _only(terse=0.15, recall=0.5, match=0.35)),
    Leg(400, 8, 2e-3, 3e-4, 0.0, _only(recall=0.2, match=0.15, spot=0.65)),
    # and everything once more, so that nothing is forgotten
    Leg(
        700,
        8,
        2e-3,
        3e-4,
        0.08,
        _only(
            spot=0.22,
            moment=0.22,
            picture=0.04,
            match=0.06,
            recall=0.06,
            sound=0.03,
            clip=0.05,
            face=0.04,
            action=0.03,
            events=0.16,
            music=0.04,
            two_videos=0.07,
            two_sounds=0.05,
        ),
    ),
    Leg(
        400,
        8,
        2e-3,
        3e-4,
        0.08,
        _only(
            spot=0.25,
            moment=0.18,
            match=0.1,
            recall=0.02,
            sound=0.02,
            clip=0.03,
            face=0.02,
            action=0.02,
            events=0.17,
            music=0.03,
            two_videos=0.28,
            two_sounds=0.06,
        ),
    ),
    Leg(
        500,
        8,
        1.5e-3,
        2e-4,
        0.12,
        _only(
            picture=0.03,
            moment=0.15,
            sound=0.05,
            clip=0.08,
            face=0.07,
            action=0.1,
            events=0.16,
            music=0.06,
            two_videos=0.12,
            two_sounds=0.05,
            spot=0.12,
            match=0.04,
            recall=0.02,
        ),
    ),
)
"""How the shipped base was made. Its first six legs read the wordings of their day, which were refined since:
a new run gives a base of the same kind, not the same weights."""


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
    vision_steps: int = 4000
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

    Raises:
        FileExistsError: If the folder holds anything else than a stopped pre-training.
    """
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration

    config = config or PretrainConfig()
    torch.set_num_threads(config.threads)
    folder = Path(out)
    work = folder / "work"
    own = work.is_dir() and (folder / "config.json").is_file()
    if not own and folder.exists() and (folder.is_file() or any(folder.iterdir())):
        raise FileExistsError(
            f"--out {folder} holds something else than a stopped pre-training; choose another"
        )
    if not own:
        make_tiny_native(
            folder, texts=corpus_texts(config.seed, config.vocabulary_items), config=SIZES, seed=config.seed
        )
    work.mkdir(exist_ok=True)
    model = load_model(Qwen2_5OmniThinkerForConditionalGeneration, folder, dtype=torch.float32)
    for name, tower, steps, train in (
        ("vision", towers_of(model)[0], config.vision_steps, pretrain_vision),
        ("audio", towers_of(model)[1], config.audio_steps, pretrain_audio),
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
    save_model(model.half(), folder)
    (folder / "pretraining.json").write_text(json.dumps(asdict(config), indent=2) + "\n")
    for file in work.iterdir():
        file.unlink()
    work.rmdir()
    return folder


def _train_leg(
    model: Any, processor: NativeProcessor, config: PretrainConfig, number: int, state_file: Path
) -> None:
    leg = config.legs[number]
    model.config.text_config.rope_parameters["rope_theta"] = leg.rope_theta
    decoder = model.get_decoder()
    decoder.rotary_emb = type(decoder.rotary_emb)(model.config.text_config)
    named = list(model.named_parameters())
    mine = {id(p) for tower in towers_of(model) for p in tower.parameters()}
    towers = [(n, p) for n, p in named if id(p) in mine]
    rest = [(n, p) for n, p in named if id(p) not in mine]
    optimizer = Optimizers([(rest, leg.lr), (towers, leg.tower_lr)], leg.steps)
    first = 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = int(state["step"])
    seed = config.seed + 1000 * number + first
    torch.manual_seed(seed)
    corpus = Corpus(processor, seed, config.tokens, leg.questions, leg.text, leg.kinds)
    loader = DataLoader(
        corpus, batch_size=None, num_workers=config.workers, prefetch_factor=3 if config.workers else None
    )
    model.train()
    for tower in towers_of(model):
        _in_full_precision(tower)
    started, losses = time.monotonic(), dict[str, list[float]]()
    for step, batch in zip(range(first, leg.steps), loader, strict=False):
        # The towers see by now; every third step lets them follow what the language model asks for.
        for _, parameter in towers:
            parameter.requires_grad_(step % 3 == 0)
        with torch.autocast("cpu", torch.bfloat16):
            loss = target_loss(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
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
            torch.save({**state, "step": step + 1}, held)
            held.replace(state_file)


def _in_full_precision(tower: nn.Module) -> None:
    """Keep a tower out of autocast: its small matrices gain no speed from bfloat16, and lose by the casts."""
    forward = tower.forward

    def exact(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast("cpu", enabled=False):
            return forward(*args, **kwargs)

    tower.forward = exact


def target_loss(model: Any, batch: Batch) -> torch.Tensor:
    """Return the mean cross-entropy of the target tokens; logits are made only where something is learnt."""
    assert batch.labels is not None
    hidden = last_hidden_states(model, **batch.inputs, use_cache=False)[:, :-1]
    labels = batch.labels[:, 1:]
    kept = labels != -100
    loss: torch.Tensor = F.cross_entropy(model.lm_head(hidden[kept]).float(), labels[kept])
    return loss
