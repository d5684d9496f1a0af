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
"""Pattern of the name of a model on a hub: its owner, a slash and its own name."""


class DamagedFileError(ValueError):
    """A small file of a run cannot be read; the message names the file and says what to do."""


def replace_file(path: Path, write: Callable[[Path], object], keep: Path | None = None) -> None:
    """Write a file under a temporary name and rename it when its bytes are on the disk.

    If the process is killed or the disk is full, the old file stays. The next writer removes the temporary
    files that a killed writer has left. Only one process at a time may write the file.

    Args:
        path: The file; its folder is made if it is absent. The temporary name is a dot, the name of the file
            and a suffix. Of a link, the file is replaced to which it points. A device or a pipe, such as
            ``/dev/stdout``, is written to and never replaced.
        write: Writes the content into the path that it gets.
        keep: New path of the file that is replaced. A file that is already there is replaced. When left out,
            the old file is not kept.

    Raises:
        OSError: If the disk is full or read-only; the error names ``path``.
    """
    is_special = path.exists() and not path.is_file() and not path.is_dir()
    if path.is_symlink() and not is_special:
        path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    temporary = _temporary(path)
    try:
        if is_special:
            write(path)
            return
        write(temporary)
        _flush(temporary)
        if keep is not None and path.is_file():
            _keep(path, keep)
        temporary.replace(path)
    except Exception as err:
        # The error names the file that the caller knows, not the temporary one.
        if (number := _errno(err)) is None:
            raise
        said = os.strerror(number) + ("; its earlier content is not damaged" if path.exists() else "")
        raise OSError(number, said, str(path)) from err
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":
        _flush(path.parent)  # puts the rename on the disk


def replace_bytes(path: Path, content: bytes) -> None:
    """Write all bytes of a small file, as :func:`replace_file` does."""
    replace_file(path, lambda temporary: temporary.write_bytes(content))


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def replace_text(path: Path, text: str) -> None:
    """Write all text of a small file in UTF-8, as :func:`replace_file` does."""
    replace_bytes(path, text.encode())


def free_name(path: Path) -> Path:
    """Return the path if nothing is there, or else the path with the first free number, as ``name-2``."""
    found, number = path, 1
    while found.exists():
        number += 1
        found = path.with_name(f"{path.name}-{number}")
    return found


def replace_json(path: Path, content: Any, indent: int | None = 2) -> None:
    """Write all content of a JSON file, as :func:`replace_file` does.

    Raises:
        ValueError: If the content has a number that is not finite, which JSON cannot express.
    """
    text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False)
    replace_text(path, text + "\n")


def read_json(path: Path, remedy: str, *needed: str) -> dict[str, Any]:
    """Read a JSON file that this package has written, whose content is an object.

    Args:
        path: The file.
        remedy: A sentence that says what to do if the file is damaged.
        needed: Keys that the object must have.

    Raises:
        DamagedFileError: If the file is not complete, contains something else than an object, or lacks a key;
            the message names the file and ends with the remedy.
    """
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError(f"it contains a {type(content).__name__} instead of an object")
        if lacking := [key for key in needed if key not in content]:
            raise ValueError(f"it has no {', '.join(lacking)}")
    except ValueError as err:  # includes text that is not UTF-8
        raise DamagedFileError(
            f"{path} is damaged ({err}); a full disk or a killed process may be the reason. {remedy}"
        ) from err
    return content


def path_given(name: str, value: object, wanted: str) -> str:
    """Return a path that was given as an argument in Python.

    Args:
        name: Name of the argument.
        value: Its value.
        wanted: What the value has to be, for the error.

    Raises:
        ValueError: If the value is not a path, or empty.
    """
    if not isinstance(value, str | os.PathLike) or not str(value):
        raise ValueError(f"`{name}` is {value!r}; give {wanted}")
    return os.fspath(value)


