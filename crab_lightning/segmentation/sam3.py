"""SAM3: what a name means, in a picture by the detector, and followed through a video."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Sam3VideoInferenceSession

from crab_lightning.compat import clean_masks_here
from crab_lightning.segmentation.decoder import LastUsed, MaskRequest, check_request, content_key
from crab_lightning.segmentation.prompts import Prompt
from crab_lightning.segmentation.tracker import FramesOnDemand, Sam2Tracker
from crab_lightning.segmentation.weights import FolderModel, Loaded, load_folder

KINDS = {"sam3": "Sam3Model", "sam3_video": "Sam3Model"}
"""``model_type`` of a folder's config -> class in transformers."""


class Sam3Decoder(FolderModel):
    """Concept segmentation of SAM3, frozen: finds the things that a prompt names.

    Everything in the picture that fits a name counts, and the masks of all things and of all names are
    joined. A prompt may point as well. The detector is then given the box as an example, and of the things it
    finds those are kept that lie in the box with more than half of their pixels, or, without a box, those
    that hold one of the points.

    Weights load at the first use; decoders with the same settings share them within a process. The embedding
    of an image is kept, so several names in one picture cost one pass of the encoder.

    Args:
        pretrained: Folder in the transformers layout or a hub name, ``facebook/sam3`` (SAM's own licence).
        device: ``auto`` uses a GPU if there is one.
        dtype: ``float32`` or ``bfloat16``.
        cache_size: Images whose embeddings are kept; 0 keeps none. One takes 230 MB in float32.
        logits: Return logits instead of bool masks, for protocols that score probabilities.
        min_score: Probability, in [0, 1), above which a thing counts as found.

    Raises:
        OSError: At the first use, if there are no such weights.
        ValueError: At the first use, if the folder holds another kind of model, or its weights do not fill
            the model.

    Source: arXiv:2511.16719.
    """

    reads_names = True
    #: Loads the weights of a folder once in each process.
    weights = cache(partial(load_folder, KINDS, "finds no named things", named=True))

    def __init__(
        self,
        pretrained: str,
        device: str = "auto",
        dtype: str = "float32",
        cache_size: int = 2,
        logits: bool = False,
        min_score: float = 0.5,
    ) -> None:
        super().__init__(pretrained, device, dtype)
        if cache_size < 0 or not 0 <= min_score < 1:
            raise ValueError(
                f"cache_size is {cache_size} and min_score {min_score}; the first begins at 0, the second "
                "lies in [0, 1)"
            )
        self.logits = logits
        self.min_score = min_score
        self._embeddings = LastUsed(cache_size)

    @torch.no_grad()
    def decode(self, requests: Sequence[MaskRequest]) -> list[Tensor]:
        """Return one mask a request, at its image's size; see :class:`MaskDecoder`.

        Nothing found gives an empty mask. What exceeds the 32 tokens of a name is not read.

        Raises:
            ValueError: If a request has no usable image or no name.
        """
        for request in requests:
            check_request(request, named=True)
        loaded = self.load()
        masks = []
        for request in requests:
            key = content_key(request.image)

            def embed(_: list[int], image: Tensor = request.image) -> list[Any]:
                return [loaded.model.get_vision_features(loaded.pixels([image]))]

            seen = self._embeddings.fill([key], embed)[key]
            size = request.image.shape[-2:]
            found = torch.zeros(size, device=loaded.device)
            for name in filter(None, map(str.strip, request.prompt.names)):
                for mask in self._things(loaded, seen, name, request.prompt, size):
                    found = torch.maximum(found, mask)
            masks.append((torch.logit(found, 1e-6) if self.logits else found > 0.5).cpu())
        return masks

    def _things(self, loaded: Loaded, seen: Any, name: str, prompt: Prompt, size: torch.Size) -> list[Tensor]:
        """Return the probabilities ``(H, W)`` of the pixels of each thing that is found and pointed at."""
        words = tokens_of(name, loaded, loaded.model.config)
        box = {}
        if prompt.box_xyxy_px is not None:
            box["input_boxes"] = _centred(prompt.box_xyxy_px, size).to(loaded.device, loaded.model.dtype)
        out = loaded.model(
            vision_embeds=seen, input_ids=words["input_ids"], attention_mask=words["attention_mask"], **box
        )
        scores = out.pred_logits[0].float().sigmoid() * out.presence_logits[0].float().sigmoid()
        things = []
        for low in out.pred_masks[0][scores > self.min_score].float().sigmoid():
            # As transformers: probabilities are stretched. One by one, as there may be two hundred.
            mask = F.interpolate(low[None, None], tuple(size), mode="bilinear", align_corners=False)[0, 0]
            if pointed_at(mask > 0.5, prompt):
                things.append(mask)
        return things


def _centred(box_xyxy_px: tuple[float, float, float, float], size: torch.Size) -> Tensor:
    """Return a box as centre and extent in shares of the picture, ``(1, 1, 4)``."""
    x1, y1, x2, y2 = box_xyxy_px
    height, width = size
    x2, y2 = x2 + 1, y2 + 1  # behind the last pixel inside
    return torch.tensor(
        [[[(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]]]
    )


def tokens_of(name: str, loaded: Loaded, config: Any) -> Any:
    """Return the tokens of a name as the detector with this config reads them."""
    length = min(32, config.text_config.max_position_embeddings)
    found = loaded.tokenizer(
        [name], return_tensors="pt", padding="max_length", max_length=length, truncation=True
    )
    return found.to(loaded.device)


def pointed_at(mask: Tensor, prompt: Prompt) -> bool:
    """Tell whether a thing, bool ``(H, W)``, is what box or points of a prompt mean."""
    if prompt.box_xyxy_px is not None:
        x1, y1, x2, y2 = (round(side) for side in prompt.box_xyxy_px)
        inside = mask[max(y1, 0) : y2 + 1, max(x1, 0) : x2 + 1]
        return 2 * int(inside.sum()) > int(mask.sum())
    height, width = mask.shape
    spots = [(min(round(x), width - 1), min(round(y), height - 1)) for x, y in prompt.points_xy_px]
    return not spots or any(bool(mask[y, x]) for x, y in spots)


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
        return load_folder({"sam3_video": "Sam3VideoModel"}, lacking, pretrained, device, dtype, named=True)

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
