"""The ASGI application: generating paths and the chat's socket go to Channels consumers, the rest to Django.

Served by uvicorn, by `daphne project.asgi:application`, and by runserver.
"""

import asyncio
import gc
import os
from typing import Any, cast

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
django_application = get_asgi_application()  # loads the apps: everything below imports models

# ruff: noqa: E402
from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from django.urls import re_path

from apps.anthropic_api.urls import consumers as anthropic_consumers
from apps.chat.routing import websocket_urlpatterns
from apps.core.db import close_db_connections
from apps.core.middleware import ASGIApp, HttpMiddleware, Receive, Scope, Send
from apps.core.websocket_origin import SameOriginMiddleware
from apps.inference import generate, runs
from apps.openai_api.urls import find_consumer, sockets


async def refuse_websocket(scope: Scope, receive: Receive, send: Send) -> None:
    """Closes a socket whose path nothing serves; without it the router raises and the server logs a traceback."""
    await receive()
    await send({"type": "websocket.close", "code": 4404})


async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    """Nothing is started ahead of its first use; links, ledger and connections are closed at the end."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            gc.collect()
            gc.set_threshold(20_000, 20, 50)  # the default looks at young objects a few times a request
            gc.freeze()  # what is loaded now stays: the collector need not look at it with every few requests
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await runs.shutdown()
            await generate.shutdown()
            await asyncio.to_thread(close_db_connections)
            return await send({"type": "lifespan.shutdown.complete"})


# Django's and Channels' types know only their own kinds of scope and of view.
django = cast(ASGIApp, django_application)


async def http(scope: Scope, receive: Receive, send: Send) -> None:
    """Generating paths are few and hot: one look-up instead of a pattern after the other."""
    path = scope["path"].removeprefix(scope.get("root_path", "")).lstrip("/")
    await (anthropic_consumers.get(path) or find_consumer(path, scope) or django)(scope, receive, send)


page_sockets = SameOriginMiddleware(
    AuthMiddlewareStack(URLRouter([*websocket_urlpatterns, re_path(r"", cast(Any, refuse_websocket))]))
)


async def websocket(scope: Scope, receive: Receive, send: Send) -> None:
    """Sockets of the API take keys, from anywhere; those of our pages take cookies, from our pages alone."""
    path = scope["path"].removeprefix(scope.get("root_path", "")).lstrip("/")
    await (sockets.get(path) or page_sockets)(scope, receive, send)


application = ProtocolTypeRouter(
    {
        "http": HttpMiddleware(http),
        "websocket": websocket,
        "lifespan": lifespan,
    }
)
