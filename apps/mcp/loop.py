"""Generate, call the tools that the model asks for, generate again: one stream of events over any number of rounds.

Each round is a request of its own to `generate()`, with a line of its own in the ledger. A tool that fails is a result
like any other. Knows no wire format and no transport.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgspec
from django.conf import settings

from apps.core.errors import FailedDependency
from apps.inference.events import Event
from apps.inference.generate import generate
from apps.inference.requests import GenerationRequest
from apps.inference.sampling import find_model_info
from apps.mcp.audit import note_call
from apps.mcp.events import (
    CallEnded,
    ListingBegan,
    ListingEnded,
    OfferedTool,
    RoundEnded,
    ToolEvent,
)
from apps.mcp.plan import OfferedServer, Plan, describe_tool
from apps.mcp.results import CallResult, make_content, make_failure
from apps.mcp.servers import make_function_name
from apps.mcp.session import ServerSession, ToolsUnavailable
from apps.mcp.turn import Call, Turn, add_usage, count_media, make_answer, make_call
from gpu_worker.protocol import Delta, Finished, Started, Usage

LoopEvent = Event | ToolEvent


async def run_loop(request: GenerationRequest, plan: Plan) -> AsyncGenerator[LoopEvent, None]:
    """Everything that comes of the request, in order: events as of one `generate()`, and those of the tools between.

    Raises ServiceError, as `generate()` does. Closing the generator, or cancelling the task that reads it, cancels the
    calls that run, at their servers too.
    """
    loop = _Loop(request, plan)
    try:
        async with aclosing(loop.run()) as events:
            async for event in events:
                yield event
    finally:
        await loop.close()


class _Loop:
    """One answer."""

    def __init__(self, request: GenerationRequest, plan: Plan) -> None:
        self._request = request
        self._plan = plan
        self._sessions = {server.spec.label: ServerSession(server.spec) for server in plan.servers}
        self._tools: dict[str, OfferedTool] = {}  # by the model's name
        self._messages = list(request.messages or [])
        self._usage = Usage()
        self._has_started = False
        self._num_rounds = 0
        self._is_last = False  # of the rounds: no tool is called any more
        self._num_calls = 0
        self._num_pictures = sum(count_media(message) for message in self._messages)
        self._deadline_s = time.monotonic() + settings.MCP_LOOP_TIMEOUT_S

    async def run(self) -> AsyncGenerator[LoopEvent, None]:
        if self._plan.tells_listings:
            self._has_started = True
            yield Started(self._request.id, 0)
        for server in self._plan.servers:
            yield ListingBegan(server.spec.label, server.is_news)
            yield (listed := await self._list(server))
            if listed.error is not None:
                message = f"The tools of the MCP server '{listed.label}' cannot be listed: {listed.error}"
                raise FailedDependency(message, param="tools")
        async with aclosing(self._make_approved_calls()) as approved:
            async for step in approved:
                yield step
        goes_on = True
        while goes_on:
            turn = Turn()
            async with aclosing(self._generate(turn)) as events:
                async for event in events:
                    yield event
            calls = self._find_calls(turn)
            if calls:
                yield RoundEnded()
                async with aclosing(self._call_all(turn, calls)) as ended:
                    async for end in ended:
                        yield end
            goes_on = bool(calls) and len(calls) == len(turn.calls) and self._has_tokens_left()
            if not goes_on:
                is_cut = bool(calls) and not self._has_tokens_left()
                yield turn.make_finish(self._usage, is_cut=is_cut)

    async def close(self) -> None:
        """Hang up on every server."""
        await asyncio.gather(*(session.close() for session in self._sessions.values()))

    async def _generate(self, turn: Turn) -> AsyncGenerator[Event, None]:
        """One round, gathered into `turn`: all events but its end, and but the start of a later one."""
        async with aclosing(generate(self._make_round())) as events:
            async for event in events:
                match event:
                    case Started() if self._has_started:
                        continue
                    case Started():
                        self._has_started = True
                    case Delta():
                        turn.add(event)
                    case Finished():
                        turn.finished = event
                        self._usage = add_usage(self._usage, event.usage)
                        continue
                yield event

    async def _list(self, server: OfferedServer) -> ListingEnded:
        label = server.spec.label
        try:
            tools = server.spec.tools
            if tools is None:
                tools = tuple(await self._sessions[label].list_tools())
        except ToolsUnavailable as error:
            return ListingEnded(label, error=str(error))
        offered = server.offer(tools)
        self._tools |= {tool.function: tool for tool in offered}
        return ListingEnded(label, offered)

    async def _make_approved_calls(self) -> AsyncGenerator[ToolEvent, None]:
        for approved in self._plan.approved:
            yield approved
            name = make_function_name(approved.label, approved.tool)
            result = await self._call(Call(approved.approval_id, name, approved.arguments))
            yield CallEnded(approved.approval_id, result)
            call = make_call(approved.approval_id, name, approved.arguments)
            content = await self._read(result)
            self._messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
            self._messages.append(make_answer(approved.approval_id, content))

    def _make_round(self) -> GenerationRequest:
        """The next request to the model. The first may have to call a tool, the last must not: so the loop ends."""
        self._num_rounds += 1
        own = [describe_tool(tool) for tool in self._tools.values()]
        tools, choice = self._plan.choose([*(self._plan.functions or []), *own] or None)
        is_first = self._num_rounds == 1
        self._is_last = choice == "none" or (not is_first and self._must_end())
        if not is_first:
            choice = "none" if self._is_last else "auto"
        sampling = dict(self._request.sampling)
        if (limit := sampling.get("max_tokens")) is not None:
            sampling["max_tokens"] = limit - self._usage.completion_tokens
            if sampling.get("min_tokens", 0) > sampling["max_tokens"]:
                sampling["min_tokens"] = sampling["max_tokens"]
        return msgspec.structs.replace(
            self._request,
            id=self._request.id if is_first else f"{self._request.id}.{self._num_rounds}",
            messages=list(self._messages),
            tools=tools,
            tool_choice=choice if tools else None,
            sampling=sampling,
        )

    def _must_end(self) -> bool:
        is_late = self._num_rounds >= settings.MCP_MAX_ROUNDS or time.monotonic() > self._deadline_s
        return is_late or (self._plan.max_calls is not None and self._num_calls >= self._plan.max_calls)

    def _has_tokens_left(self) -> bool:
        limit = self._request.sampling.get("max_tokens")
        return limit is None or self._usage.completion_tokens < limit

    def _find_calls(self, turn: Turn) -> list[Call]:
        """Those of the round's calls that are to be made now."""
        if self._is_last or turn.reason not in ("tool_calls", "stop"):
            return []  # where it was cut, the last call may lack its end
        known = [call for call in turn.calls if call.name in self._tools]
        if len(known) < len(turn.calls) and not self._plan.calls_beside_functions:
            return []
        return [call for call in known if not self._tools[call.name].needs_approval]

    async def _call_all(self, turn: Turn, calls: Sequence[Call]) -> AsyncGenerator[CallEnded, None]:
        """At the same time; told as they end, and remembered in the order in which the model asked."""
        tasks = {asyncio.create_task(self._call_within_limit(call)): call for call in calls}
        results: dict[str, CallResult] = {}
        try:
            pending = set(tasks)
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in sorted(done, key=list(tasks).index):
                    call = tasks[task]
                    results[call.id] = task.result()
                    yield CallEnded(call.id, results[call.id])
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        contents = {call.id: await self._read(results[call.id]) for call in calls}
        self._messages += turn.make_messages(contents)

    async def _call_within_limit(self, call: Call) -> CallResult:
        self._num_calls += 1
        if self._plan.max_calls is not None and self._num_calls > self._plan.max_calls:
            return make_failure(f"Not called: an answer may make {self._plan.max_calls} calls.")
        return await self._call(call)

    async def _call(self, call: Call) -> CallResult:
        tool = self._tools.get(call.name)
        if tool is None:
            return make_failure("There is no such tool any more.")
        try:
            arguments = msgspec.json.decode(call.arguments or "{}", type=dict)
        except msgspec.MsgspecError:
            return make_failure("The arguments are not a JSON object.")
        session = self._sessions[tool.label]
        with note_call(session.spec, tool.spec.name, self._request.caller, self._request.id) as note:
            return note.take(await session.call(tool.spec.name, arguments))

    async def _read(self, result: CallResult) -> str | list[dict[str, object]]:
        """As the model gets it: with pictures where it can see them, and there is room for them."""
        info = await find_model_info(self._request)
        left = settings.MAX_IMAGES - self._num_pictures if info is not None and info.supports_images else 0
        content = make_content(result, max_pictures=left)
        if isinstance(content, list):
            self._num_pictures += len(content) - 1
        return content
