"""``serve`` and ``demo``: serve a trained run at an OpenAI-compatible address."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from dataclasses import fields
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from crab_lightning.commands.file_arguments import config_file, file_to_read
from crab_lightning.commands.help_text import CHECKPOINT, DEVICE, RUN_CONFIG, Options, port, positive

KEY_VARIABLE = "CRAB_API_KEY"


def parser(name: str = "serve") -> argparse.ArgumentParser:
    """Return the parser of ``serve``, or of ``demo``, which always serves the web page."""
    made = Options(name, run if name == "serve" else demo)
    add, switch = made.option, made.switch
    add("--checkpoint", CHECKPOINT, Path, required=True)
    add("--config", RUN_CONFIG, config_file)
    add(
        "--host",
        "address to listen on; an address that other machines can reach needs a key",
        default="127.0.0.1",
    )
    add("--port", "port to listen on; 0 chooses a free one", port, 8000)
    add("--name", "name of the model in the list of models (default: the run's folder name)")
    add(
        "--api_key_file",
        f"file with the key that clients must send; the environment variable {KEY_VARIABLE} works too",
        file_to_read,
    )
    if name == "serve":
        page = "also serve a web page at /, where a clip can be uploaded, as `demo` does"
        switch("--page", page)
    made.set_defaults(page=name == "demo")
    add("--media_root", "folder whose files requests may name (default: requests may name no files)", Path)
    add("--slots", "number of answers that are generated at the same time", positive, 16)
    add("--waiting", "number of questions that may wait; further ones get status 429", positive, 64)
    add("--max_body_mb", "largest request in megabytes", _above_zero, 64.0)
    add("--max_new_tokens", "longest answer in tokens (default: the run's setting)", positive)
    add("--max_prompt_tokens", "longest question in tokens, media included", positive, 32_768)
    add("--max_media", "largest number of media in one request", positive, 16)
    add("--max_frames", "largest number of frames taken from one video", positive, 256)
    add("--max_text", "largest number of characters in one request", positive, 1_000_000)
    add("--max_requests", "number of requests that are read at the same time", positive, 128)
    add("--decoders", "number of requests whose media are decoded at the same time", positive, 2)
    add("--timeout_s", "longest time for one request in seconds", _above_zero, 300.0)
    add(
        "--grace_s",
        "seconds that answers may still take after the server was told to stop",
        _above_zero,
        10.0,
    )
    add("--device", DEVICE, default="auto")
    return made


def demo(words: Sequence[str]) -> None:
    """Serve a trained run together with a web page, where you upload a clip and ask about it.

    Open the address that the command prints in a browser. The server has the API of `serve` too.
    """
    _serve(parser("demo").parse_args(words))


def run(words: Sequence[str]) -> None:
    """Serve a trained run at an OpenAI-compatible address.

    The server answers POST /v1/chat/completions with video, audio and image parts, GET /v1/models and GET
    /health. Any OpenAI client can use it. The server decodes media as training does, and answers several
    questions at the same time.

    Raises:
        ValueError: If the address is open to others and no key is given.
        OSError: If the port is in use, or the address cannot be listened on.
        ImportError: If the extra ``serve`` is not installed.
    """
    _serve(parser().parse_args(words))


def _serve(args: argparse.Namespace) -> None:
    key = _key(args.api_key_file)
    if not _is_loopback(args.host) and key is None:
        raise ValueError(
            f"--host {args.host} lets other machines connect, so a key is needed: set {KEY_VARIABLE} or give "
            "--api_key_file"
        )
    if args.media_root is not None and not args.media_root.is_dir():
        raise ValueError(f"--media_root {args.media_root} is not a folder")
    try:
        from crab_lightning.serving.app import ServerOptions, make_app
        from crab_lightning.serving.listening import listen, serve_on
        from crab_lightning.serving.requests import RequestSizes
    except ImportError as err:
        raise ImportError("`serve` needs more packages: pip install 'crab_lightning[serve]'") from err
    from crab_lightning.inference.loading import load_run
    from crab_lightning.media import MediaLimits
    from crab_lightning.serving.worker import Worker

    model, data = load_run(args.checkpoint, args.config, args.device)
    listener = listen(args.host, args.port)
    given: dict[str, Any] = {field.name: getattr(args, field.name, None) for field in fields(ServerOptions)}
    options = ServerOptions(
        **given
        | {
            "name": args.name or args.checkpoint.resolve().name,
            "api_key": key,
            "max_new_tokens": args.max_new_tokens or model.max_new_tokens,
            "sizes": RequestSizes(args.max_media, args.max_frames, args.max_text),
        }
    )
    worker = Worker(model, args.slots, args.waiting)
    app = make_app(
        model, worker, data.limits or MediaLimits(), options, data.resize, data if args.page else None
    )
    address = f"http://{args.host}:{listener.getsockname()[1]}/"
    print(f"Serving {options.name} at {address}v1 (Ctrl-C stops the server)", flush=True)
    if args.page:
        print(f"Open {address} in a browser", flush=True)
    serve_on(listener, app, math.ceil(args.grace_s) + 5)


def _above_zero(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def _key(file: Path | None) -> str | None:
    if file is not None:
        try:
            key = file.read_text(encoding="utf-8").strip()
        except UnicodeDecodeError as err:
            raise ValueError(f"--api_key_file {file} is not UTF-8 text; it has to contain the key") from err
        if not key:
            raise ValueError(f"--api_key_file {file} is empty")
        return key
    return os.environ.get(KEY_VARIABLE) or None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
