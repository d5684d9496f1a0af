"""Measures what a mini base model can do, on conversations that its pre-training has not read.

    python benchmarks/mini_base.py crab_lightning/assets/mini_omni
    python benchmarks/mini_base.py mini_omni --count 100 --kinds order,two_videos

The first table has, for each kind of conversation, the fraction of answers in which every token is the
likeliest one after the true tokens before it. The second has the mean IoU of boxes in answers that the model
writes itself. Both are printed in Markdown.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable

import torch

from crab_lightning.adapters import AdapterConfig
from crab_lightning.metrics.boxes import box_iou
from crab_lightning.mini.pretrain.conversations import KINDS, Draft, draw
from crab_lightning.mini.pretrain.corpus import go_on
from crab_lightning.mini.world.scenes import rng_for
from crab_lightning.models import OmniModule
from crab_lightning.models.losses import last_hidden_states
from crab_lightning.processing import NativeProcessor
from crab_lightning.processing.base import IGNORED_LABEL
from crab_lightning.structures import Example, Sample

SEED = 7  # another world than that of the pre-training, and of the demo
QUESTIONS = 4
_BOX = re.compile(r"\[(\d+),(\d+),(\d+),(\d+)\]")

BOXES: dict[str, tuple[str, Callable[[str], bool]]] = {
    "box of a named thing among others": (
        "spot",
        lambda q: q.startswith(("Give the box of", "Put a box around")),
    ),
    "the same, after a list of what is where in the same answer": (
        "spot",
        lambda q: q.startswith("Who is where? And") and " box " in q.partition("Then:")[2],
    ),
    "box of what sounds": (
        "moment",
        lambda q: q in ("Put a box around what sounds.", "Give the box of the noise maker."),
    ),
    "box of what sounds, after a list of what is where in the same answer": (
        "moment",
        lambda q: q.startswith("Who is seen and heard, and where?") and " box " in q,
    ),
}
"""Question -> the kind of conversation that it belongs to, and whether a question is of this form."""


@torch.inference_mode()
def right_answers(module: OmniModule, processor: NativeProcessor, kind: str, count: int) -> tuple[int, int]:
    """Return the number of right answers and of all answers in ``count`` conversations of a kind."""
    rng = rng_for(SEED, "measured", kind)
    right = asked = 0
    for _ in range(count):
        example, rest = draw(kind, rng, SEED, QUESTIONS, 3)
        batch = processor.collate([go_on(processor, processor.encode(example), rest)])
        assert batch.labels is not None
        hidden = last_hidden_states(module.model, **batch.inputs, use_cache=False)[0, :-1]
        hits = module.model.lm_head(hidden).argmax(-1) == batch.labels[0, 1:]
        told = [IGNORED_LABEL, *batch.labels[0, 1:].tolist()]
        starts = [i for i in range(1, len(told)) if told[i] != IGNORED_LABEL == told[i - 1]]
        for start in starts:
            end = next((i for i in range(start, len(told)) if told[i] == IGNORED_LABEL), len(told))
            asked += 1
            right += bool(hits[start - 1 : end - 1].all())
    return right, asked


def iou(one: str, other: str) -> float:
    """Return the IoU of the last box of each text; 0 if the first text has none."""
    boxes = [_BOX.findall(text) for text in (one, other)]
    if not boxes[0]:
        return 0.0
    return float(box_iou(*(torch.tensor([[float(side) for side in found[-1]]]) for found in boxes)))


@torch.inference_mode()
def free_boxes(
    module: OmniModule, processor: NativeProcessor, kind: str, asks: Callable[[str], bool], count: int
) -> float:
    """Return the mean IoU of boxes in answers that the model writes, about ``count`` pictures."""
    rng = rng_for(SEED, "boxes", kind)
    found: list[float] = []
    while len(found) < count:
        draft = Draft(rng)
        KINDS[kind](draft, SEED)
        pairs = [(q, answer) for q, answer in draft.questions if asks(q) and _BOX.search(answer)]
        if not pairs:
            continue
        question, answer = pairs[int(rng.integers(len(pairs)))]
        sample = Sample("measured", "measured", "describe", "test", "measured")
        example = Example(sample, (*draft.media, question), None, **draft.kinds)
        batch = processor.collate([processor.encode(example)])
        found.append(iou(module.generate(batch)[0].text, answer))
    return sum(found) / len(found)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", help="folder of the model")
    parser.add_argument("--count", type=int, default=30, help="number of conversations of each kind")
    parser.add_argument("--boxes", type=int, default=20, help="number of pictures for each question of boxes")
    parser.add_argument("--kinds", default=",".join(KINDS), help="kinds of conversations, with commas")
    args = parser.parse_args()
    torch.set_num_threads(1)
    # New adapters change nothing, because their matrices B are zero.
    module = OmniModule(args.folder, adapter=AdapterConfig(kind="lora", rank=1), dtype="float32")
    module.configure_model()
    module.eval()
    processor = NativeProcessor(args.folder)
    print("| kind of conversation | right answers | answers |\n|---|---|---|")
    for kind in filter(None, args.kinds.split(",")):
        right, asked = right_answers(module, processor, kind, args.count)
        print(f"| {kind} | {right / asked:.0%} | {asked} |", flush=True)
    print("\n| question | mean IoU |\n|---|---|")
    for name, (kind, asks) in BOXES.items() if args.boxes else ():
        print(f"| {name} | {free_boxes(module, processor, kind, asks, args.boxes):.2f} |", flush=True)


if __name__ == "__main__":
    main()
