"""SAM3's video model: what a name means, found and followed through a video."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Sam3VideoInferenceSession

from crab_lightning.compat import clean_masks_here
from crab_lightning.segmentation.prompts import Prompt
from crab_lightning.segmentation.sam3 import pointed_at, tokens_of
from crab_lightning.segmentation.tracker import FramesOnDemand, Sam2Tracker
from crab_lightning.segmentation.weights import Loaded, load_folder

KINDS = {"sam3_video": "Sam3VideoModel"}
"""``model_type`` of a folder's config -> class in transformers."""


class NameTracker(Sam2Tracker):
    """SAM3's detector and tracker together, frozen: every thing that fits a name, in every frame.

    The detector looks at each frame, and the tracker carries what was found from frame to frame. The masks of
    all things and of all names are joined. Which probability counts as found is stated by the config of the
    weights (``new_det_thresh``).

    Args:
        pretrained: Folder in the transformers layout or a hub name, ``facebook/sam3`` (SAM's own licence).
        device: ``auto`` uses a GPU if there is one.
        dtype: ``float32`` or ``bfloat16``.

    Source: arXiv:2511.16719.
    """

    @staticmethod
    @cache
    def weights(pretrained: str, device: str, dtype: str) -> Loaded:
        """Load the video model, once in a process."""
        clean_masks_here()
        lacking = "follows no named things through a video"
        return load_folder(KINDS, lacking, pretrained, device, dtype, named=True)

    @torch.no_grad()
    def track(self, frames: Tensor, prompts: Mapping[int, Prompt]) -> Iterator[tuple[int, Tensor]]:
        """Find what the prompts name in all frames of a video, from the first to the last.

        Where a prompt also points, only those things are kept that a prompt points at in its frame, as in
        :class:`Sam3Decoder`. Prompts that name nothing and point are followed as by :class:`Sam2Tracker`.

        Args:
            frames: RGB, uint8 ``(F, 3, H, W)``; encoded one at a time.
            prompts: Frame number -> names, and box and points in pixels of the frames.

        Yields:
            Every frame number once, with its mask, bool ``(H, W)``.

        Raises:
            ValueError: If no prompt names anything or points at anything, or one is on a frame that is not
                there.
        """
        names = dict.fromkeys(filter(None, (name.strip() for p in prompts.values() for name in p.names)))
        if not names:
            yield from super().track(frames, prompts)
            return
        if wrong := [i for i in prompts if not 0 <= i < len(frames)]:
            raise ValueError(f"prompt on frame {wrong[0]} of a video with {len(frames)} frames")
        loaded = self.load()
        things = _things(loaded, list(names), frames)
        pointing = {i: prompt for i, prompt in prompts.items() if prompt}
        if not pointing:
            for number, found in things:
                yield number, _joined(list(found.values()), frames)
            return
        # What a prompt points at is known at its frame, so earlier frames wait; 16 bits are exact enough.
        everything = [{thing: low.half().cpu() for thing, low in found.items()} for _, found in things]
        meant = {
            thing
            for i, prompt in pointing.items()
            for thing, low in everything[i].items()
            if pointed_at(_joined([low], frames), prompt)
        }
        for number, found in enumerate(everything):
            yield number, _joined([low for thing, low in found.items() if thing in meant], frames)


class _Session(FramesOnDemand, Sam3VideoInferenceSession):
    """What is known of a video."""


def _things(loaded: Loaded, names: list[str], frames: Tensor) -> Iterator[tuple[int, dict[int, Tensor]]]:
    """Yield every frame number with the things shown there: number of the thing -> logits ``(1, h, w)``."""
    config = loaded.model.config
    session = _Session(frames, loaded, config.tracker_config)
    session.reach += config.hotstart_delay  # masks come out so many frames late
    for name in names:
        words = tokens_of(name, loaded, config.detector_config)
        number = session.add_prompt(name)
        session.prompt_input_ids[number] = words["input_ids"]
        session.prompt_attention_masks[number] = words["attention_mask"]
    for out in loaded.model.propagate_in_video_iterator(session):
        hidden = out.suppressed_obj_ids | session.hotstart_removed_obj_ids
        yield out.frame_idx, {k: low for k, low in out.obj_id_to_mask.items() if k not in hidden}
        session.forget(out.frame_idx, 0)


def _joined(things: list[Tensor], frames: Tensor) -> Tensor:
    """Return one mask of logits ``(1, h, w)`` of any number of things, bool ``(H, W)`` on the CPU."""
    size = tuple(frames.shape[-2:])
    mask = torch.zeros(size, dtype=torch.bool)
    for low in things:
        full = F.interpolate(low[None].float(), size, mode="bilinear", align_corners=False)[0, 0]
        mask |= (full > 0).cpu()
    return mask
