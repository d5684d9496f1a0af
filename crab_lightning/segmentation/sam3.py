"""SAM3: makes masks of the objects that a name describes, in a picture or in all frames of a video."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Sam3VideoInferenceSession

from crab_lightning.compat import clean_masks_here
from crab_lightning.segmentation.decoder import LastUsed, MaskRequest, check_requests
from crab_lightning.segmentation.prompts import Prompt
from crab_lightning.segmentation.tracker import FramesOnDemand, Sam2Tracker
from crab_lightning.segmentation.weights import FolderModel, Loaded, load_folder

KINDS = {"sam3": "Sam3Model", "sam3_video": "Sam3Model"}
"""``model_type`` in a folder's config -> class in transformers."""


class Sam3Decoder(FolderModel):
    """The concept segmentation of SAM3, frozen: it finds the objects that a prompt names.

    All objects in the picture that fit a name are found, and the masks of all objects and all names are
    joined. A prompt may also have a box or points. The box is then given to the detector as an example, and
    only objects with more than half of their pixels inside the box are kept. With points and no box, only
    objects that contain one of the points are kept.

    The weights are loaded at the first use. Decoders with the same settings share the weights within a
    process. The embedding of an image is kept, so the encoder runs once for several names in one picture.

    Args:
        pretrained: Folder in the transformers layout, or a hub name such as ``facebook/sam3``, which has a
            licence of its own.
        device: ``auto`` uses a GPU if there is one.
        dtype: ``float32`` or ``bfloat16``.
        cache_size: Number of images whose embeddings are kept; 0 keeps none. One takes 230 MB in float32.
        logits: Return logits instead of bool masks, for evaluation protocols that score probabilities.
        min_score: Probability, in [0, 1), above which an object counts as found.

    Raises:
        OSError: At the first use, if there are no such weights.
        ValueError: If ``dtype``, ``cache_size`` or ``min_score`` is out of range. At the first use, if the
            folder holds another kind of model, or weights of the model are missing.

    Source: arXiv:2511.16719.
    """

    reads_names = True
    #: Loads the weights of a folder once in each process.
    weights = cache(partial(load_folder, KINDS, "does not find named objects", named=True))

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
                f"cache_size is {cache_size} and min_score is {min_score}; cache_size must be at least 0 and "
                "min_score at least 0 and below 1"
            )
        self.logits = logits
        self.min_score = min_score
        self._embeddings = LastUsed(cache_size)

    @torch.no_grad()
    def decode(self, requests: Sequence[MaskRequest]) -> list[Tensor]:
        """Return one mask for each request, with the size of the request's image; see :class:`MaskDecoder`.

        The mask is empty if nothing is found. Of a name only the first 32 tokens are read.

        Raises:
            OSError: If there are no such weights.
            ValueError: If a request has no usable image or no name, or the weights do not fit.
        """
        check_requests(requests, named=True)
        loaded = self.load()

        def embed(image: Tensor) -> Any:
            return loaded.model.get_vision_features(loaded.pixels([image]))

        masks = []
        for request in requests:
            seen = self._embeddings.get(request.image, embed)
            size = request.image.shape[-2:]
            found = torch.zeros(size, device=loaded.device)
            for name in filter(None, map(str.strip, request.prompt.names)):
                for mask in self._things(loaded, seen, name, request.prompt, size):
                    found = torch.maximum(found, mask)
            masks.append((torch.logit(found, 1e-6) if self.logits else found > 0.5).cpu())
        return masks

    def _things(self, loaded: Loaded, seen: Any, name: str, prompt: Prompt, size: torch.Size) -> list[Tensor]:
        """Return the pixels' probabilities ``(H, W)`` for each found object that the prompt points at."""
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
            # Probabilities are resized, as in transformers, and one by one, because there may be 200 objects.
            mask = F.interpolate(low[None, None], tuple(size), mode="bilinear", align_corners=False)[0, 0]
            if pointed_at(mask > 0.5, prompt):
                things.append(mask)
        return things


