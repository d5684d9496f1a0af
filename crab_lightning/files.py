"""Files that are either complete or absent, even when the process that writes them is killed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

_NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EIO, errno.EROFS, getattr(errno, "EDQUOT", errno.ENOSPC))


HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
"""Form of the name of a model on a hub: its owner and its own name."""


class DamagedFileError(ValueError):
    """A small file of a run that cannot be read; the message names it and says what to do."""


def replace_file(path: Path, write: Callable[[Path], object], keep: Path | None = None) -> None:
    """Write a file under a temporary name and rename it once its bytes are on disk.

    A process that is killed or a disk that is full leaves the old file. What a killed writer has left is
    removed by the next one; a file has one writer at a time.

    Args:
        path: The file; its folder is made when it is absent. Temporary names begin with a dot and its name.
        write: Writes the file it is given.
        keep: Name under which the file that is replaced stays, in place of what has that name.

    Raises:
        OSError: If the disk is full or read-only; the error names ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    temporary = _temporary(path)
    try:
        write(temporary)
        _flush(temporary)
        if keep is not None and path.is_file():
            _keep(path, keep)
        temporary.replace(path)
    except Exception as err:
        # Named by the file that is wanted: nobody knows the temporary one.
        if (number := _errno(err)) is None:
            raise
        said = os.strerror(number) + ("; its earlier content is not damaged" if path.exists() else "")
        raise OSError(number, said, str(path)) from err
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":
        _flush(path.parent)  # the rename itself


def replace_bytes(path: Path, content: bytes) -> None:
    """Write a whole small file, as :func:`replace_file` does."""
    replace_file(path, lambda temporary: temporary.write_bytes(content))


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def replace_text(path: Path, text: str) -> None:
    """Write a whole small text file in UTF-8, as :func:`replace_file` does."""
    replace_bytes(path, text.encode())


def free_name(path: Path) -> Path:
    """Return a path where nothing is: this one, or one with a number behind it."""
    found, number = path, 1
    while found.exists():
        number += 1
        found = path.with_name(f"{path.name}-{number}")
    return found


def replace_json(path: Path, content: Any, indent: int | None = 2) -> None:
    """Write a whole JSON file, as :func:`replace_file` does.

    Raises:
        ValueError: If the content holds a number that is not finite, which JSON cannot express.
    """
    text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False)
    replace_text(path, text + "\n")


def read_json(path: Path, remedy: str) -> Any:
    """Read a JSON file of a run.

    Args:
        path: The file.
        remedy: What to do where it is damaged, as a sentence.

    Raises:
        DamagedFileError: If it is not whole; it names the file and the remedy.
    """
    try:
        return json.loads(path.read_bytes())
    except ValueError as err:  # also what is no UTF-8
        raise DamagedFileError(
            f"{path} is damaged ({err}); a full disk or a killed process may be the reason. {remedy}"
        ) from err


def path_given(name: str, value: object, wanted: str) -> str:
    """Return a path that was given as an argument in Python.

    Args:
        name: Name of the argument.
        value: What was given.
        wanted: What it has to be, for the error.

    Raises:
        ValueError: If it is no path, or empty.
    """
    if not isinstance(value, str | os.PathLike) or not str(value):
        raise ValueError(f"`{name}` is {value!r}; give {wanted}")
    return os.fspath(value)


def parsed_yaml(text: str) -> Any:
    """Return what a YAML text says, as ``yaml.safe_load`` does; with libyaml, where PyYAML has it, sooner.

    Raises:
        yaml.YAMLError: If it is not YAML, or a key occurs twice in one mapping.
    """
    import yaml

    return yaml.load(text, Loader=_yaml_loader())


@cache
def _yaml_loader() -> Any:
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            refuse_repeated_keys(self, node)
            return super().construct_mapping(node, deep=deep)

    return Loader


