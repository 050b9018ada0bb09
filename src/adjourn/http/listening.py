"""What the server processes of ours share: they take a port, settle their memory, and stop when they are told to."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import socket
from collections.abc import Generator

import uvicorn

from adjourn.errors import ConfigInvalid

BACKLOG = 1024
GIVE_BACK_EVERY_S = 5.0
COLLECT_AFTER = (20_000, 20, 50)


class UntilSignal(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """A signal means: stop. uvicorn would raise it again after that, which kills before all is closed."""
        with super().capture_signals():
            yield
            self._captured_signals.clear()


def settle_memory() -> None:
    """What is loaded by now stays: the collector need not walk it again and again while requests come and go."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


def give_memory_back() -> None:
    """glibc keeps what was freed, in an arena for each few threads: after a burst, half as much again as is in use."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library has nothing like it
        ctypes.CDLL(None).malloc_trim(0)


def listen(host: str, port: int, *, host_name: str = "server.host", port_name: str = "server.port") -> socket.socket:
    """Raises ConfigInvalid, in terms of what the two are set by."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    # Head and body of an answer are two writes: with Nagle, the second would wait 40 ms. Connections inherit it.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        said = f"cannot listen on {host}:{port} ({error.strerror or error})"
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            raise ConfigInvalid(f"{said}; name an address of this machine, or 0.0.0.0", path=host_name) from error
        raise ConfigInvalid(f"{said}; stop what uses the port, or set {port_name}", path=port_name) from error
    listener.listen(BACKLOG)
    return listener


def url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
