"""Who can reach this server: this machine only, or people who sign in. Else it does not start."""

from __future__ import annotations

import ipaddress
import os

from streamlit import config


def access_file() -> str | None:
    """The operator's file that says who may sign in; None where only this machine's own user comes."""
    return os.environ.get("AA_ACCESS") or None


def is_local() -> bool:
    """Does the server listen on this machine's own address only? Streamlit's default is every address."""
    address = config.get_option("server.address") or "0.0.0.0"
    try:
        return address == "localhost" or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def require_local_or_access() -> None:
    """SystemExit, before anything is served, if strangers could come in."""
    if not (is_local() or access_file()):
        raise SystemExit(
            f"refused: server.address is {config.get_option('server.address') or 'every address'}, and nobody would "
            "have to sign in. Start it with: aa dashboard --address ADDRESS --access FILE.toml (docs/server.md)"
        )