def parsed_yaml(text: str) -> Any:
    """Return the content of a YAML text, as ``yaml.safe_load`` does, with the faster libyaml if it is there.

    Raises:
        yaml.YAMLError: If the text is not YAML, a key occurs twice in one mapping, or a number is written in
            base 8 or 60.
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

    for kind in ("int", "float"):
        Loader.add_constructor(f"tag:yaml.org,2002:{kind}", decimal_number)
    return Loader


def decimal_number(loader: Any, node: Any) -> int | float:
    """Construct a number of YAML; refuse ``010``, which YAML reads as 8, and ``1:30``, which it reads as 90.

    Args:
        loader: The loader that constructs the number.
        node: Its node.

    Raises:
        ConstructorError: If the number is not in base 10, or 16 as in ``0x1f``. The error says where it is.
    """
    from yaml.constructor import ConstructorError

    is_whole = node.tag.endswith(":int")
    value: int | float = (loader.construct_yaml_int if is_whole else loader.construct_yaml_float)(node)
    text = node.value.lstrip("+-")
    base = 60 if ":" in text else 8 if is_whole and text[0] == "0" and text.strip("0_").isdecimal() else None
    if base:
        said = (
            f"YAML reads {node.value} as {value}, a number in base {base}; write {value}, or '{node.value}'"
        )
        raise ConstructorError(None, None, f"{said} in quotes for a text", node.start_mark)
    return value


def refuse_repeated_keys(loader: Any, node: Any) -> None:
    """Refuse a mapping in YAML in which a key occurs twice.

    Args:
        loader: The loader that constructs the mapping.
        node: The node of the mapping.

    Raises:
        ConstructorError: If there is such a key. The error says where it is.
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
    """Yield a temporary folder to write in, and rename it to ``out`` when the block ends without an error.

    Args:
        out: The folder to make.

    Raises:
        FileExistsError: If ``out`` exists.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists already; name a folder that does not")
    folder = out.with_name(f".{out.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)  # a killed process may have left it
    folder.mkdir(parents=True)
    try:
        yield folder
        folder.rename(out)
    except BaseException:
        shutil.rmtree(folder)
        raise


@contextmanager
def removed_on_failure(folder: Path) -> Iterator[None]:
    """Remove a folder if the block fails. A folder that was there before the block is not removed."""
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
        OSError: If a line does not fit on the disk. Unlike the system's own error, it names the file.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            yield file
    except OSError as err:
        if err.errno is None or err.filename is not None or err.errno not in _NO_ROOM:
            raise
        raise OSError(err.errno, os.strerror(err.errno), str(path)) from err


def whole_lines(path: Path) -> list[bytes]:
    """Return the complete lines of a file, without a last line that a killed process has not finished."""
    return path.read_bytes().split(b"\n")[:-1] if path.is_file() else []


def remove_cut_line(path: Path) -> None:
    """Remove a last line that a killed process has not finished. No other process may write the file now."""
    if path.is_file() and (content := path.read_bytes()):
        os.truncate(path, content.rfind(b"\n") + 1)


def free_place(home: Path, name: str) -> Path:
    """Return the path of the first ``name-N`` that does not exist in a folder."""
    number = 0
    while (place := home / f"{name}-{number}").exists():
        number += 1
    return place


def walked(
    folder: Path, without: Path | None = None, onerror: Callable[[OSError], object] | None = None
) -> Iterator[tuple[str, list[str]]]:
    """Yield a folder and all folders below it, each once, with the names of its files.

    Links to folders are followed.

    Args:
        folder: The folder.
        without: A folder that is left out.
        onerror: Is called with the error if a folder cannot be read. When left out, such folders are ignored.
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
    """Remove the temporary files that killed writers of a file have left. No process may write it now."""
    for leftover in path.parent.glob(f".{path.name}.[0-9]*.????????"):
        with suppress(FileNotFoundError):
            leftover.unlink()


def _errno(err: Exception) -> int | None:
    """Return the operating system's number of an error. Errors of safetensors have it in their text only."""
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
    except OSError:  # the file system has no links; there is only the kept file until the new one is renamed
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
    """Refuse a name that is neither a file nor a folder and cannot be a name on a model hub.

    No hub is asked.

    Args:
        name: Folder, file or hub name of a checkpoint.
        key: The config key or option that has the name, for the message.

    Raises:
        FileNotFoundError: If the name can be none of them.
    """
    if not Path(name).exists() and not HUB_NAME.fullmatch(name):
        raise FileNotFoundError(
            f"{key} {name}: there is no such folder. A model on the hub has a name with its owner, such as "
            "Qwen/Qwen2.5-Omni-7B"
        )
