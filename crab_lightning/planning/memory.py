"""Computes the memory of a process and the time of a step from the sizes of the model.

The formulas were checked against small runs (tests/planning/test_memory.py). Constants that can only be
measured on a GPU are marked as assumptions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from crab_lightning.planning.shape import Shape

Sharding = Literal["none", "ddp", "fsdp2", "fsdp2_hybrid", "fsdp2_offload"]

CHUNK_TOKENS = 1024  # same as models.losses.CHUNK_TOKENS, whose import would load torch's checkpointing
CONTEXT_BYTES = 2.0e9
"""Memory of the CUDA context, NCCL buffers and workspaces; this is an assumption."""
FRAGMENTATION = 0.05
"""Fraction of the other memory that the allocator cannot use; this is an assumption."""
FOUR_BIT_BYTES = 0.5 + 4 / 64 / 2  # NF4 in blocks of 64 with scales of slightly more than 8 bits


@dataclass(frozen=True)
class Setting:
    """The settings of a run that decide its memory and time.

    Args:
        devices: Number of devices in each node.
        nodes: Number of nodes.
        sharding: How the weights are distributed over the devices.
        rows: Number of samples in a micro-batch of one process.
        sample_tokens: Mean number of tokens in a sample.
        longest_tokens: Number of tokens to which the samples of the largest micro-batch are padded.
        batch_tokens: Number of padded tokens in a micro-batch, instead of ``rows`` times ``longest_tokens``.
        target_tokens: Number of target tokens in a sample.
        patches: Number of vision patches in a sample.
        audio_tokens: Number of audio tokens in a sample.
        accumulate: Number of micro-batches in a step.
        checkpointing: Whether decoder layers are computed again in the backward pass.
        weight_bytes: Size of a base weight in bytes, which is 2 for bfloat16.
        four_bit: Whether the linear layers of the decoder are stored in 4 bits.
        moments: Number of values that the optimizer keeps for each trained weight, which is 2 for Adam.
        samples: Number of samples in an epoch.
        epochs: Number of epochs.
        flops: Floating-point operations that a device achieves in each second.
        link: Speed of the connection between devices of a node, for each device, in bytes per second.
        network: Speed of the connection between nodes, for each device, in bytes per second.
    """

    devices: int
    nodes: int
    sharding: Sharding
    rows: float
    sample_tokens: int
    longest_tokens: int
    batch_tokens: int | None
    target_tokens: int
    patches: int
    audio_tokens: int
    accumulate: int
    checkpointing: bool
    weight_bytes: int
    four_bit: bool
    moments: int
    samples: int
    epochs: int
    flops: float
    link: float
    network: float

    @property
    def world(self) -> int:
        """Number of processes."""
        return self.devices * self.nodes

    @property
    def shards(self) -> int:
        """Number of processes that share one copy of the weights."""
        match self.sharding:
            case "fsdp2" | "fsdp2_offload":
                return self.world
            case "fsdp2_hybrid":
                return self.devices
            case _:
                return 1

    @property
    def most_tokens(self) -> int:
        """Number of padded tokens in the largest micro-batch of a process."""
        return self.batch_tokens or math.ceil(self.rows * self.longest_tokens)

    @property
    def usual_rows(self) -> float:
        """Mean number of samples in a micro-batch."""
        return self.rows if self.batch_tokens is None else self.batch_tokens / self.sample_tokens


def layer_bytes(shape: Shape, weight_bytes: int) -> float:
    """Return how many bytes one decoder layer keeps for the backward pass, for each token.

    The two norms keep their float32 input and one number. The attention keeps queries, keys and values
    (repeated for grouped heads, since a padded batch has a mask), its output, a copy of the output in the
    order of the output projection, and the rotary factors. The feed-forward network keeps the gate, the
    activation of the gate, the up projection and the product. Adapters keep their low-rank activation and the
    routes. Only adapters on experts also keep a copy of their input.
    """
    b, d = weight_bytes, shape.hidden
    width = shape.heads * shape.head_width
    norms = 2 * (4 * d + 4 + b * d)
    attention = b * (5 * width + 2 * shape.head_width) + 4 * shape.heads
    adapters = shape.adapted * (b * shape.rank + 4 * shape.routes) + b * shape.expert_values
    return norms + attention + 4 * b * shape.ffn + adapters


def activation_bytes(shape: Shape, tokens: int, weight_bytes: int, checkpointing: bool) -> float:
    """Return how many bytes the decoder keeps at most for the backward pass of a micro-batch."""
    layer = layer_bytes(shape, weight_bytes) * tokens
    if not checkpointing:
        return shape.layers * layer
    return shape.layers * weight_bytes * shape.hidden * tokens + layer


def logit_bytes(shape: Shape, targets: float, weight_bytes: int) -> float:
    """Return the bytes of logits, their float32 copy, its log-softmax and the gradients, for one chunk."""
    return min(targets, CHUNK_TOKENS) * shape.vocabulary * (2 * weight_bytes + 12)


def tower_bytes(shape: Shape, rows: float, patches: int, audio_tokens: int, weight_bytes: int) -> float:
    """Return the bytes that one layer of a frozen tower needs, for the tower that needs more."""
    seen = rows * patches * (6 * shape.vision[0] + 3 * shape.vision[1])
    heard = rows * 2 * audio_tokens * (6 * shape.audio[0] + 2 * shape.audio[1])
    return weight_bytes * max(seen, heard)


def memory(shape: Shape, setting: Setting) -> dict[str, float]:
    """Return the memory of each part of a run in one process, in bytes, at the largest moment of a step."""
    s, b = setting, setting.weight_bytes
    full = shape.adapters == 0
    trained = shape.base if full else shape.adapters
    trained_bytes = b if full else shape.adapter_bytes
    frozen = 0.0 if full else shape.base * b
    if s.four_bit:
        frozen -= shape.decoder * (b - FOUR_BIT_BYTES)
    offload = s.sharding == "fsdp2_offload"
    on_device = 0.0 if offload else 1 / s.shards
    sharded = s.sharding.startswith("fsdp2")
    extra = 0 if full else shape.layer_adapters * trained_bytes
    gathered = shape.rest * b + 2 * (shape.layer * b + extra) if sharded and s.world > 1 else 0.0
    buckets = trained * trained_bytes if s.sharding == "ddp" and s.world > 1 else 0.0
    gradients = trained * trained_bytes * on_device + buckets
    if sharded:  # the gradients of two layers wait to be reduced
        gradients += 2 * (shape.layer * trained_bytes if full else extra)
    rows = s.most_tokens / s.longest_tokens
    parts = {
        "frozen weights": frozen * on_device,
        "trained weights": trained * trained_bytes * on_device,
        "gathered layers": gathered,
        "gradients": gradients,
        "optimizer": trained * s.moments * trained_bytes * on_device,
        "activations": activation_bytes(shape, s.most_tokens, b, s.checkpointing),
        "connectors": max(s.usual_rows, rows) * sum(c.kept_bytes for c in shape.connectors),
        "logits": logit_bytes(shape, max(s.usual_rows, rows) * s.target_tokens, b),
        "towers": tower_bytes(shape, max(s.usual_rows, rows), s.patches, s.audio_tokens, b),
    }
    # Towers finish before the decoder keeps activations, which are freed before the optimizer step.
    parts["towers"] = max(0.0, parts["towers"] - parts["activations"] - parts["logits"])
    parts["fragmentation"] = FRAGMENTATION * sum(parts.values())
    parts["context"] = CONTEXT_BYTES
    return parts


@dataclass(frozen=True)
class Pace:
    """The time of an optimizer step and of a run.

    Args:
        compute_s: Seconds of computing in a step.
        transfer_s: Seconds of communication in a step.
        sent_bytes: Bytes that a process sends in a step.
        tokens_per_s: Input tokens of all processes in a second.
        hours: Hours of the whole run.
    """

    compute_s: float
    transfer_s: float
    sent_bytes: float
    tokens_per_s: float
    hours: float

    @property
    def step_s(self) -> float:
        """Seconds of a step, in which computing and communication happen at the same time."""
        return max(self.compute_s, self.transfer_s)


def pace(shape: Shape, setting: Setting) -> Pace:
    """Return the time of a step and of the run, from the number of operations, with recomputation."""
    s, b = setting, setting.weight_bytes
    full = shape.adapters == 0
    rows = s.usual_rows
    tokens = rows * s.sample_tokens
    attention = 2 * tokens * s.sample_tokens * shape.heads * shape.head_width * shape.layers
    active = shape.decoder - shape.idle
    adapters = shape.adapters - shape.idle_adapters
    forward = 2 * (active + adapters) * tokens + attention
    backward = 2 * active * tokens * (2 if full else 1) + 4 * adapters * tokens + 2 * attention
    head = 2 * shape.vocabulary * shape.hidden * rows * s.target_tokens * (3 if full else 2)
    towers = 2 * rows * (shape.vision[2] * s.patches + shape.audio[2] * 2 * s.audio_tokens)
    towers *= 3 if shape.trains_towers else 1
    flop = forward * (2 if s.checkpointing else 1) + backward + head + towers
    trained = shape.base * b if full else shape.adapters * shape.adapter_bytes
    weights = shape.base * b + (0 if full else trained)
    share = (s.shards - 1) / s.shards
    between = (s.nodes - 1) / s.nodes
    if s.sharding.startswith("fsdp2"):
        # Weights are gathered for the forward pass and, except frozen towers, for the backward pass.
        # Gradients are sent at every micro-batch.
        again = weights - (0 if shape.trains_towers else shape.towers * b)
        inside = share * (weights + again + trained) * s.accumulate
        outside = 2 * between * trained / s.shards * s.accumulate if s.sharding == "fsdp2_hybrid" else 0.0
        speed = s.network if s.nodes > 1 and s.sharding != "fsdp2_hybrid" else s.link
        transfer = inside / speed + outside / s.network
    else:
        inside, outside = 2 * (s.world - 1) / s.world * trained, 0.0
        transfer = inside / (s.network if s.nodes > 1 else s.link)
    compute = flop * s.accumulate / s.flops
    step = max(compute, transfer)
    steps = s.samples * s.epochs / (rows * s.world * s.accumulate)
    tokens_per_s = tokens * s.accumulate * s.world / step
    return Pace(compute, transfer, inside + outside, tokens_per_s, steps * step / 3600)


def knobs(shape: Shape, setting: Setting, limit: float) -> list[tuple[str, float, Setting]]:
    """Return single changes of a run that need less memory. Changes that cost less speed come first.

    Args:
        shape: The sizes of the model.
        setting: The settings of the run.
        limit: Memory of a device in bytes.

    Returns:
        For each change: the options that make it, the memory that the run then needs in bytes, and the
        changed settings.
    """
    s = setting
    found: list[tuple[str, Setting]] = []
    if s.world > 1 and s.sharding in ("none", "ddp") and not s.four_bit:
        found.append(("trainer.strategy fsdp2", replace(s, sharding="fsdp2")))
    if not s.checkpointing:
        found.append(
            ("model.init_args.gradient_checkpointing true", replace(s, checkpointing=True)),
        )
    if s.batch_tokens is not None:
        half = s.batch_tokens // 2
        found.append(
            (
                f"data.batch_tokens {half} and trainer.accumulate_grad_batches {2 * s.accumulate}",
                replace(s, batch_tokens=half, accumulate=2 * s.accumulate),
            )
        )
    elif s.rows > 1:
        found.append(
            (
                f"data.batch_size {int(s.rows // 2)} and trainer.accumulate_grad_batches {2 * s.accumulate}",
                replace(s, rows=s.rows // 2, accumulate=2 * s.accumulate),
            )
        )
    if shape.adapters and not s.four_bit and not s.sharding.startswith("fsdp2"):
        found.append(("model.init_args.quantization 4bit", replace(s, four_bit=True)))
    if s.sharding == "fsdp2":
        found.append(("trainer.strategy fsdp2_offload", replace(s, sharding="fsdp2_offload")))
    now = sum(memory(shape, s).values())
    sums = [(text, sum(memory(shape, changed).values()), changed) for text, changed in found]
    return [entry for entry in sums if entry[1] < now or entry[1] <= limit]
