"""Training of a tiny SAM2 on the shapes of Mini AV-UIE, so that J and F in the demo depend on the answers."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from crab_lightning.compat import save_model
from crab_lightning.mini import Scene, make_item, points_in, render_frames, render_masks
from crab_lightning.mini.world.scenes import place_objects, rng_for
from crab_lightning.mini.world.sprites import BACKGROUNDS
from crab_lightning.mini.world.vocabulary import CATEGORIES
from crab_lightning.segmentation.prompts import Prompt, prompt_of

FRAME_PX = 224
CARD = "mini_sam2.json"
MASK_SETS = ("s4", "ms3", "ref_avs")
_VISIBLE_PX = 50
_MISSED = 0.3

Rng = np.random.Generator
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class MiniSam2Recipe:
    """Sizes and training settings of the tiny SAM2.

    Args:
        seed: Seed of the weights and the pictures.
        minutes: Largest number of CPU minutes for the steps.
        steps: Largest number of steps. The learning rate falls towards whichever limit is reached first.
        images: Number of pictures in a step.
        prompts: Number of masks for each picture.
        lr: Peak learning rate.
        image_px: Side in pixels to which SAM2 resizes its input; masks have a quarter of it.
        width: Channels of the feature pyramid, the prompt encoder and the mask decoder.
        tested: Number of test rows of each dataset on which J is measured at the end.
    """

    seed: int = 0
    minutes: float = 20.0
    steps: int = 1500
    images: int = 8
    prompts: int = 3
    lr: float = 1e-3
    image_px: int = 192
    width: int = 64
    tested: int = 40


def mini_sam2_config(recipe: MiniSam2Recipe) -> Any:
    """Return the configuration of the tiny model, which has the class and the parts of a published SAM2."""
    from transformers import Sam2Config

    side = recipe.image_px
    # dynamic_multimask_via_stability would choose among three mask tokens that are not trained here.
    return Sam2Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": 16,
                "image_size": [side, side],
                "embed_dim_per_stage": [16, 32, 64, 96],
                "blocks_per_stage": [1, 1, 3, 1],
                "num_attention_heads_per_stage": [1, 2, 4, 6],
                "window_size_per_stage": [8, 4, 6, 6],
                "global_attention_blocks": [3],
                "mlp_ratio": 2.0,
            },
            "backbone_channel_list": [96, 64, 32, 16],
            "backbone_feature_sizes": [[side // 4] * 2, [side // 8] * 2, [side // 16] * 2],
            "fpn_hidden_size": recipe.width,
        },
        prompt_encoder_config={"hidden_size": recipe.width, "image_size": side},
        mask_decoder_config={
            "hidden_size": recipe.width,
            "mlp_dim": 2 * recipe.width,
            # Heads need 32 channels. With 6 channels the attention did not find the place of a point.
            "num_attention_heads": 2,
            "attention_downsample_rate": 1,
            "iou_head_hidden_dim": recipe.width,
            "dynamic_multimask_via_stability": False,
        },
    )


def draw_case(
    rng: Rng, prompts: int, missed: float = _MISSED
) -> tuple[NDArray[np.uint8], list[Mask], list[Prompt]]:
    """Return a random picture, masks of one or two of its things, and prompts for these masks.

    Args:
        rng: Makes all random choices.
        prompts: Number of masks and prompts.
        missed: Fraction of prompts whose box lies anywhere. Their mask is the part of things inside the box,
            which may be empty.

    Returns:
        The picture, uint8 ``(H, W, 3)``; bool ``(H, W)`` masks; prompts in pixels of the picture.
    """
    # A picture has at least two things. With one thing the model would learn to ignore the prompt.
    parts: list[Mask] = []
    while not parts or min(part.sum() for part in parts) < _VISIBLE_PX:  # one thing may hide another
        kinds = rng.choice(len(CATEGORIES), int(rng.integers(2, 4)), replace=False).tolist()
        background = BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))]
        scene = Scene(place_objects(rng, kinds, duration_s=10), 10, background)
        time_s = float(rng.uniform(0, 10))
        parts = render_masks(scene, time_s)
    frame = render_frames(scene, [time_s])[0]
    masks, asked = [], []
    first = int(rng.integers(len(parts)))
    for number in range(prompts):
        if rng.random() < missed:
            prompt = _beside(rng)
            x1, y1, x2, y2 = (round(side) for side in prompt.box_xyxy_px or ())
            target = np.zeros_like(parts[0])
            target[y1 : y2 + 1, x1 : x2 + 1] = np.logical_or.reduce(parts)[y1 : y2 + 1, x1 : x2 + 1]
            masks.append(target)
            asked.append(prompt)
            continue
        # MS3 asks for two things at once with points on both.
        chosen = [parts[(first + number + i) % len(parts)] for i in range(2 if rng.random() < 0.2 else 1)]
        mask = np.logical_or.reduce(chosen)
        masks.append(mask)
        asked.append(_asked(rng, mask, chosen))
    return frame, masks, asked


def _beside(rng: Rng) -> Prompt:
    """Return a box anywhere and points in it, as a language model does that has not found the thing.

    The mask for it is the part of things inside the box. A decoder that took the nearest thing instead would
    turn wrong answers into right masks.
    """
    side = rng.uniform(40, 80, 2)
    corner = rng.uniform(0, FRAME_PX - 1 - side)
    points = corner + rng.uniform(0, 1, (3, 2)) * side
    box = (*corner.tolist(), *(corner + side).tolist())
    return Prompt(box, tuple(map(tuple, points.tolist())))


def _asked(rng: Rng, mask: Mask, parts: list[Mask]) -> Prompt:
    """Return the box and three points of a mask. Half of the prompts are moved a little, as answers are."""
    taught = prompt_of(mask)
    assert taught is not None
    assert taught.box_xyxy_px is not None
    kind = rng.random()
    if kind < 0.35 and len(taught.points_xy_px) == 3:
        points = np.array(taught.points_xy_px, float)
    elif kind < 0.7:
        share = [3 // len(parts) + (i < 3 % len(parts)) for i in range(len(parts))]
        points = np.array([p for m, n in zip(parts, share, strict=True) for p in points_in(m, n)], float)
    else:
        inside = np.argwhere(mask)[:, ::-1]
        points = inside[rng.integers(len(inside), size=3)].astype(float)
        for i, part in enumerate(parts):  # each thing gets a point, because a thing without one is not meant
            own = np.argwhere(part)[:, ::-1]
            points[i] = own[rng.integers(len(own))]
    box = np.array(taught.box_xyxy_px, float)
    if rng.random() < 0.5:
        box += rng.normal(0, 1.5, 4)
        points += rng.normal(0, 1.0, points.shape)
    box, points = box.clip(0, FRAME_PX - 1), points.clip(0, FRAME_PX - 1)
    return Prompt(tuple(box.tolist()), tuple(map(tuple, points.tolist())))


def train_mini_sam2(
    out: Path, recipe: MiniSam2Recipe, command: str = "", log: Callable[[str], None] = print
) -> dict[str, float]:
    """Train the tiny model from random weights and write it as a transformers folder with a JSON card.

    Args:
        out: Folder to write.
        recipe: Sizes and training settings.
        command: Command line for the card.
        log: Is called with a line of text every 100 steps.

    Returns:
        Dataset -> mean J with true prompts on its test rows, which come from another seed.
    """
    from transformers import Sam2ImageProcessor, Sam2Model, Sam2Processor

    torch.manual_seed(recipe.seed)
    model: Any = Sam2Model(mini_sam2_config(recipe))
    side = recipe.image_px
    processor = Sam2Processor(
        Sam2ImageProcessor(
            size={"height": side, "width": side}, mask_size={"height": side // 4, "width": side // 4}
        )
    )
    _start(model)
    trained = list(model.parameters())
    optimizer = torch.optim.AdamW(trained, lr=recipe.lr, weight_decay=0.01)
    began, done, loss_sum = time.process_time(), 0, 0.0
    model.train()
    for step in range(recipe.steps):
        spent = (time.process_time() - began) / 60
        progress = max(step / recipe.steps, spent / recipe.minutes)
        if progress >= 1:
            break
        falling = 0.01 + 0.99 * math.cos(progress * math.pi / 2) ** 2
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * min(1.0, (step + 1) / 100) * falling
        streams = [rng_for(recipe.seed, "mini_sam2", step, i) for i in range(recipe.images)]
        loss = _loss(model, processor, [draw_case(rng, recipe.prompts) for rng in streams])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        done, loss_sum = done + 1, loss_sum + loss.item()
        if done % 100 == 0:
            log(f"step {done}, {spent:.1f} CPU minutes, loss {loss_sum / 100:.4f}")
            loss_sum = 0.0
        if done % 500 == 0:
            save_model(model, out)
    model.eval()
    minutes = (time.process_time() - began) / 60
    scores = {name: round(_unseen_j(model, processor, name, recipe), 4) for name in MASK_SETS}
    save_model(model, out)
    processor.save_pretrained(out)
    card = {
        "made_by": command or "train_mini_sam2",
        "recipe": asdict(recipe),
        "steps": done,
        "cpu_minutes": round(minutes, 1),
        "torch": torch.__version__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "j_true_prompts": scores,  # test rows of the next seed
    }
    (out / CARD).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    return scores


def _start(model: Any) -> None:
    """Initialise a new model so that it can be trained from random weights."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            # The library's standard deviation of 0.02 is made for hundreds of channels. With 16 channels the
            # signal becomes too small.
            module.reset_parameters()
    # The official code has one such tensor; transformers has two buffers, which must be equal.
    fixed = model.shared_image_embedding.positional_embedding
    model.prompt_encoder.shared_embedding.positional_embedding.copy_(fixed)


