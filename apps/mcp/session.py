"""One server of tools during one answer: connected when it is first needed, and left at the answer's end.

Never shared: what a server remembers of one caller is not another's. Failures become results; nothing is raised but
`ToolsUnavailable`, and the cancellation of who waits, which reaches the server.
"""

import asyncio
import importlib
import logging
from contextlib import suppress
from typing import Any

from django.conf import settings

from apps.mcp.models import CallStatus
from apps.mcp.results import CallResult, make_failure, make_result
from apps.mcp.servers import ServerSpec, ToolSpec

CLOSE_TIMEOUT_S = 5.0

logger = logging.getLogger(__name__)


class ToolsUnavailable(Exception):
    """The server does not say which tools it has; the message may be shown."""


class ServerSession:
    """To be used on one event loop, by any of its tasks, and closed."""

    def __init__(self, spec: ServerSpec) -> None:
        self.spec = spec
        self._sdk: Any = None  # apps.mcp.connection
        self._client: asyncio.Future[Any] | None = None
        self._refusals: list[str] = []  # what its connection would not do, or not read
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def list_tools(self) -> list[ToolSpec]:
        """What the server offers. Raises ToolsUnavailable."""
        try:
            async with asyncio.timeout(self.spec.timeout_s):
                client = await self._connect()
                tools: list[ToolSpec] = await self._sdk.list_tools(client)
                return tools
        except TimeoutError:
            raise ToolsUnavailable("The server did not answer in time.") from None
        except Exception as error:  # a server that is not ours may break in any way
            raise ToolsUnavailable(self._describe(error)) from error

    async def call(self, tool: str, arguments: dict[str, Any]) -> CallResult:
        """The end of the call, however it ended."""
        try:
            async with asyncio.timeout(self.spec.timeout_s):
                client = await self._connect()
                result = await self._sdk.call_tool(client, tool, arguments)
            return make_result(
                result.get("content") or [],
                result.get("structuredContent"),
                is_error=bool(result.get("isError")),
                max_chars=settings.MCP_MAX_RESULT_CHARS,
            )
        except TimeoutError:
            message = f"The tool did not answer within {self.spec.timeout_s:g} seconds."
            return make_failure(message, CallStatus.TIMEOUT)
        except Exception as error:  # as above
            logger.debug("MCP server %s, tool %s", self.spec.label, tool, exc_info=True)
            code = getattr(error, "code", 0)
            return make_failure(self._describe(error), code=code if isinstance(code, int) else 0)

    async def close(self) -> None:
        """Hang up."""
        self._closing.set()
        if self._task is not None and self._client is not None:
            if not self._client.done():
                self._task.cancel()  # it would go on connecting
            _, pending = await asyncio.wait([self._task], timeout=CLOSE_TIMEOUT_S)
            for task in pending:
                task.cancel()
            if pending:
                await asyncio.wait(pending, timeout=CLOSE_TIMEOUT_S)

    async def _connect(self) -> Any:
        if self._sdk is None:
            self._sdk = await asyncio.to_thread(importlib.import_module, "apps.mcp.connection")
        if self._client is None:
            self._client = asyncio.get_running_loop().create_future()
            self._task = asyncio.create_task(self._stay_connected(self._client), name=f"mcp {self.spec.label}")
        return await asyncio.shield(self._client)  # one waiter's end is not the others'

    async def _stay_connected(self, ready: asyncio.Future[Any]) -> None:
        """The SDK's contexts want to be entered and left by one task. That of a call would be the wrong one."""
        try:
            async with self._sdk.connect(self.spec, self._refusals) as client:
                ready.set_result(client)
                await self._closing.wait()
        except Exception as error:  # as above; after the start those who wait for results are told by the SDK
            if not ready.done():
                ready.set_exception(error)
            logger.debug("MCP server %s", self.spec.label, exc_info=True)
        finally:
            if not ready.done():
                ready.cancel()
            with suppress(BaseException):
                ready.exception()  # retrieved, also where nobody waits any more

    def _describe(self, error: BaseException) -> str:
        if self._refusals:
            return self._refusals[0]
        text: str = self._sdk.describe_failure(error) if self._sdk is not None else "The server cannot be reached."
        return text