def _centred(box_xyxy_px: tuple[float, float, float, float], size: torch.Size) -> Tensor:
    """Return a box as its centre, width and height in fractions of the picture, ``(1, 1, 4)``."""
    x1, y1, x2, y2 = box_xyxy_px
    height, width = size
    x2, y2 = x2 + 1, y2 + 1  # the first pixel outside
    return torch.tensor(
        [[[(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]]]
    )


def tokens_of(name: str, loaded: Loaded, config: Any) -> Any:
    """Return the tokens of a name, cut or padded to the length that the detector with this config reads."""
    length = min(32, config.text_config.max_position_embeddings)
    found = loaded.tokenizer(
        [name], return_tensors="pt", padding="max_length", max_length=length, truncation=True
    )
    return found.to(loaded.device)


def pointed_at(mask: Tensor, prompt: Prompt) -> bool:
    """Return whether the box or the points of a prompt mean an object with this mask, bool ``(H, W)``.

    It is True if the prompt has neither.
    """
    if prompt.box_xyxy_px is not None:
        x1, y1, x2, y2 = (round(side) for side in prompt.box_xyxy_px)
        inside = mask[max(y1, 0) : y2 + 1, max(x1, 0) : x2 + 1]
        return 2 * int(inside.sum()) > int(mask.sum())
    height, width = mask.shape
    spots = [(min(round(x), width - 1), min(round(y), height - 1)) for x, y in prompt.points_xy_px]
    return not spots or any(bool(mask[y, x]) for x, y in spots)


class NameTracker(Sam2Tracker):
    """The detector and the tracker of SAM3, frozen: they find all objects that fit a name, in every frame.

    The detector searches each frame, and the tracker follows the found objects from frame to frame. The masks
    of all objects and all names are joined. The config of the weights sets the probability above which an
    object counts as found (``new_det_thresh``). The arguments are those of :class:`FolderModel`.

    Source: arXiv:2511.16719.
    """

    @staticmethod
    @cache
    def weights(pretrained: str, device: str, dtype: str) -> Loaded:
        """Load the video model; a process loads each one only once."""
        clean_masks_here()
        lacking = "does not follow named objects through a video"
        return load_folder({"sam3_video": "Sam3VideoModel"}, lacking, pretrained, device, dtype, named=True)

    @torch.no_grad()
    def track(self, frames: Tensor, prompts: Mapping[int, Prompt]) -> Iterator[tuple[int, Tensor]]:
        """Find the named objects in all frames of a video, from the first frame to the last.

        If some prompts also have a box or points, only objects at which such a prompt points in its frame are
        kept, as in :class:`Sam3Decoder`. Without any name, :class:`Sam2Tracker` follows the box and points.

        Args:
            frames: RGB, uint8 ``(F, 3, H, W)``; encoded one at a time.
            prompts: Frame number -> names, and a box and points in pixels of the frames.

        Yields:
            Every frame number once, with the mask of that frame, bool ``(H, W)``.

        Raises:
            OSError: If there are no such weights.
            ValueError: If there are no names and a prompt has no box and no points, a prompt is on a frame
                that does not exist, or the weights do not fit.
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
        # The objects that a prompt means are known only at its frame, so all masks are kept until the end.
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
    """The state of the video model for one video."""


def _things(loaded: Loaded, names: list[str], frames: Tensor) -> Iterator[tuple[int, dict[int, Tensor]]]:
    """Yield every frame number with the objects of the frame: object number -> logits ``(1, h, w)``."""
    config = loaded.model.config
    session = _Session(frames, loaded, config.tracker_config)
    session.reach += config.hotstart_delay  # the model returns masks this many frames later
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
    """Return one mask, bool ``(H, W)`` on the CPU, that joins the objects given as logits ``(1, h, w)``."""
    size = tuple(frames.shape[-2:])
    mask = torch.zeros(size, dtype=torch.bool)
    for low in things:
        full = F.interpolate(low[None].float(), size, mode="bilinear", align_corners=False)[0, 0]
        mask |= (full > 0).cpu()
    return mask
