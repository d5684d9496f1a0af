"""Run by test_sharding on two CPU processes, and by the test itself on one: short fits on mixed media.

A case is a paradigm in one of its stages. Each is trained for two steps, answers prompts, is saved, and is
taken up again under another strategy.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM

from crab_lightning.adapters import ADAPTERS, AdapterConfig, LoRALinear
from crab_lightning.adapters.kinds import describe, register_adapter
from crab_lightning.distributed.local_shards import whole_shape
from crab_lightning.encoders import DinoVision, WhisperAudio
from crab_lightning.mini import (
    TinyLlmVaConfig,
    make_tiny_llm_va,
    make_tiny_native,
    make_tiny_qwen3_omni,
    make_tiny_vllm_a,
)
from crab_lightning.models import AVModule, LlmVaModule, OmniModule, Qwen3OmniModule, VllmAModule
from crab_lightning.models.connectors import ConnectorConfig
from crab_lightning.structures import Batch, Conversation, Example, Media
from tests.encoders.checkpoints import write
from tests.processing.examples import frames, sample, sound
from tests.quiet import quiet_trainer

SIDE = 28
PROCESSES = 2
RESUMED = (("ddp", "fsdp1"), ("fsdp1", "fsdp2"))  # strategies to begin with and to go on with
SIZES: dict[str, Any] = {"queries": 2, "hidden": 16, "heads": 2, "ffn": 24, "dropout": 0.0}


@dataclass(frozen=True)
class Case:
    """A paradigm in one stage.

    Args:
        paradigm: Folder of its tiny checkpoint.
        options: What its module is built with, beside what all have.
        adapted: Whether the language model has adapters (stage 2).
        strategies: What it is trained under.
        slow: Whether the default test run leaves it out.
    """

    paradigm: str
    options: dict[str, Any] = field(default_factory=dict)
    adapted: bool = True
    strategies: tuple[str, ...] = ("ddp", "fsdp2", "fsdp1")
    slow: bool = False

    @property
    def side(self) -> int:
        """Side of its frames in pixels: a merged patch."""
        return 32 if self.paradigm == "qwen3_omni" else SIDE

    @property
    def apart(self) -> bool:
        """Whether the loss of a batch is not the sum of its samples' losses: a balance loss is a product."""
        return bool(getattr(self.options.get("adapter"), "balance", 0) or self.options.get("router_loss"))

    @property
    def resumed(self) -> tuple[tuple[str, str], ...]:
        """Strategies to begin with and to go on with."""
        both = set(RESUMED[0] + RESUMED[1]) <= set(self.strategies)
        return RESUMED if both and not self.rounded else ()

    @property
    def rounded(self) -> bool:
        """Whether the base has the shipped type, in which other batches give other last digits."""
        return bool(self.options.get("dtype") == "bfloat16")


CASES = {
    "native": Case("native", strategies=("ddp", "fsdp2", "fsdp2_offload", "fsdp1")),
    # gradient checkpointing, as the shipped configs of these have it
    "llm_va": Case("llm_va", {"train_connectors": ["visual", "audio"], "gradient_checkpointing": True}),
    # other encoders than the paper's; Whisper reads a clip as a whole
    "llm_va_towers": Case(
        "llm_va_towers", {"train_connectors": ["visual", "audio"], "gradient_checkpointing": True}
    ),
    "llm_va_visual": Case("llm_va", {"train_connectors": ["visual"]}, adapted=False, slow=True),
    "llm_va_audio": Case("llm_va", {"train_connectors": ["audio"]}, adapted=False, slow=True),
    "vllm_a": Case("vllm_a", {"audio_connector": "connector.safetensors", "gradient_checkpointing": True}),
    "vllm_a_audio": Case("vllm_a", {"train_connectors": ["audio"]}, adapted=False),
    # One table for reading and writing words, as small models have it; the shipped types of weights.
    "llm_va_tied": Case(
        "llm_va_tied", {"train_connectors": ["visual", "audio"], "dtype": "bfloat16"}, slow=True
    ),
    "vllm_a_bfloat16": Case(
        "vllm_a", {"audio_connector": "connector.safetensors", "dtype": "bfloat16"}, slow=True
    ),
    "qwen3_omni": Case(
        "qwen3_omni",
        {
            "adapter": AdapterConfig(
                rank=4, expert_rank=2, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]
            ),
            "gradient_checkpointing": True,
        },
        strategies=("fsdp2", "fsdp1"),
    ),
    "qwen3_omni_router": Case(
        "qwen3_omni",
        {
            "adapter": AdapterConfig(kind="lora", rank=4, expert_rank=2, target_modules=["q_proj"]),
            "router_loss": 0.5,
        },
        strategies=("ddp", "fsdp2"),
    ),
    "native_bfloat16": Case("native", {"dtype": "bfloat16", "gradient_checkpointing": True}, slow=True),
}


