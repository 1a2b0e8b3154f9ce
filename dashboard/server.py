"""The dashboard as a server: `streamlit run dashboard/server.py`, or `aa dashboard`. Every answer passes the guard."""

from __future__ import annotations

import base64
import hashlib
import re
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from http.cookies import SimpleCookie
from importlib import import_module
from pathlib import Path
from urllib.parse import quote, unquote

import streamlit as st
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit import delta_generator
from streamlit.web.server.starlette.starlette_websocket import is_host_allowed

HERE = Path(__file__).resolve().parent
if str(HERE.parent) not in sys.path:  # Streamlit puts this file's folder there, not the project's
    sys.path.insert(0, str(HERE.parent))

from dashboard import opening  # noqa: E402
from dashboard.reach import access_file, require_local_or_access  # noqa: E402

STATIC = Path(st.__file__).parent / "static"


def _inline_scripts() -> str:
    """Streamlit's page has a script of its own in it: allowed by its digest, and no other."""
    page = (STATIC / "index.html").read_text()
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts)
    return "".join(f" 'sha256-{digest}'" for digest in digests)


POLICY = "; ".join(
    (
        "default-src 'self'",
        f"script-src 'self' blob:{_inline_scripts()}",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    b"content-security-policy": POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"permissions-policy": b"camera=(), geolocation=(), microphone=()",
}


Headers = list[tuple[bytes, bytes]]
SOON = b", ".join(
    f"</static/js/{path.name}>; rel=modulepreload; fetchpriority=low".encode()
    for path in STATIC.glob("static/js/PlotlyChart.*.js")
)
"""The script that draws charts: the browser loads it while the engine is imported, not when the first chart arrives."""


LINK, CALLBACK = "aa_link", "/oauth2callback"
"""The cookie with the page that was asked for; where the identity provider sends people back to."""
OURS = re.compile(r"/[a-z-]*(\?[!-\[\]-~]*)?")
"""A page of ours with its query; no other host can be meant by it."""
LONGEST, MINUTES_10 = 2_000, 600


class Guard:
    """Refuses hosts that are not ours, as against DNS rebinding, and sets the headers of every answer.

    Streamlit looks at the host of its websocket only. Where people sign in, it sends them to the front page afterwards:
    here they get to the page that they had asked for.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                ours = [(n, v) for n, v in message["headers"] if n.lower() not in (*HEADERS, b"server")]
                page = any(n == b"content-type" and v.startswith(b"text/html") for n, v in ours)
                if access_file() is not None:
                    ours = _kept(scope, ours) if page else _back(scope, ours)
                message = {**message, "headers": [*ours, *HEADERS.items(), *([(b"link", SOON)] if page else [])]}
            await send(message)

        if scope["type"] == "http" and not is_host_allowed(_host(scope)):
            await _refuse(guarded)
        else:
            await self._app(scope, receive, guarded)


def _kept(scope: Scope, headers: Headers) -> Headers:
    """The headers of a page, which have the browser remember its link."""
    query = scope["query_string"].decode("latin-1")
    link = f"{scope['path']}?{query}" if query else scope["path"]
    if len(link) > LONGEST or not OURS.fullmatch(link):
        return headers
    cookie = f"{LINK}={quote(link, safe='')}; Path=/; Max-Age={MINUTES_10}; HttpOnly; SameSite=Lax"
    return [*headers, (b"set-cookie", cookie.encode())]


def _back(scope: Scope, headers: Headers) -> Headers:
    """The headers of an answer; of the one that ends a sign-in, to the remembered link."""
    cookies = SimpleCookie(_header(scope, b"cookie"))
    link = unquote(cookies[LINK].value) if LINK in cookies else ""
    if scope.get("path") != CALLBACK or not OURS.fullmatch(link):
        return headers
    return [(n, link.encode() if n == b"location" else v) for n, v in headers]


def _host(scope: Scope) -> str | None:
    return _header(scope, b"host")


def _header(scope: Scope, wanted: bytes) -> str | None:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == wanted), None)


async def _refuse(send: Send) -> None:
    await send({"type": "http.response.start", "status": 421, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"This server does not answer to this name.\n"})


@asynccontextmanager
async def warmed(_: st.App) -> AsyncIterator[None]:
    """The engine is imported while the first browser is still loading the page; torch alone takes a second.

    At a process's first element Streamlit looks through the paths of all modules, for a warning to those who do not use
    `streamlit run`: a second while others are imported. Here it need not.
    """
    delta_generator._use_warning_has_been_displayed = True
    threading.Thread(target=_warm, daemon=True).start()
    yield


def _warm() -> None:
    with suppress(ImportError):  # the page imports it again, and says what is missing
        with opening.imports():
            opening.before_the_engine()
            import_module("dashboard.screens")
        import_module("dashboard.service").acts.resume()


require_local_or_access()
app = st.App(HERE / "app.py", middleware=[Middleware(Guard)], lifespan=warmed)