def refuse_repeated_keys(loader: Any, node: Any) -> None:
    """Refuse a mapping in YAML in which a key occurs twice.

    Args:
        loader: The loader that constructs the mapping.
        node: The node of the mapping.

    Raises:
        ConstructorError: If there is such a key. The error has its place.
    """
    from yaml.constructor import ConstructorError

    seen: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.id != "scalar" or key_node.tag.endswith(":merge"):
            continue  # PyYAML refuses other keys itself, and fills in a merge key (`<<`)
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise ConstructorError(
                None, None, f"the key '{key}' occurs twice in one mapping", key_node.start_mark
            )
        seen.add(key)


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Give a folder to write in, which takes its name when all is written.

    Args:
        out: The folder.

    Raises:
        FileExistsError: If it exists.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists already; name a folder that does not")
    folder = out.with_name(f".{out.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
    folder.mkdir(parents=True)
    try:
        yield folder
        folder.rename(out)
    except BaseException:
        shutil.rmtree(folder)
        raise


@contextmanager
def removed_on_failure(folder: Path) -> Iterator[None]:
    """Remove a folder when what writes it fails; one that was there before stays as it is."""
    is_new = not folder.exists()
    try:
        yield
    except BaseException:
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)
        raise


@contextmanager
def appended(path: Path) -> Iterator[IO[str]]:
    """Open a text file to add lines.

    Raises:
        OSError: If a line does not fit on the disk; it names the file, which the system's own error does not.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            yield file
    except OSError as err:
        if err.errno is None or err.filename is not None or err.errno not in _NO_ROOM:
            raise
        raise OSError(err.errno, os.strerror(err.errno), str(path)) from err


def whole_lines(path: Path) -> list[bytes]:
    """Return the lines of a file that lines are added to, without one that a killed process has cut off."""
    return path.read_bytes().split(b"\n")[:-1] if path.is_file() else []


def remove_cut_line(path: Path) -> None:
    """Take a line that a killed process has cut off out of a file; it must have no other writer now."""
    if path.is_file() and (content := path.read_bytes()):
        os.truncate(path, content.rfind(b"\n") + 1)


def free_place(home: Path, name: str) -> Path:
    """Return the first ``name-N`` of a folder that is not there yet."""
    number = 0
    while (place := home / f"{name}-{number}").exists():
        number += 1
    return place


def walked(
    folder: Path, without: Path | None = None, onerror: Callable[[OSError], object] | None = None
) -> Iterator[tuple[str, list[str]]]:
    """Yield a folder and all below it, each once, with the names of its files; links to folders are followed.

    Args:
        folder: The folder.
        without: A folder that is not looked into.
        onerror: Called where a folder cannot be read; such a folder is passed over when left out.
    """
    seen: set[tuple[int, int]] = set()
    if without is not None and without.is_dir():
        info = without.stat()
        seen.add((info.st_dev, info.st_ino))
    for where, folders, names in os.walk(folder, followlinks=True, onerror=onerror):
        info = os.stat(where)  # noqa: PTH116 - a Path for each of a million folders is slow
        if (info.st_dev, info.st_ino) in seen:
            folders.clear()
            continue
        seen.add((info.st_dev, info.st_ino))
        folders.sort()
        yield where, names


def remove_leftovers(path: Path) -> None:
    """Remove temporary files that killed writers of a file have left; it must have no other writer now."""
    for leftover in path.parent.glob(f".{path.name}.[0-9]*.????????"):
        with suppress(FileNotFoundError):
            leftover.unlink()


def _errno(err: Exception) -> int | None:
    """Return the operating system's number of an error; safetensors hides it in the text of its own."""
    if isinstance(err, OSError):
        return err.errno
    found = re.search(r"\(os error (\d+)\)", str(err))
    return int(found[1]) if found else None


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")


def _keep(path: Path, keep: Path) -> None:
    second = _temporary(path)
    try:
        second.hardlink_to(path)
    except OSError:  # a file system without links: until the new file is renamed there is only the kept one
        path.replace(keep)
    else:
        second.replace(keep)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def refuse_no_checkpoint(name: str, key: str) -> None:
    """Refuse a name that is neither a file or folder nor a name on a model hub; no hub is asked.

    Args:
        name: Folder, file or hub name of a checkpoint.
        key: What gives the name, for the message.

    Raises:
        FileNotFoundError: If it can be none of them.
    """
    if not Path(name).exists() and not HUB_NAME.fullmatch(name):
        raise FileNotFoundError(
            f"{key} {name}: there is no such folder. A model on the hub has a name with its owner, such as "
            "Qwen/Qwen2.5-Omni-7B"
        )
