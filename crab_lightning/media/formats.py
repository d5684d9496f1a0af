"""The list of formats that are read, so that a file cannot make the libraries open other files or programs.

The libraries know many more formats. Some of these start other programs (PostScript), read other files
(playlists, lists of files) or open network addresses, and the name of a file does not show its format. All
formats that are not listed here are refused.
"""

from __future__ import annotations

from pathlib import Path

CONTAINER_FORMATS = (
    "mov", "matroska", "avi", "mpegts", "mpeg", "flv", "asf",
    "ogg", "wav", "w64", "mp3", "flac", "aac", "aiff", "caf", "amr", "au", "gif",
)  # fmt: skip
"""Containers of sound and moving pictures, by their names in ffmpeg. ``mov`` is also mp4, m4a and 3gp, and
``matroska`` is mkv and webm."""

OPEN_OPTIONS = {"format_whitelist": ",".join(CONTAINER_FORMATS), "protocol_whitelist": "file"}
"""Options of ffmpeg for opening a file: it may only use these containers, and files of this machine."""

PICTURE_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000")
"""Formats of still pictures, by their names in Pillow."""

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
_PICTURES = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG", "PNG"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (8, b"WEBP", "WebP"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftypheic", "HEIC"),
    (4, b"ftypmif1", "HEIC"),
    (4, b"jP  ", "JPEG 2000"),
)
_CLIPS = (
    (4, b"ftyp", "MP4 or MOV"),
    (0, b"\x1aE\xdf\xa3", "Matroska or WebM"),
    (8, b"AVI ", "AVI"),
    (8, b"WAVE", "WAV"),
    (0, b"OggS", "Ogg"),
    (0, b"fLaC", "FLAC"),
    (0, b"ID3", "MP3"),
)
_HEAD_BYTES = 64


def refusal(path: Path, known: tuple[str, ...], failed: str) -> str:
    """Return the reason why a file is not read. It names the format of the file, if the first bytes show it.

    Args:
        path: An existing file.
        known: The formats that are read.
        failed: Beginning of the reason if the format is not recognised.
    """
    with path.open("rb") as file:
        start = file.read(_HEAD_BYTES)
    listed = ", ".join(name.lower() for name in known)
    for kinds, sort in ((_PICTURES, "a picture"), (_CLIPS, "a video or a sound")):
        form = next((name for at, mark, name in kinds if start[at : at + len(mark)] == mark), None)
        if form is None:
            continue
        if (sort == "a picture") != (known is PICTURE_FORMATS):
            wanted = "a picture" if known is PICTURE_FORMATS else "a video or a sound"
            return f"is {sort} ({form}), and {wanted} is needed. These formats are read: {listed}."
        if form in ("AVIF", "HEIC"):
            return f"is {sort} in {form}, which is not read. These formats are: {listed}. Convert it."
        break
    head = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    found = next((name for start, name in _REFUSED if head[: len(start)].lower() == start.lower()), None)
    if found is not None:
        return f"is {found}, which is not read. These formats are: {listed}. Download it again or convert it."
    return (
        f"{failed}: it is damaged, or its format is not read. These formats are: {listed}. Download it again "
        "or convert it."
    )
