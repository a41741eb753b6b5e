"""Secrets that an installation makes for itself on its first start."""

import os
import secrets
from pathlib import Path


def read_or_create_secret(path: Path) -> str:
    """The secret kept in this file, made once with 0600. Safe when several processes start at the same time."""
    try:
        return path.read_text()
    except FileNotFoundError:
        pass
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.touch(mode=0o600)
    draft.write_text(secrets.token_urlsafe(50))
    try:
        os.link(draft, path)  # unlike rename, fails when another process was first: then theirs is the secret
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    return path.read_text()