def of_kind(kind: str) -> AdapterConfig:
    """Return adapters of a kind, with the keys that it needs."""
    routed = {"balance": 0.1, "top_k": 2}
    tasks = {"tasks": ["event_localization", "captioning"]}
    needed = {"multi_lora": tasks, "hydra_lora": routed, "moe_lora": routed}
    return AdapterConfig(kind=kind, rank=4, **needed.get(kind, {}))


@dataclass
class GainedConfig(AdapterConfig):
    """Scales every value of its update, and all of them together."""

    kind: Literal["gained"] = "gained"  # type: ignore[assignment]


class GainedLinear(LoRALinear):
    """A kind with parameters of its own: one is shared out, the other is a single number."""

    config_class: ClassVar[type[AdapterConfig]] = GainedConfig

    def add_parameters(self) -> None:
        self.gains = self._parameter(self.out_features)
        self.volume = self._parameter()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        for parameter in (self.gains, self.volume):
            nn.init.ones_(parameter)

    def update(self, x: Tensor) -> Tensor:
        low = self.dropped(x) @ self.lora_A.t().to(x.dtype) @ self.lora_B.t().to(x.dtype)
        return low * (self.volume * self.gains * self.scaling).to(x.dtype)


@contextmanager
def with_own_kind() -> Iterator[None]:
    """Have the kind above registered for a while."""
    before = dict(ADAPTERS)
    register_adapter(GainedLinear)
    try:
        yield
    finally:
        ADAPTERS.clear()
        ADAPTERS.update(before)
        describe()


CASES["own_parameters"] = Case("native", {"adapter": GainedConfig(rank=4)}, strategies=("fsdp2", "fsdp1"))
CASES |= {kind: Case("native", {"adapter": of_kind(kind)}, strategies=("fsdp2",)) for kind in ADAPTERS}


def write_checkpoints(folder: Path) -> None:
    """Write a tiny checkpoint of each paradigm, and a connector as a stage 1 run of V-LLM+A leaves it."""
    make_tiny_native(folder / "native")
    make_tiny_qwen3_omni(folder / "qwen3_omni")
    make_tiny_llm_va(folder / "llm_va", config=TinyLlmVaConfig(image_px=SIDE, patch_px=14))
    shutil.copytree(folder / "llm_va", folder / "llm_va_tied")
    config = LlamaConfig.from_pretrained(folder / "llm_va_tied" / "llm", tie_word_embeddings=True)
    LlamaForCausalLM(config).save_pretrained(folder / "llm_va_tied" / "llm")
    shutil.copytree(folder / "llm_va", folder / "llm_va_towers")
    for name in ("dinov3", "whisper"):
        write(name, folder / "llm_va_towers", SIDE)
    make_tiny_vllm_a(folder / "vllm_a")
    first = build(folder, CASES["vllm_a_audio"])
    first.configure_model()
    first.save_adapter(folder / "vllm_a")
    (folder / "vllm_a" / "audio_connector.safetensors").rename(folder / "vllm_a" / "connector.safetensors")