Case = tuple[NDArray[np.uint8], list[Mask], list[Prompt]]


def _forward(model: nn.Module, processor: Any, cases: list[Case]) -> tuple[Tensor, Any]:
    inputs = processor(
        images=[torch.from_numpy(frame).permute(2, 0, 1) for frame, _, _ in cases],
        input_boxes=[[list(p.box_xyxy_px or ()) for p in prompts] for _, _, prompts in cases],
        input_points=[[[list(xy) for xy in p.points_xy_px] for p in prompts] for _, _, prompts in cases],
        input_labels=[[[1] * len(p.points_xy_px) for p in prompts] for _, _, prompts in cases],
        return_tensors="pt",
    )
    inputs.pop("original_sizes")
    out = model(**inputs, multimask_output=False)
    return out.pred_masks[:, :, 0], out


def _loss(model: nn.Module, processor: Any, cases: list[Case]) -> Tensor:
    low, out = _forward(model, processor, cases)
    logits = F.interpolate(low, (FRAME_PX // 2, FRAME_PX // 2), mode="bilinear", align_corners=False)
    truth = torch.from_numpy(np.array([masks for _, masks, _ in cases])).to(logits)
    truth = F.avg_pool2d(truth, 2)
    probability = logits.sigmoid()
    shared = (probability * truth).sum((-1, -2))
    dice = 1 - (2 * shared + 1) / (probability.sum((-1, -2)) + truth.sum((-1, -2)) + 1)
    with torch.no_grad():
        guess, real = logits > 0, truth > 0.5
        iou = (guess & real).sum((-1, -2)) / (guess | real).sum((-1, -2)).clamp(min=1)
    quality = F.mse_loss(out.iou_scores[..., 0], iou)
    there = (truth.amax((-1, -2)) > 0.5).to(logits)[..., None]
    presence = F.binary_cross_entropy_with_logits(out.object_score_logits, there)
    return 4 * F.binary_cross_entropy_with_logits(logits, truth) + dice.mean() + 0.1 * (quality + presence)


def unseen_case(dataset: str, index: int, seed: int) -> tuple[NDArray[np.uint8], Mask, Prompt] | None:
    """Return a test row of Mini AV-UIE: the picture, the true mask and the prompt in its target text.

    Args:
        dataset: ``s4``, ``ms3`` or ``ref_avs``.
        index: Number of the row.
        seed: Seed of the Mini AV-UIE data.

    Returns:
        The picture, uint8 ``(H, W, 3)``; the mask, bool ``(H, W)``; the prompt. ``None`` if the thing that is
        described is absent.
    """
    item = make_item(dataset, "test", index, seed)
    box = re.search(r"\[(\d+),(\d+),(\d+),(\d+)\]", item.target)
    if box is None or item.image is None:
        return None
    scene, time_s = item.image
    file = next(f for f in item.files if f.kind == "mask" and f.time_s == time_s)
    masks = render_masks(scene, time_s)
    points = tuple((float(x), float(y)) for x, y in re.findall(r"\[(\d+),(\d+)\]", item.target))
    x1, y1, x2, y2 = (float(side) for side in box.groups())
    mask = np.logical_or.reduce([masks[i] for i in file.objects])
    return render_frames(scene, [time_s])[0], mask, Prompt((x1, y1, x2, y2), points)


@torch.no_grad()
def _unseen_j(model: nn.Module, processor: Any, dataset: str, recipe: MiniSam2Recipe) -> float:
    """Return the mean J with true prompts on test rows of Mini AV-UIE data with another seed."""
    scores: list[float] = []
    for index in range(recipe.tested):
        if (case := unseen_case(dataset, index, recipe.seed + 1)) is None:
            continue
        frame, mask, prompt = case
        low, _ = _forward(model, processor, [(frame, [mask], [prompt])])
        found = (
            F.interpolate(low, (FRAME_PX, FRAME_PX), mode="bilinear", align_corners=False)[0, 0].numpy() > 0
        )
        scores.append(float((mask & found).sum() / (mask | found).sum()))
    return float(np.mean(scores))
