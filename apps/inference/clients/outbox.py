"""What waits to be sent to one replica. Used on one event loop; knows no socket."""

import asyncio
from collections import deque
from collections.abc import Iterator

from gpu_worker.protocol import AudioChunk, ToWorker, Transcribe, encode_message, join_to_worker, split_audio

MAX_BATCH_BYTES = 256 * 1024  # of messages that share a frame: a Ping must not wait behind many large ones


class Outbox:
    """Messages in order, and beside them uploads, a piece at a time whenever there is nothing else to send."""

    def __init__(self) -> None:
        self._messages: deque[bytes] = deque()
        self._uploads: dict[str, Iterator[AudioChunk | Transcribe]] = {}
        self._filled = asyncio.Event()

    def put(self, message: ToWorker) -> None:
        """Raises ProtocolError when it exceeds a frame."""
        if isinstance(message, Transcribe):
            self._uploads[message.id] = split_audio(message)
        else:
            self._messages.append(encode_message(message))
        self._filled.set()

    def withdraw(self, request_id: str) -> bool:
        """Whether it was an upload that has not been sent to its end, and now never will be."""
        return self._uploads.pop(request_id, None) is not None

    def clear(self) -> None:
        """Forget everything: the connection has ended."""
        self._messages.clear()
        self._uploads.clear()

    async def wait(self) -> None:
        """Until there is something to send."""
        while not self._messages and not self._uploads:
            self._filled.clear()
            await self._filled.wait()
        if not self._messages:
            await asyncio.sleep(0)  # a socket with room takes piece after piece without ever giving way

    def take_frame(self) -> bytes:
        """As much of what waits as one frame should hold: at least one message. To be called after `wait`."""
        if not self._messages:
            return self._take_piece()
        messages = [self._messages.popleft()]
        size = len(messages[0])
        while self._messages and size + len(self._messages[0]) <= MAX_BATCH_BYTES:
            messages.append(self._messages.popleft())
            size += len(messages[-1])
        return join_to_worker(messages)

    def _take_piece(self) -> bytes:
        """Uploads take turns."""
        request_id, pieces = next(iter(self._uploads.items()))
        del self._uploads[request_id]
        piece = next(pieces)
        if isinstance(piece, AudioChunk):
            self._uploads[request_id] = pieces
        return join_to_worker([encode_message(piece)])
