"""Find a Chromium for the browser tests.

`python -m tests.browser.find_chromium` (part of `make test`) installs one where there is none, and prints which it is.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

COMMANDS = (
    "chromium-headless-shell",
    "chromium",
    "chromium-browser",
    "google-chrome-stable",
    "google-chrome",
    "chrome",
)
"""The first draws no window of its own, which the tests wait for a sixth less."""
DEBIAN = "chromium-headless-shell"
MAC_APPS = (
    "Applications/Chromium.app/Contents/MacOS/Chromium",
    "Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
ASK_PLAYWRIGHT = (
    "from playwright.sync_api import sync_playwright as s\nwith s() as p: print(p.chromium.executable_path)"
)
NONE_FOUND = "no Chromium: install Chromium or Chrome, or name one: CHROMIUM=/path/to/chromium make test"


def find_chromium() -> Path | None:
    """The executable named by $CHROMIUM, else an installed one, else playwright's own, else None."""
    if named := os.environ.get("CHROMIUM"):
        return Path(named)
    if found := next(filter(None, map(shutil.which, COMMANDS)), None):
        return Path(found)
    candidates = [root / app for root in (Path("/"), Path.home()) for app in MAC_APPS]
    return next((path for path in [*candidates, _playwrights_own()] if path and path.is_file()), None)


def _playwrights_own() -> Path | None:
    """Where playwright would put its Chromium; asked in a subprocess, since playwright cannot be started twice."""
    answer = subprocess.run([sys.executable, "-c", ASK_PLAYWRIGHT], capture_output=True, text=True)
    return Path(answer.stdout.strip()) if answer.returncode == 0 else None


def install_command() -> list[list[str]]:
    """Debian's package where we may install it, else playwright's download."""
    debian = platform.system() == "Linux" and platform.freedesktop_os_release().get("ID") == "debian"
    if debian and os.geteuid() == 0 and shutil.which("apt-get"):
        return [["apt-get", "update", "-q"], ["apt-get", "install", "-q", "-y", "--no-install-recommends", DEBIAN]]
    return [[sys.executable, "-m", "playwright", "install", "chromium"]]


def main() -> None:
    """Print the Chromium that the browser tests will use. None is no failure here: they say why they are skipped."""
    if find_chromium() is None:
        for command in install_command():
            print("no Chromium found; running:", " ".join(command), flush=True)
            if subprocess.run(command).returncode:
                break
    print("browser tests use", find_chromium() or f"nothing, they are skipped ({NONE_FOUND})")


if __name__ == "__main__":
    main()
