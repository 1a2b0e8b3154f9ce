"""What every test stands on: its own workspace, one thread, and a browser where it asks for one."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.find_chromium import NONE_FOUND, find_chromium

# Ray reads these when it is first imported, which a trainer's library may do long before a fleet is tested.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}


@pytest.fixture(scope="session", autouse=True)
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Nothing that a test or its subprocesses write lands in the user's own workspace."""
    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp("workspace")
        patch.setenv("AA_WORKSPACE", str(path))
        patch.setenv("AA_JOBS_FIRST", "1")  # a test waits for its jobs, beside others that keep the cores busy
        patch.setenv("OMP_NUM_THREADS", "1")  # of processes that it starts; more threads than cores wait for each other
        yield path


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Sums in one order on every machine; the cores are busy with other tests anyway."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def one_thread_an_operation() -> Iterator[None]:
    """Whatever a test before it, or the dashboard's engine, has set."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_gpu_unless_asked_for(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is one, tests that are not marked `gpu` and the processes that they start compute on the CPU."""
    if request.node.get_closest_marker("gpu") is None:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture(autouse=True)
def own_main() -> Iterator[None]:
    """AppTest leaves its script as `__main__`, which new processes would then try to run."""
    main = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = main


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a Chromium; a test that asks for it is skipped where there is none, but never unseen in CI."""
    if path := find_chromium():
        return str(path)
    if os.environ.get("CI"):
        pytest.fail(NONE_FOUND)
    pytest.skip(NONE_FOUND)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked `gpu` where there is no CUDA device."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
