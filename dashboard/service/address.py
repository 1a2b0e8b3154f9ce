"""Where people find this server: what links that leave it begin with."""

from __future__ import annotations

import re
from pathlib import Path

import streamlit as st
from streamlit import config
from streamlit.web.server.starlette.starlette_websocket import is_host_allowed

from aa_core.access import read_access
from dashboard.reach import access_file


def origin() -> str:
    """Such as "http://localhost:8600": as the page was opened, if that is one of our names.

    The browser says how. Where it says nothing that can be believed the operator's file does, or the port.
    """
    told = re.fullmatch(r"(https?://([\w.:\[\]-]+))(?:/.*)?", st.context.url or "", re.ASCII)
    if told and is_host_allowed(told[2]):
        return told[1]
    if (file := access_file()) is not None:
        return read_access(Path(file)).origin
    return f"http://localhost:{config.get_option('server.port')}"
