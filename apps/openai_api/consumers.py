"""The generating endpoints: parse, generate, encode. Everything they do is in schemas, inference and encoders."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from apps.accounts.auth import authenticate, find_secret
from apps.accounts.caller import Caller
from apps.core.errors import ServiceError
from apps.core.http import SSE_DONE, encode_json, encode_sse, encode_sse_comment
from apps.core.middleware import get_header
from apps.inference.events import Waiting
from apps.inference.generate import load
from apps.openai_api import chat_runs
from apps.openai_api.answers import answer_chat, answer_completion
from apps.openai_api.encoders.chat import ChatStreamEncoder
from apps.openai_api.encoders.completions import CompletionStreamEncoder
from apps.openai_api.encoders.parts import describe_waiting
from apps.openai_api.event_streams import follow, read_event_id
from apps.openai_api.http_consumer import HttpConsumer
from apps.openai_api.mcp_chats import generate_chat
from apps.openai_api.merge import generate_all
from apps.openai_api.schemas.chat import ChatCall, parse_chat
from apps.openai_api.schemas.completions import CompletionCall, parse_completion
from apps.openai_api.schemas.load import parse_load
from apps.quotas.refusals import collect_headers
from gpu_worker.protocol import Delta, Finished, Started


class GenerationConsumer(HttpConsumer):
    """What chat and text completions have in common."""

    caller: Caller

    async def check_access(self) -> None:
        """Every generation belongs to somebody, and tells of the limits that it counts for."""
        self.caller = await authenticate(self.scope["headers"])
        self.extra_headers = collect_headers()

    async def write_waiting(self, waiting: Waiting) -> None:
        """Headers at once, and a comment that says what is waited for."""
        await self.start_sse()
        await self.write_sse(encode_sse_comment(describe_waiting(waiting)))

    async def write_events(self, events: AsyncGenerator[bytes | Waiting, None], end: bytes) -> None:
        """The whole stream: events that somebody else encodes, what is waited for before them, and its end."""
        async for event in events:
            if isinstance(event, Waiting):
                await self.write_waiting(event)
            elif event:
                await self.start_sse()
                await self.write_sse(event)
        await self.finish_sse(end)


class ChatCompletionsConsumer(GenerationConsumer):
    """POST /v1/chat/completions"""

    async def respond(self, body: bytes) -> None:
        """Raises ServiceError."""
        if last_event_id := get_header(self.scope, b"last-event-id"):
            return await self.send_pieces(follow(self.caller, *read_event_id(last_event_id)))
        call = parse_chat(body, self.caller)
        if not call.request.stream:
            return await self.send_json(await answer_chat(call))
        if call.is_resumable:
            return await self.send_pieces(follow(self.caller, await chat_runs.start(call)))
        with call.naming():
            await self.run_stream(self._stream(call))

    async def _stream(self, call: ChatCall) -> None:
        encoder = ChatStreamEncoder(call.request, include_usage=call.include_usage, customs=call.customs)
        held = b""  # goes out with the next chunk: the role with the first text, the finish with [DONE]
        async with aclosing(generate_chat(call)) as events:
            async for event in events:
                match event:
                    case Delta():
                        if chunk := encoder.encode_delta(event):
                            await self.write_sse(held + chunk if held else chunk)
                            held = b""
                    case Finished():
                        held += encoder.encode_finish(event)
                    case Started():
                        await self.start_sse()
                        held = encoder.encode_start()
                    case Waiting():
                        await self.write_waiting(event)
        await self.finish_sse(held + SSE_DONE)


class CompletionsConsumer(GenerationConsumer):
    """POST /v1/completions"""

    async def respond(self, body: bytes) -> None:
        """Raises ServiceError."""
        call = parse_completion(body, self.caller)
        if not call.requests[0].stream:
            return await self.send_json(await answer_completion(call))
        await self.run_stream(self._stream(call))

    async def _stream(self, call: CompletionCall) -> None:
        encoder = CompletionStreamEncoder(call)
        held = b""
        async with aclosing(generate_all(call.requests)) as events:
            async for position, event in events:
                match event:
                    case Delta():
                        if chunk := encoder.encode_delta(position, event):
                            await self.write_sse(held + chunk if held else chunk)
                            held = b""
                    case Finished():
                        held += encoder.encode_finish(position, event)
                    case Started():
                        await self.start_sse()
                    case Waiting():
                        await self.write_waiting(event)
        await self.finish_sse(held + SSE_DONE)


class LoadModelConsumer(HttpConsumer):
    """POST /load_model: have a model loaded and watch it, in the events that `transformers chat` reads.

    That client sends no key here (but does send it with its chats): without one it gets a stream that says so and
    tells nothing of models, which it takes for "go on"; its first chat then loads the model.
    """

    async def check_access(self) -> None:
        """No key is not an error here, a wrong one is."""
        self.caller = await authenticate(self.scope["headers"]) if find_secret(self.scope["headers"]) else None

    async def respond(self, body: bytes) -> None:
        """Raises ServiceError before the first event."""
        model = parse_load(body)
        if self.caller is None:
            await self.start_sse()
            message = "No API key came with this request: the first request that brings one loads the model."
            return await self.finish_sse(_encode_status("skipped", model, message=message))
        cached = True  # nothing had to be waited for
        try:
            async with aclosing(load(model, self.caller)) as events:
                async for waiting in events:
                    cached = False
                    await self.start_sse()
                    await self.write_sse(_encode_loading(model, waiting))
        except ServiceError as error:
            if cached:
                raise
            return await self.finish_sse(_encode_status("error", model, message=error.message))
        await self.start_sse()
        await self.finish_sse(_encode_status("ready", model, cached=cached))


def _encode_loading(model: str, waiting: Waiting) -> bytes:
    if waiting.progress is None:
        return _encode_status("loading", model, stage="weights")
    progress = {"current": round(waiting.progress * 100), "total": 100}
    return _encode_status("loading", model, stage="weights", progress=progress)


def _encode_status(status: str, model: str, **more: Any) -> bytes:
    return encode_sse(encode_json({"status": status, "model": model, **more}))
