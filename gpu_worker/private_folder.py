"""Folders of this process alone, removed when it ends."""

import atexit
import shutil
import tempfile
from pathlib import Path


def make_private_folder() -> Path:
    """A new, empty folder that nobody else may enter."""
    folder = tempfile.mkdtemp(prefix="atrium-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
