"""Files: stored, read by their owner, deleted, swept away when they expire. Blocking.

The only way to a stored file. It belongs to a person in a team: to everybody else it does not exist. A file's content
is in the storage "files" of the settings before its row is made, and goes after its row: what a crash leaves between
the two is an orphan, which the sweep removes.
"""

import contextlib
import re
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.files.base import File
from django.core.files.storage import Storage, storages
from django.db.models import Q, QuerySet, Sum
from django.utils import timezone

from apps.accounts.caller import Caller
from apps.core.errors import Conflict, NotFound, PayloadTooLarge
from apps.core.ids import new_file_id
from apps.files.models import Purpose, StoredFile

MAX_NAME_LENGTH = 255
MIN_EXPIRY_S, MAX_EXPIRY_S = 3600, 30 * 24 * 3600  # OpenAI's
ORPHAN_AFTER_S = 24 * 3600.0  # a content without a row may belong to an upload that still runs
_ID = re.compile(r"file-[0-9a-f]{24}")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f/\\]+")


def get_storage() -> Storage:
    """Where contents are."""
    return storages["files"]


def check_room(team_id: int) -> None:
    """Raises PayloadTooLarge where the team's files take up what they may."""
    if not settings.MAX_TEAM_FILES_BYTES:
        return
    used = StoredFile.objects.filter(team_id=team_id).aggregate(sum=Sum("num_bytes"))["sum"] or 0
    if used >= settings.MAX_TEAM_FILES_BYTES:
        message = f"The files of your team take up {used} of {settings.MAX_TEAM_FILES_BYTES} bytes. Delete some first."
        raise PayloadTooLarge(message, param="file")


def store_content(content: File) -> str:
    """Write it into the storage and return its name there. May take as long as the content is large."""
    return get_storage().save(new_file_id(), content)


def discard_content(storage_name: str) -> None:
    """Remove a content; one that is gone already is no error."""
    get_storage().delete(storage_name)


def create_file(  # noqa: PLR0913 - the columns
    *,
    user_id: int,
    team_id: int,
    filename: str,
    purpose: Purpose,
    num_bytes: int,
    storage_name: str,
    expires_after_s: int | None = None,
) -> StoredFile:
    """The row of a content that is stored. Batches' files expire also where nobody says when."""
    now = timezone.now()
    if expires_after_s is None and purpose != Purpose.USER_DATA and settings.FILES_RETENTION_DAYS:
        expires_after_s = int(settings.FILES_RETENTION_DAYS * 24 * 3600)
    return StoredFile.objects.create(
        id=new_file_id(),
        user_id=user_id,
        team_id=team_id,
        filename=_clean_name(filename),
        purpose=purpose,
        num_bytes=num_bytes,
        storage_name=storage_name,
        created_at=now,
        expires_at=None if expires_after_s is None else now + timedelta(seconds=expires_after_s),
    )


def list_files(caller: Caller) -> QuerySet[StoredFile]:
    """The caller's own."""
    return StoredFile.objects.filter(_is_alive(), user_id=caller.user_id, team_id=caller.team_id)


def access_file(caller: Caller, file_id: str) -> StoredFile:
    """The caller's own file. Raises NotFound for another's, exactly as for one that does not exist."""
    # A text that cannot be an id, with a NUL for one, does not reach the database.
    file = list_files(caller).filter(pk=file_id).first() if _ID.fullmatch(file_id) else None
    if file is None:
        raise NotFound(f"There is no file with the id '{file_id}'.")
    return file


def open_content(file: StoredFile) -> File:
    """The content, to be read and closed. Raises NotFound where the storage has it no more."""
    try:
        return get_storage().open(file.storage_name, "rb")
    except FileNotFoundError:
        raise NotFound(f"The content of the file '{file.pk}' is gone.") from None


def delete_file(file: StoredFile) -> None:
    """Raises Conflict for one that a batch still reads."""
    if not StoredFile.objects.filter(pk=file.pk, is_held=False).delete()[0]:
        raise Conflict(f"The file '{file.pk}' is in use by a batch that has not ended.")
    discard_content(file.storage_name)


def describe_file(file: StoredFile) -> dict[str, Any]:
    """OpenAI's file object."""
    return {
        "id": file.pk,
        "object": "file",
        "bytes": file.num_bytes,
        "created_at": int(file.created_at.timestamp()),
        "expires_at": int(file.expires_at.timestamp()) if file.expires_at else None,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def sweep() -> None:
    """Delete what has expired, and what crashes left. Safe to run anywhere, any time."""
    for file in StoredFile.objects.exclude(_is_alive()):
        try:
            delete_file(file)
        except Conflict:  # taken by a batch meanwhile
            continue
    _sweep_orphans()
    for path in Path(settings.FILE_UPLOAD_TEMP_DIR).iterdir():
        with contextlib.suppress(FileNotFoundError):  # it arrived meanwhile
            if path.stat().st_mtime < time.time() - ORPHAN_AFTER_S:
                path.unlink()


def _sweep_orphans() -> None:
    storage = get_storage()
    try:
        names = storage.listdir("")[1]
    except FileNotFoundError:  # nothing was ever stored
        return
    known = set(StoredFile.objects.values_list("storage_name", flat=True))
    cutoff = timezone.now() - timedelta(seconds=ORPHAN_AFTER_S)
    for name in names:
        if _ID.match(name) and name not in known and storage.get_modified_time(name) < cutoff:
            storage.delete(name)


def _is_alive() -> Q:
    return Q(expires_at=None) | Q(expires_at__gt=timezone.now()) | Q(is_held=True)


def _clean_name(given: str) -> str:
    return _UNPRINTABLE.sub("_", given)[:MAX_NAME_LENGTH] or "file"
