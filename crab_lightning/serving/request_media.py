"""Reads the media of a chat request from data addresses or files, and decodes them as in training."""

from __future__ import annotations

import base64
import binascii
import itertools
import re
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

from crab_lightning.data import load_media
from crab_lightning.data.loading import example_of
from crab_lightning.media import MediaError, MediaLimits, Resizer, write_upright
from crab_lightning.processing import Geometry
from crab_lightning.serving.requests import ChatRequest, MessagesError, RequestError, shown
from crab_lightning.structures import AudioWindow, DatasetSpec, Example, Media, Sample

_NUMBERS = itertools.count()
_WEB_ADDRESS = re.compile(r"file:|[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def load_example(
    request: ChatRequest,
    geometry: Geometry,
    limits: MediaLimits,
    *,
    media_root: Path | None = None,
    resize: Resizer = "torch",
) -> Example:
    """Decode a request's media as training decodes them.

    Args:
        request: The request.
        geometry: Preprocessing of the media that the processor expects.
        limits: Limits of each media file.
        media_root: Folder in which files may be named; ``None`` allows no files.
        resize: Method of resizing frames.

    Raises:
        RequestError: If a media file cannot be read or is not allowed.
    """
    kinds: dict[Media, list[Path]] = {Media.VIDEO: [], Media.IMAGE: [], Media.AUDIO: []}
    with tempfile.TemporaryDirectory(prefix="crab-serve-") as scratch:
        for number, (kind, address) in enumerate(request.media):
            kinds[kind].append(_file(address, Path(scratch) / f"{kind.value}{number}", media_root))
        try:
            # Pictures are rotated as a viewer shows them, as in `ask`; those of manifests are not rotated.
            kinds[Media.IMAGE] = [
                write_upright(path, Path(scratch) / f"upright{number}.png", limits=limits)
                for number, path in enumerate(kinds[Media.IMAGE])
            ]
        except (MediaError, OSError) as err:
            raise _unusable(err, scratch) from err
        sample = Sample(
            id=f"the request {next(_NUMBERS)}",
            dataset="request",
            task=request.task,
            split="test",
            clip="request",
            videos=tuple(kinds[Media.VIDEO]),
            images=tuple(kinds[Media.IMAGE]),
            audios=tuple(kinds[Media.AUDIO]),
        )
        spec = DatasetSpec(request.task, "", frames=request.frames, audio=AudioWindow("all"))
        try:
            loaded = load_media(sample, spec, geometry, limits=limits, resize=resize)
            return example_of(sample, request.conversation, loaded, geometry)
        except (MediaError, OSError, ValueError) as err:
            raise _unusable(err, scratch) from err


def _unusable(err: Exception, scratch: str) -> RequestError:
    said = str(err).replace(f"{scratch}/", "")
    return MessagesError(f"a media file of the request cannot be used: {said}")


def _file(address: str, place: Path, media_root: Path | None) -> Path:
    """Return the file of an address; the content of a data address is written to ``place``."""
    if address.startswith("data:"):
        head, comma, data = address.partition(",")
        if not comma or not head.endswith(";base64"):
            raise MessagesError("a data address must have the form data:video/mp4;base64,...")
        try:
            place.write_bytes(base64.b64decode(data, validate=True))
        except (binascii.Error, ValueError) as err:
            raise MessagesError(f"the base64 text of a media file is damaged: {err}") from err
        return place
    names = [address, unquote(address)]  # the name of a file may contain per cent signs, or be quoted
    if _WEB_ADDRESS.match(address):
        try:
            parts = urlsplit(address)
        except ValueError as err:
            raise MessagesError(f"{shown(address)} is not an address: {err}") from err
        names = [unquote(parts.path)] if parts.scheme == "file" else []
    if not names:
        raise MessagesError(
            f"{shown(address)}: this server does not download files; send the file itself as a data address"
        )
    if media_root is None:
        raise MessagesError(
            "this server reads no files by name; send the file itself as a data address, or start the "
            "server with --media_root FOLDER"
        )
    root = media_root.resolve()
    try:
        paths = [(root / name).resolve() for name in names]
        path = next((path for path in paths if path.is_relative_to(root) and path.is_file()), paths[-1])
        inside, there = path.is_relative_to(root), path.is_file()
    except (OSError, ValueError, RuntimeError) as err:  # too long, not a valid text, or a loop of links
        raise MessagesError(f"{shown(address)} is not a name of a file") from err
    if not inside:
        raise RequestError(f"{shown(address)} is outside the media folder of this server", 403, "messages")
    if not there:
        raise MessagesError(f"{shown(address)} is not a file of this server")
    return path
