"""Turns examples into chat messages for a model behind an endpoint."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from crab_lightning.media.write import wav_bytes
from crab_lightning.processing.base import batch_of
from crab_lightning.processing.geometry import Geometry
from crab_lightning.structures import Batch, Encoded, Example, Media, Reply

SendVideo = Literal["frames", "file"]


_NO_TOKENS = "tokens cannot be read from an endpoint, because it returns texts; use a model on this machine"


class EndpointProcessor:
    """Writes an example as the JSON of one user message for the chat completions of OpenAI.

    Args:
        geometry: The geometry for which the data module prepares the media.
        video: ``frames`` sends the sampled frames as JPEG pictures, which most models can read. ``file``
            sends the video file with the number of frames, and the sound without loss, for endpoints that
            read videos as this package does.
    """

    def __init__(self, geometry: Geometry, video: SendVideo = "frames") -> None:
        self.geometry: Geometry = geometry
        self.video: SendVideo = video

    @property
    def end_token(self) -> int:
        """Not known, because an endpoint does not show its tokens.

        Raises:
            ValueError: Always.
        """
        raise ValueError(_NO_TOKENS)

    def encode(self, example: Example) -> Encoded:
        """Return the request as bytes of JSON: ``content`` and, for video files, ``media_io_kwargs``.

        Raises:
            ValueError: If the example has a target, since an endpoint cannot be trained, or its conversation
                has several turns.
        """
        if any(isinstance(part, Reply) for part in example.conversation):
            raise ValueError(
                "a conversation of several turns cannot be sent to an endpoint; leave the dataset out "
                "(data.only), or write each question as a row of its own"
            )
        if example.target is not None:
            raise ValueError(
                "a model behind an endpoint cannot be trained or give a loss; use `evaluate` or `test`"
            )
        request: dict[str, Any] = {"content": self._content(example)}
        if self.video == "file" and example.videos:
            frames = len(example.videos[0]) * len(example.videos) // len(example.sample.videos)
            request["media_io_kwargs"] = {"video": {"num_frames": frames}}
        data = np.frombuffer(json.dumps(request).encode(), dtype=np.uint8).copy()
        return Encoded({"request": torch.from_numpy(data)}, None, example.sample)

    def collate(self, items: Sequence[Encoded], repeated: Sequence[bool] | None = None) -> Batch:
        """Return a batch with the request of each sample under ``inputs[str(row)]``."""
        inputs = {str(row): item.inputs["request"] for row, item in enumerate(items)}
        return batch_of(inputs, None, items, repeated)

    def decode(self, token_ids: Sequence[int] | Tensor) -> str:
        """Raise a ``ValueError``, because an endpoint does not show its tokens."""
        raise ValueError(_NO_TOKENS)

    def answer_tokens(self, text: str) -> list[int]:
        """Raise a ``ValueError``, because an endpoint does not show its tokens."""
        raise ValueError("an endpoint returns no probabilities of candidates; use a model on this machine")

    def _content(self, example: Example) -> list[dict[str, Any]]:
        parts: list[dict[str, Any]] = []
        videos, images, audios = iter(example.videos), iter(example.images), iter(example.audios)
        files = iter(example.sample.videos)
        joined = len(example.videos) < len(example.sample.videos)
        for part in example.conversation:
            if isinstance(part, str):
                parts.append({"type": "text", "text": part})
            elif part is Media.VIDEO and self.video == "file":
                # Two clips that training joins have one placeholder. The server joins them as training does.
                for file in files if joined else [next(files)]:
                    parts.append(_url("video_url", f"video/{file.suffix[1:] or 'mp4'}", file.read_bytes()))
            elif part is Media.VIDEO:
                parts += [_picture(frame, "JPEG") for frame in next(videos)]
            elif part is Media.IMAGE:
                parts.append(_picture(next(images), "PNG"))
            else:
                sound = wav_bytes(next(audios), lossless=self.video == "file")
                data = base64.b64encode(sound).decode("ascii")
                parts.append({"type": "input_audio", "input_audio": {"data": data, "format": "wav"}})
        return parts


def _picture(pixels: Tensor, form: Literal["JPEG", "PNG"]) -> dict[str, Any]:
    out = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy()).save(out, form, quality=92)
    return _url("image_url", f"image/{form.lower()}", out.getvalue())


def _url(kind: str, mime: str, data: bytes) -> dict[str, Any]:
    return {"type": kind, kind: {"url": f"data:{mime};base64,{base64.b64encode(data).decode('ascii')}"}}
