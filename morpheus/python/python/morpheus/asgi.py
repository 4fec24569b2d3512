"""Morpheus for ASGI applications: ``app = morpheus.asgi.Middleware(app)``."""

import os
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from ._asyncio import acheckpoint
from ._native import register

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


ROTATION = 0.002
"""Seconds of a loop's own CPU time after which its tasks change places even when nobody waits for the CPU."""


class Middleware:
    """Registers each thread whose loop runs the application, and passes a checkpoint after each message.

    A handler that computes for long needs checkpoints inside, too: ``await morpheus.acheckpoint()``.
    """

    def __init__(self, app: Application, *, name: str = "asgi", polite: bool = False) -> None:
        self._app = app
        self._name = name
        self._polite = polite
        self._registered = threading.local()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        self._register()

        async def receive_message() -> Message:
            message = await receive()
            await acheckpoint()
            return message

        async def send_message(message: Message) -> None:
            await send(message)
            await acheckpoint()

        await self._app(scope, receive_message, send_message)

    def _register(self) -> None:
        # Servers fork their workers; a child's thread is not the parent's.
        pid = os.getpid()
        if getattr(self._registered, "pid", None) != pid:
            register(self._name, polite=self._polite, rotates_after=ROTATION)
            self._registered.pid = pid
