"""An upstream that answers with given bytes, and remembers the heads and bodies that it was sent."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from urllib.parse import urlsplit

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"


class RawUpstream:
    def __init__(self, listener: socket.socket) -> None:
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self.heads: list[bytes] = []
        self.answer: bytes | Callable[[socket.socket], None] = OK
        """Bytes, after which the connection is kept; or what to do with it, after which it is closed."""
        self.connections = 0
        self._listener = listener

    def run(self) -> None:
        while True:
            try:
                line, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(line,), daemon=True).start()

    def _serve(self, line: socket.socket) -> None:
        with line, contextlib.suppress(OSError), line.makefile("rb") as given:
            while first := given.readline():
                head = first
                while not head.endswith(b"\r\n\r\n"):
                    head += given.readline() or b"\r\n\r\n"
                self._read_body(head.lower(), given)
                self.heads.append(head)
                if callable(self.answer):
                    self.answer(line)
                    return
                line.sendall(self.answer)

    def _read_body(self, head: bytes, given: object) -> None:
        for field in head.split(b"\r\n"):
            name, _, value = field.partition(b":")
            if name == b"content-length":
                given.read(int(value))  # type: ignore[attr-defined]  # a socket's file


@contextmanager
def raw_upstream() -> Generator[RawUpstream]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        upstream = RawUpstream(listener)
        threading.Thread(target=upstream.run, daemon=True).start()
        try:
            yield upstream
        finally:
            # A close alone does not wake an accept.
            listener.shutdown(socket.SHUT_RDWR)


def reset(line: socket.socket) -> None:
    """End it without a good-bye."""
    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    line.close()


class Line:
    """A connection to a server, on which requests are written as bytes."""

    def __init__(self, url: str) -> None:
        self.url = url
        parts = urlsplit(url)
        assert parts.hostname
        self._socket = socket.create_connection((parts.hostname, parts.port or 0), timeout=60)
        self._file = self._socket.makefile("rb")

    def ask(self, head: str, *fields: str, body: bytes = b"") -> tuple[int, list[bytes], bytes]:
        """Status, header lines and body, which must have a length or none."""
        lines = [f"{head} HTTP/1.1", "host: x", *fields, "", ""]
        self._socket.sendall("\r\n".join(lines).encode() + body)
        status = int(self._file.readline().split()[1])
        headers: list[bytes] = []
        while line := self._file.readline().strip():
            headers.append(line)
        length = next((int(h.split(b":")[1]) for h in headers if h.lower().startswith(b"content-length:")), 0)
        return status, headers, self._file.read(length)

    def rest(self) -> bytes:
        """All that comes until the other side ends it."""
        return self._file.read()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def close(self) -> None:
        self._file.close()
        self._socket.close()
