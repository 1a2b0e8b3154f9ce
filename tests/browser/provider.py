"""A small OpenID Connect provider on loopback: discovery, authorization code with PKCE, signed tokens, keys.

It asks for no password: its page lists the people, and whoever is clicked is signed in.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import RSAKey

CLIENT, SECRET = "the-dashboard", "the dashboard's own secret"
People = dict[str, dict[str, Any]]


class Provider(ThreadingHTTPServer):
    """People by the names on its page, each with the claims of their token."""

    daemon_threads = True

    def __init__(self, people: People) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.people = people
        self.key = RSAKey.generate_key(2048, {"kid": "only", "use": "sig", "alg": "RS256"})
        self.asked: dict[str, dict[str, str]] = {}
        """{code: what the dashboard asked, and who was clicked}; each code is good for one token."""

    @property
    def issuer(self) -> str:
        return f"http://localhost:{self.server_port}"

    def token(self, asked: dict[str, str]) -> str:
        now = int(time.time())
        claims = {"iss": self.issuer, "aud": CLIENT, "iat": now, "exp": now + 600, "nonce": asked["nonce"]}
        return jwt.encode({"alg": "RS256", "kid": "only"}, claims | self.people[asked["who"]], self.key)


class _Handler(BaseHTTPRequestHandler):
    server: Provider

    def do_GET(self) -> None:
        path, asked = urlsplit(self.path).path, dict(parse_qsl(urlsplit(self.path).query))
        match path:
            case "/.well-known/openid-configuration":
                self._json(_discovery(self.server.issuer))
            case "/keys":
                self._json({"keys": [self.server.key.as_dict(private=False)]})
            case "/authorize" if asked["client_id"] == CLIENT and asked["code_challenge_method"] == "S256":
                self._choice(asked)
            case "/chosen":
                code = secrets.token_urlsafe()
                self.server.asked[code] = asked
                self._go(f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state']})}")
            case _:
                self.send_error(404)

    def do_POST(self) -> None:
        sent = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        asked = self.server.asked.pop(sent["code"][0], None)
        verifier = hashlib.sha256(sent["code_verifier"][0].encode()).digest()
        challenge = base64.urlsafe_b64encode(verifier).rstrip(b"=").decode()
        client = base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
        known = self.headers["Authorization"] == f"Basic {client}"
        if not (known and asked and asked["code_challenge"] == challenge):
            self.send_error(400)
        else:
            self._json({"access_token": "unused", "token_type": "Bearer", "id_token": self.server.token(asked)})

    def _choice(self, asked: dict[str, str]) -> None:
        links = "".join(
            f'<p><a href="/chosen?{html.escape(urlencode(asked | {"who": name}))}">{name}</a></p>'
            for name in self.server.people
        )
        self._say("text/html", f"<title>Who are you?</title>{links}".encode())

    def _go(self, address: str) -> None:
        self.send_response(302)
        self.send_header("Location", address)
        self.end_headers()

    def _json(self, value: Any) -> None:
        self._say("application/json", json.dumps(value).encode())

    def _say(self, kind: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def _discovery(issuer: str) -> dict[str, Any]:
    return {
        "issuer": issuer,
        "authorization_endpoint": f"{issuer}/authorize",
        "token_endpoint": f"{issuer}/token",
        "jwks_uri": f"{issuer}/keys",
        "response_types_supported": ["code"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "code_challenge_methods_supported": ["S256"],
    }


@contextmanager
def provider(people: People) -> Iterator[Provider]:
    """A provider that runs in a thread of this process."""
    with Provider(people) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
