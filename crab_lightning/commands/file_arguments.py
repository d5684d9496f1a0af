"""Checks of the files and folders that options name, before anything is loaded."""

from __future__ import annotations

from argparse import ArgumentTypeError
from pathlib import Path


def config_file(text: str) -> str:
    """Return the name of an existing config; this is the type of ``--config``.

    Raises:
        ArgumentTypeError: If the file is missing, cannot be read as a config, or is empty.
    """
    from crab_lightning.configuration.files import ConfigError, compose

    try:
        content = compose([text], of_run=True)
    except ConfigError as err:
        raise ArgumentTypeError(str(err)) from err
    if not content:
        raise ArgumentTypeError(f"{text} contains no config")
    return text


def file_to_read(text: str) -> Path:
    """Return the path of an existing file.

    Raises:
        ArgumentTypeError: If there is no such file, or the path is a folder.
    """
    path = Path(text)
    if path.is_dir():
        raise ArgumentTypeError(f"{path} is a folder; name a file")
    if not path.exists():
        raise ArgumentTypeError(f"{path} is not a file")
    return path


def web_address(text: str) -> str:
    """Return the address of an API; this is the type of ``--endpoint``.

    Raises:
        ArgumentTypeError: If the text does not begin with http:// or https://, or names no machine.
    """
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(text)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # the port is not a number
        whole = False
    if not whole:
        raise ArgumentTypeError(f"{text!r} is not a web address; give http://HOST:PORT/v1 or https://...")
    return text


def folder_to_write(text: str) -> Path:
    """Return the path of a folder that exists or can be made.

    Raises:
        ArgumentTypeError: If the path, or a folder above it, is a file.
    """
    path = Path(text)
    for place in (path, *path.parents):
        if place.exists() and not place.is_dir():
            raise ArgumentTypeError(f"{place} is a file and cannot be a folder; name another folder")
    return path


def file_to_write(text: str) -> Path:
    """Return the path of a file that can be written.

    Raises:
        ArgumentTypeError: If the path is a folder, or a folder above it is a file.
    """
    path = Path(text)
    if path.is_dir():
        raise ArgumentTypeError(f"{path} is a folder; name a file in it, such as {path / 'NAME'}")
    folder_to_write(str(path.parent))
    return path


def model_folder(text: str) -> str:
    """Return the folder of a model, or its name on the hub.

    Raises:
        ArgumentTypeError: If the path is a file.
    """
    if Path(text).is_file():
        raise ArgumentTypeError(f"{text} is a file; give the folder of a model or its name on the hub")
    return text


def check_picture(path: Path | None) -> None:
    """Check that a picture can be decoded, before a model is loaded for it; ``None`` is allowed.

    Raises:
        MediaError: If the picture cannot be decoded. The message names the file.
    """
    if path is None:
        return
    from crab_lightning.media import read_image

    read_image(path)
