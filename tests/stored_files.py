"""The contents of stored files in a test run: what there is, and how a test leaves none."""

from pathlib import Path

from django.conf import settings

STORE = Path(settings.FILES_STORAGE_OPTIONS["location"])
UPLOADS = Path(settings.FILE_UPLOAD_TEMP_DIR)


def list_stored() -> list[str]:
    """Names of all contents."""
    return sorted(path.name for path in STORE.glob("*"))


def clear_storage() -> None:
    """Remove every content. Nothing may be left where files arrive."""
    for path in STORE.glob("*"):
        path.unlink()
    assert not list(UPLOADS.iterdir())
