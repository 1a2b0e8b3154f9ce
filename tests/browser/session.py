"""A browser's part of Streamlit's protocol, without the browser: many sessions on few cores."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple
from urllib.parse import urlencode

import websockets
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

PATIENCE = 60.0
"""Seconds after which a click that was not answered is an error."""
REFUSED = b"This cannot be shown"


class Click(NamedTuple):
    """What was asked for, how long the answer took in seconds, and what was wrong with it."""

    screen: str
    seconds: float
    error: str


class Session:
    """A browser's part of the protocol: each click asks for a screen with a selection, and reads until it is drawn."""

    def __init__(self, socket: websockets.ClientConnection) -> None:
        self._socket, self._screens = socket, {"overview": ""}

    async def click(self, screen: str, **selection: str) -> Click:
        asked = BackMsg()
        asked.rerun_script.query_string = urlencode(selection)
        asked.rerun_script.page_script_hash = self._screens[screen]
        start = time.monotonic()
        try:
            await self._socket.send(asked.SerializeToString())
            error = await asyncio.wait_for(self._drawn(), PATIENCE)
        except (TimeoutError, websockets.ConnectionClosed) as gone:
            error = type(gone).__name__
        return Click(screen, time.monotonic() - start, error)

    async def _drawn(self) -> str:
        """Reads until the script is through; what went wrong on the way, or nothing."""
        error = ""
        while True:
            message = ForwardMsg.FromString(await self._socket.recv())
            kind = message.WhichOneof("type")
            if kind == "navigation":
                self._screens |= {
                    p.url_pathname or "overview": p.page_script_hash for p in message.navigation.app_pages
                }
            elif kind == "delta" and message.delta.new_element.WhichOneof("type") == "exception":
                error = f"exception {message.delta.new_element.exception.type}"
            elif kind == "delta" and REFUSED in message.SerializeToString():
                error = "refused"
            elif kind == "script_finished" and message.script_finished != ForwardMsg.FINISHED_EARLY_FOR_RERUN:
                return error if message.script_finished == ForwardMsg.FINISHED_SUCCESSFULLY else "did not compile"


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[Session]:
    """A session of its own with the dashboard at this address."""
    uri, ours = f"{address.replace('http', 'ws')}/_stcore/stream", websockets.Subprotocol("streamlit")
    async with websockets.connect(uri, subprotocols=[ours], origin=websockets.Origin(address), max_size=None) as socket:
        yield Session(socket)
