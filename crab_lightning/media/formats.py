"""The formats that are read: a stated list, so that no file chooses which other code or file is opened.

The libraries below know many more formats. Some of them start other programs (PostScript), read other files
(playlists, lists of files) or open addresses of a network, and the name of a file does not say which of them
it will be. Whatever is not listed here is refused.
"""

from __future__ import annotations

from pathlib import Path

CONTAINER_FORMATS = (
    "mov", "matroska", "avi", "mpegts", "mpeg", "flv", "asf",
    "ogg", "wav", "w64", "mp3", "flac", "aac", "aiff", "caf", "amr", "au", "gif",
)  # fmt: skip
"""Containers of sound and moving pictures, by ffmpeg's names; ``mov`` is mp4, m4a and 3gp, too, and
``matroska`` is mkv and webm."""

OPEN_OPTIONS = {"format_whitelist": ",".join(CONTAINER_FORMATS), "protocol_whitelist": "file"}
"""What ffmpeg is told when a file is opened: only these containers, and only files of this machine."""

PICTURE_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000")
"""Still pictures, by Pillow's names."""

_REFUSED = (
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"%PDF", "PDF"),
    (b"ffconcat", "a list of files (ffconcat)"),
    (b"#EXTM3U", "a playlist (m3u8)"),
    (b"[playlist]", "a playlist (pls)"),
    (b"v=0", "a session description (sdp)"),
    (b"<?xml", "XML (a playlist or a drawing)"),
    (b"<svg", "a drawing (svg)"),
    (b"<MPD", "a playlist (dash)"),
    (b"<html", "a web page"),
    (b"<!DOCTYPE", "a web page"),
    (b"version https://git-lfs", "a pointer of Git LFS, and not the file itself"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
)
_HEAD_BYTES = 64


def refusal(path: Path, known: tuple[str, ...], failed: str) -> str:
    """Say why a file is not read: it is of another format, whose name is told where the first bytes tell it.

    Args:
        path: An existing file.
        known: The formats that are read.
        failed: What to say where they do not.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES).lstrip(b"\xef\xbb\xbf \t\r\n")
    listed = ", ".join(name.lower() for name in known)
    found = next((name for start, name in _REFUSED if head[: len(start)].lower() == start.lower()), None)
    if found is not None:
        return f"is {found}, which is not read. These formats are: {listed}. Fetch it again or convert it."
    return (
        f"{failed}: it is damaged, or in no format that is read. These formats are: {listed}. Fetch it again "
        "or convert it."
    )