def example(key: str, kinds: str, target: str | None = "here", seed: int = 0) -> Example:
    """Return an example with a medium for each letter: ``v`` video, ``i`` image, ``a`` sound."""
    names = {"v": Media.VIDEO, "i": Media.IMAGE, "a": Media.AUDIO}
    talk: Conversation = ("Given:", *(names[kind] for kind in kinds), "What is it?")
    count = {kind: range(kinds.count(kind)) for kind in names}
    return Example(
        sample(key),
        talk,
        target,
        videos=[frames(2, seed + i, SIDE) for i in count["v"]],
        images=[frames(1, seed + i, SIDE)[0] for i in count["i"]],
        audios=[sound(0.5, seed + i) for i in count["a"]],
        seconds_per_grid=[2.0] * len(count["v"]),
    )


def sized(made: Example, side: int) -> Example:
    """Return an example whose pictures have black margins, to be as large as a model's patches want."""
    room = (0, side - SIDE, 0, side - SIDE)
    videos, images = ([functional.pad(p, room) for p in kind] for kind in (made.videos, made.images))
    return replace(made, videos=videos, images=images)


# The batches of each process, step by step: no sound on one, no picture on the other, two clips, words alone.
LEARNT = [
    [
        [example("a", "i"), example("b", "i", "a longer answer", 1)],
        [example("c", "a", "yes", 2), example("d", "va", "a dog barks at a cat", 3), example("e", "vv")],
    ],
    [[example("f", "", "no")], [example("g", "via", "a drum", 4)]],
]
ASKED = [
    [[example("h", "va", None, 5), example("i", "", None), example("j", "vv", None, 6)]],
    [[example("k", "i", None, 7)]],
]


class Recording(AVModule):
    """Keeps gradients as they are before clipping; mixed into a paradigm's module."""

    def configure_gradient_clipping(self, *args: Any, **options: Any) -> None:
        found = {}
        root = getattr(self, "fsdp1_root", (None,))[0]
        whole = FSDP.summon_full_params(root, writeback=False, with_grads=True) if root else nullcontext()
        with whole:
            for name, p in self.named_parameters():
                if p.grad is not None:
                    found[name] = (p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad).clone()
        self.gradients = [*getattr(self, "gradients", []), found]
        super().configure_gradient_clipping(*args, **options)


class RecordingOmni(Recording, OmniModule):
    """Native."""


class RecordingQwen3(Recording, Qwen3OmniModule):
    """Native, with experts."""


class RecordingLlmVa(Recording, LlmVaModule):
    """LLM+V+A."""


class RecordingVllmA(Recording, VllmAModule):
    """V-LLM+A."""


