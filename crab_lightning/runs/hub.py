"""Downloads adapters from a model hub by their address ``hf://OWNER/NAME``, with clear errors."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crab_lightning.files import HUB_NAME
from crab_lightning.program import is_first_process

PULLED = ["adapter.json", "*.safetensors", "config.yaml", "README.md"]
"""The files that are downloaded from a repository: weights, texts and the config, but never code."""

_ADDRESS = re.compile(r"hf:/{1,2}([^/@]+/[^/@]+)(?:@(.+))?")  # a Path has only one slash


class HubError(ValueError):
    """The hub cannot be reached, or refuses a request."""


def is_address(checkpoint: str | Path) -> bool:
    """Return whether a checkpoint is given by its address on a hub, and not by a path."""
    return str(checkpoint).startswith("hf:/")


def repository(address: str | Path) -> tuple[str, str | None]:
    """Return the ``OWNER/NAME`` of an address and its revision, if it names one.

    Raises:
        HubError: If the address has another form.
    """
    found = _ADDRESS.fullmatch(str(address))
    if found is None:
        said = str(address).replace("hf:/", "hf://", 1).replace("hf:///", "hf://")
        raise HubError(
            f"{said} is not an address of adapters; give hf://OWNER/NAME or hf://OWNER/NAME@REVISION"
        )
    return found[1], found[2]


def downloaded(address: str | Path) -> Path:
    """Return the folder in the hub's cache that contains the adapters of an address.

    Files that are already in the cache are not downloaded again. If the hub cannot be reached, an earlier
    download is used, and a message says so.

    Args:
        address: ``hf://OWNER/NAME`` or ``hf://OWNER/NAME@REVISION``.

    Raises:
        HubError: If the hub has no such repository, or cannot be reached and there is no earlier download.
        FileNotFoundError: If the repository contains no adapters of this package.
    """
    from huggingface_hub import HfApi, constants, snapshot_download

    repo, revision = repository(address)
    without: str | None = None
    with clear_errors(constants.ENDPOINT, repo):
        try:
            HfApi().model_info(repo, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        except Exception as err:
            if (without := _unreachable(err, constants.ENDPOINT)) is None:
                raise
        try:
            found = snapshot_download(
                repo, revision=revision, allow_patterns=PULLED, local_files_only=without is not None
            )
        except FileNotFoundError as err:  # there is no complete earlier download
            if without is None:
                raise
            raise HubError(f"{without}, and {repo} was not downloaded earlier") from err
    folder = Path(found)
    if not (folder / "adapter.json").is_file():
        raise FileNotFoundError(f"{repo} on the hub has no adapter.json; it has no adapters of this package")
    if is_first_process():
        earlier = "" if without is None else f" ({without}; this is an earlier download)"
        print(f"Using {repo} at commit {folder.name[:12]} from {folder}{earlier}", file=sys.stderr)
    return folder


def in_cache(path: Path) -> bool:
    """Return whether a path is in the hub's cache, into which no results may be written."""
    from huggingface_hub import constants

    return path.resolve().is_relative_to(Path(constants.HF_HUB_CACHE).expanduser().resolve())


def _unreachable(err: Exception, endpoint: str) -> str | None:
    """Return the reason why there is no answer of the hub, or ``None`` if the hub has answered."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    if isinstance(err, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so the hub is not asked"
    # The HTTP client is httpx or httpx2, depending on the version of huggingface_hub.
    if any(kind.__name__ == "TransportError" for kind in type(err).__mro__):
        return f"{endpoint} cannot be reached: {' '.join(str(err).split())[:200]}"
    return None


@contextmanager
def clear_errors(endpoint: str, repo: str) -> Iterator[None]:
    """Turn errors of the hub into a :class:`HubError` with a short message.

    Args:
        endpoint: Address of the hub.
        repo: ``OWNER/NAME`` of the repository.

    Raises:
        HubError: Instead of the errors of the hub.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if not HUB_NAME.fullmatch(repo):
        raise HubError(f"{repo} is not a name of a repository; OWNER/NAME is expected")
    try:
        yield
    except HFValidationError as err:
        raise HubError(f"{repo} is not a name of a repository; OWNER/NAME is expected ({err})") from err
    except RevisionNotFoundError as err:
        raise HubError(f"{endpoint}: {repo} has no such revision") from err
    except RepositoryNotFoundError as err:
        raise HubError(
            f"{endpoint} has no repository {repo}, or does not show it: a private one needs a token "
            "(HF_TOKEN)"
        ) from err
    except HfHubHTTPError as err:
        status = err.response.status_code
        hint = "; check the token, and whether it may write there" if status in (401, 403) else ""
        said = " ".join(str(err.server_message or err).split())[:300]
        raise HubError(f"{endpoint} refused with status {status}: {said}{hint}") from err
    except LocalEntryNotFoundError as err:
        if constants.HF_HUB_OFFLINE:
            raise HubError(f"HF_HUB_OFFLINE is set, so {repo} cannot be downloaded; unset it") from err
        raise HubError(f"{endpoint} cannot be reached: {' '.join(str(err).split())[:200]}") from err
    except Exception as err:
        if (why := _unreachable(err, endpoint)) is None:
            raise
        raise HubError(why) from err
