"""Follows an object through a video with SAM2.1, SAM3 or EdgeTAM, from prompts on one or more frames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Sam2VideoInferenceSession

from crab_lightning.segmentation.prompts import Prompt
from crab_lightning.segmentation.weights import FolderModel, Loaded, load_folder

_OBJECT = 1

KINDS = {
    "sam2": "Sam2VideoModel",
    "sam2_video": "Sam2VideoModel",
    "sam3_tracker": "Sam3TrackerVideoModel",
    "sam3_tracker_video": "Sam3TrackerVideoModel",
    "sam3_video": "Sam3TrackerVideoModel",
    "edgetam": "EdgeTamVideoModel",
    "edgetam_video": "EdgeTamVideoModel",
}
"""``model_type`` in a folder's config -> class in transformers. All take the same session and prompts."""


class Sam2Tracker(FolderModel):
    """The video predictor of SAM2.1, frozen; of SAM3 or EdgeTAM if the folder's ``model_type`` names these.

    The arguments are those of :class:`FolderModel`; the folder must have the memory weights of the video
    predictor.

    Sources: SAM2 arXiv:2408.00714, SAM3 arXiv:2511.16719, EdgeTAM arXiv:2501.07256.
    """

    #: Loads the weights of a folder once in each process.
    weights = cache(partial(load_folder, KINDS, "does not follow an object through a video"))

    @torch.no_grad()
    def track(self, frames: Tensor, prompts: Mapping[int, Prompt]) -> Iterator[tuple[int, Tensor]]:
        """Follow one object through a video, first forward from the first frame with a prompt, then backward.

        Args:
            frames: RGB, uint8 ``(F, 3, H, W)``; encoded one at a time.
            prompts: Frame number -> box, points or both, in pixels of the frames.

        Yields:
            Every frame number once, with the mask of that frame, bool ``(H, W)``.

        Raises:
            OSError: If there are no such weights.
            ValueError: If there is no prompt, a prompt has no box and no points, a prompt is on a frame that
                does not exist, or the weights do not fit.
        """
        if not prompts or not all(prompts.values()):
            raise ValueError("an object to follow needs a prompt with a box or points on at least one frame")
        if wrong := [i for i in prompts if not 0 <= i < len(frames)]:
            raise ValueError(f"prompt on frame {wrong[0]} of a video with {len(frames)} frames")
        # A subclass has other weights for names, but follows boxes and points with these.
        loaded = Sam2Tracker.weights(self.pretrained, self.device, self.dtype)
        session = _Session(frames, loaded, loaded.model.config)
        size = tuple(frames.shape[-2:])
        for number in sorted(prompts):
            session.ask(number, prompts[number])
            loaded.model(session, frame_idx=number)
        first = min(prompts)
        for reverse, numbers in ((False, range(first, len(frames))), (True, range(first - 1, -1, -1))):
            for number in numbers:
                low = loaded.model(session, frame_idx=number, reverse=reverse).pred_masks.float()
                session.forget(number, first)
                full = F.interpolate(low, size, mode="bilinear", align_corners=False)[0, 0]
                yield number, (full > 0).cpu()


class FramesOnDemand:
    """A part of a session that converts a frame only when the model reads it.

    The session of transformers would hold all frames of the video as floating-point numbers.

    Args:
        frames: RGB, uint8 ``(F, 3, H, W)``.
        loaded: The model.
        config: Config of the tracker of the model.
    """

    def __init__(self, frames: Tensor, loaded: Loaded, config: Any) -> None:
        super().__init__(
            video_height=frames.shape[-2],
            video_width=frames.shape[-1],
            inference_device=loaded.device,
            inference_state_device=loaded.device,
            dtype=loaded.model.dtype,
        )  # type: ignore[call-arg]
        self.frames = frames
        self.loaded = loaded
        self.reach = max(config.num_maskmem, config.max_object_pointers_in_encoder)
        self.output_dict_per_obj: dict[int, Any]

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return len(self.frames)

    def get_frame(self, frame_idx: int) -> Tensor:
        """Return one frame as the model reads it, ``(3, side, side)``."""
        return self.loaded.pixels([self.frames[frame_idx]])[0]

    def forget(self, number: int, first: int) -> None:
        """Delete the memory of frames that no later frame reads; it takes about 6 MB for each frame.

        Args:
            number: Number of the last frame that was read.
            first: Number of the first frame with a prompt; frames near it are read again going backward.
        """
        for kept in self.output_dict_per_obj.values():
            outputs = kept["non_cond_frame_outputs"]
            for other in [i for i in outputs if min(abs(i - number), abs(i - first)) > self.reach]:
                del outputs[other]


class _Session(FramesOnDemand, Sam2VideoInferenceSession):
    def ask(self, number: int, prompt: Prompt) -> None:
        """Put a prompt on a frame."""
        height, width = self.frames.shape[-2:]
        scale = torch.tensor([self.loaded.side / width, self.loaded.side / height])
        points = [torch.tensor(prompt.points_xy_px, dtype=torch.float32).view(-1, 2)]
        labels = [1] * len(prompt.points_xy_px)
        if prompt.box_xyxy_px is not None:  # a box is given as two points with the labels 2 and 3
            points.insert(0, torch.tensor(prompt.box_xyxy_px, dtype=torch.float32).view(2, 2))
            labels = [2, 3, *labels]
        inputs = {
            "point_coords": (torch.cat(points) * scale)[None, None].to(self.dtype),
            "point_labels": torch.tensor(labels, dtype=torch.int32)[None, None],
        }
        self.add_point_inputs(self.obj_id_to_idx(_OBJECT), number, inputs)
        self.obj_with_new_inputs = [_OBJECT]