class Recorder(Callback):
    """Keeps answers."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Any]] = {}

    def on_validation_batch_end(self, trainer: Trainer, module: Any, outputs: Any, *_: Any) -> None:
        for prediction in outputs.get("predictions", ()):
            self.answers[prediction.sample.id] = [prediction.text, prediction.tokens]


def build(checkpoints: Path, case: Case, **changed: Any) -> Any:
    """Return the module of a case, its weights not loaded yet."""
    torch.manual_seed(0)
    folder = checkpoints / case.paradigm
    options: dict[str, Any] = {
        "adapter": AdapterConfig(rank=4, within=None if case.paradigm == "native" else "language_model")
        if case.adapted
        else None,
        "optimizer": lambda p: torch.optim.AdamW(
            p, lr=0.01, eps=0.1, fused=True
        ),  # a large eps keeps noise small
        "warmup_share": 0.0,
        "dtype": "float32",
        "geometry": "plain",
        "max_new_tokens": 4,
    }
    options |= case.options
    if "audio_connector" in options:
        options["audio_connector"] = folder / options["audio_connector"]
    options |= changed
    if case.paradigm == "native":
        return RecordingOmni(str(folder), **options)
    if case.paradigm == "qwen3_omni":
        return RecordingQwen3(str(folder), **options)
    options["beats"] = str(folder / "beats")
    if case.paradigm == "llm_va_towers":
        options["visual_encoder"] = DinoVision(str(folder / "dinov3"), size_px=SIDE)
        options["audio_encoder"] = WhisperAudio(str(folder / "whisper"))
    if case.paradigm.startswith("llm_va"):
        return RecordingLlmVa(
            str(folder / "llm"), vision=str(folder / "clip"), connector=ConnectorConfig(**SIZES), **options
        )
    windows = ConnectorConfig("window_qformer", **SIZES)
    return RecordingVllmA(str(folder / "vllm"), connector=windows, **options)


def fit(
    checkpoints: Path,
    case: Case,
    folder: Path,
    batches: Sequence[Batch],
    prompts: Sequence[Batch],
    ckpt: Path | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Train, answer and save; return what was seen."""
    module = build(checkpoints, case)
    read_whole: list[str] = []
    original = type(module).load_base

    def load_base(self: Any) -> torch.nn.Module:
        base: torch.nn.Module = original(self)
        read_whole.extend(name for name, p in base.named_parameters() if not p.is_meta)
        return base

    module.load_base = types.MethodType(load_base, module)
    recorder = Recorder()
    trainer = quiet_trainer(
        folder,
        callbacks=[recorder],
        max_epochs=1 if ckpt is None else 2,
        num_sanity_val_steps=0,
        gradient_clip_val=0.5,
        use_distributed_sampler=False,
        **options,
    )
    train, val = (DataLoader(list(b), batch_size=None) for b in (batches, prompts))  # type: ignore[arg-type]
    trainer.fit(module, train, val, ckpt_path=ckpt)
    trainer.save_checkpoint(folder / "state.ckpt")
    module.save_adapter(folder / "adapter")
    if hasattr(module, "fsdp1_root"):  # its padding counts
        held = sum(flat.numel() for unit in FSDP.fsdp_modules(module.fsdp1_root[0]) for flat in unit.params)
    else:
        held = sum((p.to_local() if hasattr(p, "to_local") else p).numel() for p in module.parameters())
    return {
        "rank": trainer.global_rank,
        "gradients": module.gradients,
        "answers": recorder.answers,
        "loss": float(trainer.callback_metrics["train/loss"]),
        "read_whole": len(read_whole),
        "share": held / sum(whole_shape(p).numel() for p in module.parameters()),
    }


def main(checkpoints: Path, out: Path, names: Sequence[str]) -> None:
    """Fit cases under all of their strategies; every process writes what it saw."""
    rank = int(os.environ["RANK"])
    for name in names:
        case = CASES[name]
        processor = build(checkpoints, case).processor
        side = case.side
        own = [processor.collate([processor.encode(sized(e, side)) for e in step[rank]]) for step in LEARNT]
        prompts = [processor.collate([processor.encode(sized(e, side)) for e in b]) for b in ASKED[rank]]
        for strategy in case.strategies:
            folder = out / name / strategy
            folder.mkdir(parents=True, exist_ok=True)
            seen = fit(checkpoints, case, folder, own, prompts, strategy=strategy, devices=PROCESSES)
            torch.save(seen.pop("gradients"), folder / f"gradients_{rank}.pt")
            (folder / f"seen_{rank}.json").write_text(json.dumps(seen))
        for before, after in case.resumed:
            folder = out / name / f"{before}_{after}"
            folder.mkdir(exist_ok=True)
            ckpt = out / name / before / "state.ckpt"
            fit(checkpoints, case, folder, own, prompts, ckpt=ckpt, strategy=after, devices=PROCESSES)


if __name__ == "__main__":
    with with_own_kind():
        main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
