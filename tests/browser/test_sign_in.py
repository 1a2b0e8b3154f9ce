"""A dashboard that others can reach: people see what their role allows, everybody else nothing of any run."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import pytest
from playwright.sync_api import Browser, Page, expect

from aa_core.commands.launcher import reach
from tests.browser.conftest import window
from tests.browser.provider import CLIENT, SECRET, People, Provider, provider
from tests.browser.server import dashboard, free_port

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

PEOPLE: People = {
    "Ada": {"sub": "1", "email": "ada@example.org", "email_verified": True},
    "Bob": {"sub": "2", "email": "bob@example.org", "groups": ["staff", "auditors"]},
    "Eve": {"sub": "3", "email": "eve@example.org", "email_verified": True},
    "Not Ada": {"sub": "4", "email": "ada@example.org", "email_verified": False},
}
ROLES = """
[roles]
analyst = ["ada@example.org"]
viewer = ["groups=auditors"]
"""
OF_A_RUN = re.compile(rb"[Dd]igits|rotation|round \d|90\xc2\xb0")


class Site(NamedTuple):
    """A dashboard with its provider."""

    address: str
    access: Path
    workspace: Path
    issuer: str


def access_file(folder: Path, port: int, at: Provider) -> Path:
    path = folder / "access.toml"
    path.write_text(f"""
[auth]
redirect_uri = "http://localhost:{port}/oauth2callback"
cookie_secret = "{"0123456789abcdef" * 4}"
client_id = "{CLIENT}"
client_secret = "{SECRET}"
server_metadata_url = "{at.issuer}/.well-known/openid-configuration"
{ROLES}""")
    return path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder, port = tmp_path_factory.mktemp("dashboard"), free_port()
    workspace = folder / "workspace"
    with provider(PEOPLE) as identities:
        access = access_file(folder, port, identities)
        with dashboard(workspace, folder / "log", at=reach("127.0.0.1", access), port=port) as address:
            yield Site(address, access, workspace, identities.issuer)


class Visitor(NamedTuple):
    """A page, and all that the server told it over its session."""

    page: Page
    heard: list[bytes]

    def sign_in(self, name: str) -> Page:
        self.page.get_by_role("button", name="Sign in").click()
        self.page.get_by_role("link", name=name, exact=True).click()
        return self.page


Visit = Callable[[str], Visitor]


@pytest.fixture
def visit(site: Site, browser: Browser) -> Iterator[Visit]:
    """Opens a path as somebody who has never been here."""
    contexts = []

    def open_page(path: str) -> Visitor:
        context = window(browser)
        contexts.append(context)
        visitor = Visitor(context.new_page(), [])
        visitor.page.on("websocket", lambda w: w.on("framereceived", lambda f: visitor.heard.append(_bytes(f))))
        visitor.page.goto(f"{site.address}/{path}")
        return visitor

    yield open_page
    for context in contexts:
        context.close()


def _bytes(frame: str | bytes) -> bytes:
    return frame.encode() if isinstance(frame, str) else frame


def told_of_a_run(visitor: Visitor) -> list[bytes]:
    return [found.group() for frame in visitor.heard if (found := OF_A_RUN.search(frame))]


@pytest.mark.parametrize("path", ["", "?run=digits-shift", "explore?run=digits-shift&examples=3", "report", "jobs"])
def test_who_has_not_signed_in_is_told_nothing_of_any_run(visit: Visit, path: str) -> None:
    visitor = visit(path)
    expect(visitor.page.get_by_role("button", name="Sign in")).to_be_visible()
    expect(visitor.page.get_by_test_id("stSidebar")).to_have_count(0)
    expect(visitor.page.get_by_role("link", name="Explore")).to_have_count(0)
    assert visitor.heard and told_of_a_run(visitor) == []


@pytest.mark.parametrize("name", ["Eve", "Not Ada"])
def test_who_is_in_no_list_is_told_nothing_of_any_run(visit: Visit, name: str) -> None:
    visitor = visit("?run=digits-shift")
    page = visitor.sign_in(name)
    expect(page.get_by_text("is in no list of this dashboard")).to_be_visible()
    page.goto(f"{page.url.partition('?')[0]}?run=digits-shift")
    expect(page.get_by_text("is in no list of this dashboard")).to_be_visible()
    assert told_of_a_run(visitor) == []
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_text("is in no list")).to_have_count(0)
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()


def test_a_cookie_that_somebody_else_signed_is_no_sign_in(visit: Visit, site: Site) -> None:
    from streamlit.web.server.starlette.starlette_app_utils import create_signed_value

    claims = json.dumps(PEOPLE["Ada"] | {"is_logged_in": True, "iat": time.time(), "origin": site.address})
    forged = create_signed_value("f" * 64, "_streamlit_user", claims).decode()
    visitor = visit("")
    visitor.page.context.add_cookies([{"name": "_streamlit_user", "value": forged, "url": site.address}])
    visitor.page.reload()
    expect(visitor.page.get_by_role("button", name="Sign in")).to_be_visible()
    assert told_of_a_run(visitor) == []


def test_an_analyst_signs_in_and_out(visit: Visit) -> None:
    visitor = visit("")
    page = visitor.sign_in("Ada")
    expect(page.get_by_text("ada@example.org")).to_be_visible()
    expect(page.get_by_role("heading", name="The training")).to_be_visible()
    assert told_of_a_run(visitor)
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()
    expect(page.get_by_role("heading", name="The training")).to_have_count(0)


def test_a_link_is_where_one_is_after_signing_in(visit: Visit) -> None:
    page = visit("explore?run=digits-adamw&examples=3,7").sign_in("Ada")
    expect(page.get_by_role("heading", name="Explore")).to_be_visible()
    expect(page.get_by_text("#7", exact=True).first).to_be_visible()
    assert "/explore?run=digits-adamw&" in page.url


def test_a_viewer_opens_and_exports_and_the_log_says_who(visit: Visit, site: Site) -> None:
    page = visit("").sign_in("Bob")
    expect(page.get_by_text("viewer")).to_be_visible()
    page.goto(f"{site.address}/report?run=digits-adamw&examples=3")
    page.get_by_text("Include the effect of every step").click()
    expect(page.get_by_role("button", name="JSON")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="JSON").click()
    digest = json.loads(download.value.path().read_text())["digest"]
    lines = [json.loads(line) for line in (site.workspace / "access.jsonl").read_text().splitlines()]
    bobs = [line for line in lines if line["who"] == f"2 at {site.issuer}"]
    assert {line["role"] for line in bobs} == {"viewer"}
    assert [line["act"] for line in bobs][-2:] == ["opened run", "exported report"]
    assert bobs[-1]["what"] == f"json {digest}"
    assert not [line for line in lines if line["who"] in ("Eve", "eve@example.org")]


@pytest.mark.parametrize("click", ["link", "radio"], ids=["another screen", "a part of this one"])
def test_who_is_taken_off_the_list_is_out_at_the_next_click(
    visit: Visit, site: Site, click: Literal["link", "radio"]
) -> None:
    page = visit("explore").sign_in("Ada")
    expect(page.get_by_text("Click a bar to see its steps")).to_be_visible()
    before = site.access.read_text()
    site.access.write_text(before.replace("ada@", "somebody@"))
    try:
        page.get_by_role(click, name="What-if" if click == "link" else "By layer").click()
        expect(page.get_by_text("is in no list of this dashboard")).to_be_visible()
        expect(page.get_by_role("link", name="Explore")).to_have_count(0)
    finally:
        site.access.write_text(before)
