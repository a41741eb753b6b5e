"""POST /v1/files: a form with a file, written to disk as it arrives and then moved into the storage.

Nothing of the file is held in memory but the piece that is being written. Who has no key, and a file that is too
large, are refused before more of the body is read.
"""

import asyncio
from typing import NamedTuple

from django.conf import settings
from django.core.files.uploadedfile import TemporaryUploadedFile

from apps.core.db import run_db
from apps.core.errors import InvalidRequest, PayloadTooLarge, UnsupportedParameter
from apps.core.http import encode_json
from apps.core.middleware import Receive, Scope
from apps.files.models import Purpose, StoredFile
from apps.files.services import (
    MAX_EXPIRY_S,
    MIN_EXPIRY_S,
    check_room,
    create_file,
    describe_file,
    discard_content,
    store_content,
)
from apps.openai_api.consumers import GenerationConsumer
from apps.openai_api.multipart import Form, FormReader, read_form

_FORM_BYTES = 64 * 1024  # what a form may hold beside its file
_PURPOSES = (Purpose.BATCH, Purpose.USER_DATA)
_ELSEWHERE = ("assistants", "evals", "fine-tune", "vision")  # OpenAI's, for services that are not offered here
_FIELDS = ("purpose", "expires_after[anchor]", "expires_after[seconds]")
HONOURED = frozenset(name.partition("[")[0] for name in ("file", *_FIELDS))


class Upload(NamedTuple):
    """What arrived: the fields, and the file on disk, to be closed."""

    form: Form
    file: TemporaryUploadedFile
    filename: str


class FileUploadConsumer(GenerationConsumer):
    """POST /v1/files"""

    async def read(self, receive: Receive) -> Upload:
        """Raises ServiceError."""
        await run_db(check_room, self.caller.team_id)
        reader = _DiskReader(self.scope)
        try:
            form = await read_form(self.scope, receive, settings.MAX_FILE_BYTES + _FORM_BYTES, reader)
            if reader.file is None:
                raise InvalidRequest("'file' is required.", param="file")
            return Upload(form, reader.file, reader.filename)
        except BaseException:
            reader.close()
            raise

    async def respond(self, body: Upload) -> None:
        """Raises ServiceError."""
        file = body.file
        try:
            purpose, expires_after_s = _read_fields(body.form.fields)
            if not file.size:
                raise InvalidRequest("The file is empty.", param="file")
            storage_name = await asyncio.to_thread(store_content, file)
        finally:
            file.close()
        stored = await self._create(storage_name, body, purpose, expires_after_s)
        await self.send_json(encode_json(describe_file(stored)))

    async def _create(
        self, storage_name: str, upload: Upload, purpose: Purpose, expires_after_s: int | None
    ) -> StoredFile:
        try:
            return await run_db(
                create_file,
                user_id=self.caller.user_id,
                team_id=self.caller.team_id,
                filename=upload.filename,
                purpose=purpose,
                num_bytes=upload.file.size or 0,
                storage_name=storage_name,
                expires_after_s=expires_after_s,
            )
        except Exception:
            await asyncio.to_thread(discard_content, storage_name)
            raise


class _DiskReader(FormReader):
    """Writes the part "file" to disk, in a thread: its callbacks run there."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope)
        self.file: TemporaryUploadedFile | None = None
        self.filename = ""

    async def take(self, data: bytes) -> None:
        """The next piece of the body. Raises ServiceError."""
        await asyncio.to_thread(self.write, data)

    def begin_file(self, name: str, filename: str) -> None:
        """Raises InvalidRequest."""
        if name != "file":
            raise InvalidRequest(f"Unknown parameter: '{name}'.", param=name, code="unknown_parameter")
        if self.file is not None:
            raise InvalidRequest("'file' was sent twice.", param="file")
        self.file, self.filename = TemporaryUploadedFile("upload", "application/octet-stream", 0, None), filename

    def add_to_file(self, data: bytes) -> None:
        """Raises PayloadTooLarge."""
        if self.file is None:
            return
        self.file.size = (self.file.size or 0) + len(data)
        if self.file.size > settings.MAX_FILE_BYTES:
            raise PayloadTooLarge(f"The file is larger than {settings.MAX_FILE_BYTES} bytes.", param="file")
        self.file.write(data)

    def end_file(self) -> bytes:
        """It is on disk."""
        if self.file is not None:
            self.file.flush()
            self.file.seek(0)
        return b""

    def close(self) -> None:
        """Remove what was written."""
        if self.file is not None:
            self.file.close()


def _read_fields(fields: dict[str, list[str]]) -> tuple[Purpose, int | None]:
    for name, values in fields.items():
        if name not in _FIELDS:
            raise InvalidRequest(f"Unknown parameter: '{name}'.", param=name, code="unknown_parameter")
        if len(values) > 1:
            raise InvalidRequest(f"'{name}' was sent twice.", param=name)
    given = {name: values[0] for name, values in fields.items()}
    return _read_purpose(given.get("purpose", "")), _read_expiry(given)


def _read_purpose(given: str) -> Purpose:
    allowed = " or ".join(_PURPOSES)
    if given in _ELSEWHERE:
        message = f"'purpose': this server has no use for files for '{given}'. Send {allowed}."
        raise UnsupportedParameter(message, param="purpose")
    if given not in _PURPOSES:
        raise InvalidRequest(f"'purpose' must be {allowed}.", param="purpose")
    return Purpose(given)


def _read_expiry(given: dict[str, str]) -> int | None:
    anchor, seconds = given.get("expires_after[anchor]"), given.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise InvalidRequest("'expires_after[anchor]' must be created_at.", param="expires_after[anchor]")
    digits = seconds or ""
    if not (digits.isascii() and digits.isdigit() and len(digits) < 8 and MIN_EXPIRY_S <= int(digits) <= MAX_EXPIRY_S):
        message = f"'expires_after[seconds]' must be a number from {MIN_EXPIRY_S} to {MAX_EXPIRY_S}."
        raise InvalidRequest(message, param="expires_after[seconds]")
    return int(digits)
