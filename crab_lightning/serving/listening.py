"""A server that owns its port before anything says that it serves."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress
from typing import Any

import uvicorn


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address; with port 0, at a free port.

    Raises:
        OSError: If the port is in use, or the address cannot be listened on.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as err:
        if err.errno == errno.EADDRINUSE:
            said = f"--port {port} is in use on {host}; stop the other server, or give another --port"
        else:
            number = err.errno or 0
            why = os.strerror(number) if number > 0 else err.strerror
            said = f"--host {host} --port {port} cannot be listened on ({why}); give another --host or --port"
        raise OSError(said) from err


def serve_on(listener: socket.socket, app: Any, stop_s: int | None = None) -> None:
    """Answer requests until Ctrl-C or SIGTERM.

    Args:
        listener: A result of :func:`listen`.
        app: The ASGI application.
        stop_s: Longest time for which open requests are waited for at the end, in
            seconds; ``None`` for no limit.

    Raises:
        SystemExit: If the server cannot start; uvicorn has printed the reason.
    """
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=stop_s))
    with suppress(KeyboardInterrupt):  # the server has stopped when it raises this
        server.run(sockets=[listener])
    if not server.started:
        raise SystemExit(1)
