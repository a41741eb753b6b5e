"""The embedded mode's broker: kombu's file-system transport, with messages that appear whole."""

import os
from pathlib import Path
from time import monotonic_ns
from typing import Any
from uuid import uuid4

from kombu.exceptions import ChannelError
from kombu.transport import filesystem
from kombu.utils.json import dumps


class Channel(filesystem.Channel):
    """kombu opens a message's file under its final name and writes it after that: a reader that polls in between
    takes an empty message, and its worker dies of it. Here the file is written first and named afterwards."""

    def _put(self, queue: str, payload: Any, **kwargs: Any) -> None:
        folder = Path(self.data_folder_out)
        stem = f"{monotonic_ns() // 1_000_000}_{uuid4()}"
        draft = folder / f"{stem}.draft"  # not a name that a reader of any queue looks for
        try:
            draft.write_text(dumps(payload))
            os.replace(draft, folder / f"{stem}.{queue}.msg")
        except OSError as error:
            raise ChannelError(f"cannot write a message into {folder}") from error


class Transport(filesystem.Transport):
    """Named in settings as CELERY_BROKER_TRANSPORT."""

    Channel = Channel
