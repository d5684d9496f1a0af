"""The web page of the server, which shows the answer about an uploaded clip with times, box and mask."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from fastapi import FastAPI, Form, UploadFile
from fastapi.responses import HTMLResponse
from numpy.typing import NDArray
from PIL import Image

from crab_lightning.dashboards.figures import media
from crab_lightning.dashboards.figures.clips import events_of
from crab_lightning.dashboards.figures.spatial import marks_of
from crab_lightning.data import AVDataModule
from crab_lightning.data.manifests.layout import Needs
from crab_lightning.inference.answer import read_answer
from crab_lightning.inference.question import choose_dataset, make_sample, needs
from crab_lightning.inference.question_files import AskError
from crab_lightning.media import UnreadableMedia, is_picture, probe
from crab_lightning.segmentation import MaskRequest, Prompt
from crab_lightning.serving.requests import RequestError
from crab_lightning.structures import Encoded, Prediction, Sample
from crab_lightning.templates import csp_hash, picture_uri

_PAGE = Path(__file__).with_name("demo.html")
_SIDE_PX = 224

Answering = Callable[[Encoded, int], Awaitable[Prediction]]


def add_demo(app: FastAPI, data: AVDataModule, answer: Answering, max_new_tokens: int) -> None:
    """Add the page at ``/`` and the addresses that it calls.

    Args:
        app: The server's application.
        data: Data module of the run, with its tasks, datasets and the model's processor.
        answer: Function that returns the model's answer to an encoded question.
        max_new_tokens: Largest number of tokens of an answer.
    """

    @app.get("/", response_class=HTMLResponse)
    async def page() -> HTMLResponse:
        text = _PAGE.read_text(encoding="utf-8")
        own = {
            kind: csp_hash(text.split(f"<{kind}>")[1].split(f"</{kind}>")[0]) for kind in ("script", "style")
        }
        # Pictures are sent as data addresses, and the browser plays the user's own file.
        policy = (
            f"default-src 'none'; script-src '{own['script']}'; style-src '{own['style']}';"
            " connect-src 'self'; img-src data:; media-src blob:; base-uri 'none'; form-action 'self';"
            " frame-ancestors 'none'"
        )
        return HTMLResponse(text, headers={"Content-Security-Policy": policy})

    @app.get("/demo/tasks")
    async def tasks() -> list[dict[str, Any]]:
        """Return the datasets that the run was trained on, with the inputs that a question needs."""
        found = []
        for name in data.taught:
            spec = data.datasets[name]
            # If the rows of a layout differ, the page offers all inputs that a row may have.
            needed = needs(spec) or Needs(1, 0, 1, frozenset(("question", "options")))
            if max(needed.videos, needed.audios) <= 1:  # the page takes one clip
                texts, picture = sorted(needed.texts), bool(needed.images)
                found.append({"dataset": name, "task": spec.task, "texts": texts, "picture": picture})
        return found

    @app.post("/demo/ask")
    async def ask(
        dataset: Annotated[str, Form()],
        clip: UploadFile,
        sound: UploadFile | None = None,
        question: Annotated[str, Form()] = "",
        options: Annotated[str, Form()] = "",
        expression: Annotated[str, Form()] = "",
        at_s: Annotated[float | None, Form()] = None,
    ) -> dict[str, Any]:
        """Answer one question about an uploaded clip."""
        given = {"question": question.strip(), "expression": expression.strip()}
        texts: dict[str, Any] = {name: value for name, value in given.items() if value}
        if choices := [line.strip() for line in options.splitlines() if line.strip()]:
            texts["options"] = choices
        with tempfile.TemporaryDirectory(prefix="crab-demo-") as scratch:
            folder = Path(scratch)
            video = await _saved(clip, folder / "clip")
            heard = [await _saved(sound, folder / "sound")] if sound is not None and sound.size else []
            began = time.perf_counter()
            try:
                sample = await asyncio.to_thread(_sample, data, dataset, video, heard, texts, at_s, folder)
                encoded = await asyncio.to_thread(lambda: data.dataset([sample])[0])
            except (AskError, ValueError, OSError) as err:
                raise RequestError(str(err).replace(f"{folder}/", "")) from err
            prediction = await answer(encoded, max_new_tokens)
            read = read_answer(data, prediction, time.perf_counter() - began)
            shown = await asyncio.to_thread(_shown, data, sample, read.value)
        return {
            "text": read.text,
            "value": read.value,
            "note": read.note,
            "seconds": read.seconds,
            "truncated": read.truncated,
        } | shown


async def _saved(upload: UploadFile, stem: Path) -> Path:
    """Write an upload to ``stem``, with the ending of the client's file name if it is short and simple."""
    ending = Path(upload.filename or "").suffix
    path = stem.with_suffix(ending if ending[1:].isalnum() and len(ending) < 8 else "")
    path.write_bytes(await upload.read())
    return path


def _sample(
    data: AVDataModule,
    dataset: str,
    clip: Path,
    sounds: Sequence[Path],
    texts: dict[str, Any],
    at_s: float | None,
    scratch: Path,
) -> Sample:
    name = choose_dataset(data, dataset, None, 1, len(sounds), texts)
    videos, image = [clip], None
    try:
        if not probe(clip).has_video:
            videos, sounds = [], [clip, *sounds]
    except UnreadableMedia:
        if not is_picture(clip):
            raise
        videos, image = [], clip
    return make_sample(name, data.datasets[name], videos, image, sounds, at_s, texts, scratch)


def _shown(data: AVDataModule, sample: Sample, value: Any) -> dict[str, Any]:
    """Return the content of the page: frames, spectrogram and events, or a picture with box and mask."""
    clip = media.load(sample)
    found: dict[str, Any] = {"duration_s": 0.0, "lanes": []}
    if clip.strips:
        found["frames"] = _picture(clip.strips[0].pixels)
        found["duration_s"] = clip.strips[0].duration_s
    if clip.sounds:
        from matplotlib import colormaps

        mel = colormaps["magma"](clip.sounds[0].mel[::-1])[..., :3]
        found["spectrogram"] = _picture((mel * 255).astype(np.uint8))
        found["duration_s"] = max(found["duration_s"], clip.sounds[0].duration_s)
    lanes: dict[str, list[list[float]]] = {}
    for name, start, end in events_of(value) or []:
        lanes.setdefault(name, []).append([start, end])
        found["duration_s"] = max(found["duration_s"], end)
    found["lanes"] = [{"name": name, "spans": spans} for name, spans in lanes.items()]
    if clip.images:
        found["picture"] = _picture(clip.images[0])
        box, points, absent = marks_of(value)
        found |= {"box": box, "points": points, "absent": absent, "side_px": _SIDE_PX}
        maker = getattr(data.tasks[sample.task], "masks", None)
        if maker is not None and box is not None:
            prompt = Prompt((box[0], box[1], box[2], box[3]), tuple((float(x), float(y)) for x, y in points))
            pixels = torch.from_numpy(clip.images[0]).permute(2, 0, 1).contiguous()
            mask = maker.decoder.decode([MaskRequest(pixels, prompt)])[0] > 0
            overlay = np.zeros((*mask.shape, 4), dtype=np.uint8)
            overlay[mask.numpy()] = (213, 94, 0, 130)
            found["mask"] = _picture(overlay)
    return found


def _picture(pixels: NDArray[np.uint8]) -> str:
    """Return pixels as a data address: as PNG if they have transparency, else as JPEG."""
    image = Image.fromarray(pixels)
    return picture_uri(image, "PNG" if image.mode == "RGBA" else "JPEG")
