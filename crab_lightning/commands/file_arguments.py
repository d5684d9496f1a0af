"""Files and folders that options name, checked before anything is loaded."""

from __future__ import annotations

from argparse import ArgumentTypeError
from pathlib import Path


def config_file(text: str) -> str:
    """Return the name of a config that is there, as ``--config`` takes it.

    Raises:
        ArgumentTypeError: If there is none, or the file is no config.
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
    """Return a file that is there.

    Raises:
        ArgumentTypeError: If it is not, or is a folder.
    """
    path = Path(text)
    if path.is_dir():
        raise ArgumentTypeError(f"{path} is a folder; name a file")
    if not path.exists():
        raise ArgumentTypeError(f"{path} is not a file")
    return path


def web_address(text: str) -> str:
    """Return the address of an API, as ``--endpoint`` takes it.

    Raises:
        ArgumentTypeError: If it does not begin with http:// or https://, or names no machine.
    """
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(text)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        whole = False
    if not whole:
        raise ArgumentTypeError(f"{text!r} is not a web address; give http://HOST:PORT/v1 or https://...")
    return text


def folder_to_write(text: str) -> Path:
    """Return a folder that is there or can be made.

    Raises:
        ArgumentTypeError: If a file stands in its place.
    """
    path = Path(text)
    for place in (path, *path.parents):
        if place.exists() and not place.is_dir():
            raise ArgumentTypeError(f"{place} is a file and cannot be a folder; name another folder")
    return path


def file_to_write(text: str) -> Path:
    """Return a file that can be written.

    Raises:
        ArgumentTypeError: If a folder stands in its place, or a file in the place of its folder.
    """
    path = Path(text)
    if path.is_dir():
        raise ArgumentTypeError(f"{path} is a folder; name a file in it, such as {path / 'NAME'}")
    folder_to_write(str(path.parent))
    return path


def model_folder(text: str) -> str:
    """Return a folder or a name of weights; a name may be one of the hub.

    Raises:
        ArgumentTypeError: If it is a file.
    """
    if Path(text).is_file():
        raise ArgumentTypeError(f"{text} is a file; give the folder of a model or its name on the hub")
    return text


def check_picture(path: Path | None) -> None:
    """Look at a user's picture, before a model is loaded for it.

    Raises:
        MediaError: If it cannot be decoded; the text names it.
    """
    if path is None:
        return
    from crab_lightning.media import read_image

    read_image(path)
