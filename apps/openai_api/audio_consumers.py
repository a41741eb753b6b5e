"""The endpoints that take a recording: parse the form, transcribe, encode."""

from contextlib import aclosing

from django.conf import settings

from apps.core.http import SSE_DONE
from apps.core.middleware import Receive
from apps.inference.events import Waiting
from apps.inference.generate import generate
from apps.openai_api.consumers import GenerationConsumer
from apps.openai_api.encoders.transcriptions import CONTENT_TYPES, TranscriptionFold, TranscriptionStreamEncoder
from apps.openai_api.multipart import Form, read_form
from apps.openai_api.schemas.transcriptions import TranscriptionCall, parse_transcription
from gpu_worker.protocol import Delta, Finished, Started, TranscriptionTask

_FORM_BYTES = 256 * 1024  # what a form may hold beside its file


class TranscriptionsConsumer(GenerationConsumer):
    """POST /v1/audio/transcriptions"""

    task: TranscriptionTask = "transcribe"

    async def read(self, receive: Receive) -> Form:
        """Raises ServiceError."""
        return await read_form(self.scope, receive, settings.MAX_AUDIO_BYTES + _FORM_BYTES)

    async def respond(self, body: Form) -> None:
        """Raises ServiceError."""
        call = parse_transcription(body, self.caller, self.task)
        await (self.run_stream(self._stream(call)) if call.request.stream else self._answer(call))

    async def _answer(self, call: TranscriptionCall) -> None:
        fold = TranscriptionFold(call)
        async with aclosing(generate(call.request)) as events:
            async for event in events:
                if isinstance(event, Delta):
                    fold.add_delta(event)
        await self.send_body(fold.encode(), (b"content-type", CONTENT_TYPES[call.response_format]))

    async def _stream(self, call: TranscriptionCall) -> None:
        encoder = TranscriptionStreamEncoder(call)
        done = b""
        async with aclosing(generate(call.request)) as events:
            async for event in events:
                match event:
                    case Delta():
                        if chunk := encoder.encode_delta(event):
                            await self.write_sse(chunk)
                    case Finished():
                        done = encoder.encode_finish(event)
                    case Started():
                        await self.start_sse()
                    case Waiting():
                        await self.write_waiting(event)
        await self.finish_sse(done + SSE_DONE)


class TranslationsConsumer(TranscriptionsConsumer):
    """POST /v1/audio/translations: into English."""

    task: TranscriptionTask = "translate"
