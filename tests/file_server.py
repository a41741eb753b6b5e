"""A small HTTP server of this machine, for tests of what fetches files."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Reply(NamedTuple):
    """What is answered on one path. An empty header is not sent; if `gap_s` is not 0 it is waited before each byte."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = {}
    gap_s: float = 0.0


class FileServer(ThreadingHTTPServer):
    """Answers by `replies`, by path, and keeps what it was asked with and what was posted."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.replies: dict[str, Reply] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.posted: list[bytes] = []

    @property
    def port(self) -> int:
        return self.server_address[1]

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        """The address of a path, by this name of the machine."""
        return f"http://{host}:{self.port}{path}"


class _Handler(BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        self.server.asked.append((self.path, dict(self.headers)))
        reply = self.server.replies.get(self.path, Reply(status=404))
        self.send_response(reply.status)
        for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        try:
            for part in [reply.body] if not reply.gap_s else [bytes([byte]) for byte in reply.body]:
                time.sleep(reply.gap_s)
                self.wfile.write(part)
        except OSError:
            pass  # whoever asked has left

    def do_POST(self) -> None:
        self.server.posted.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def run_file_server() -> Iterator[FileServer]:
    """A running server, stopped at the end."""
    with FileServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
