"""Agents for the tests: one without a kernel, which hints when the test says so, and the real one."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PATIENCE_S = 60


def eventually(what: str, condition: Callable[[], bool]) -> None:
    """Waits until the condition holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        os.sched_yield()


class FakeAgent:
    """morpheus-fake-agent's `console`: a command a line, an answer a line."""

    def __init__(self, console: str, socket: Path) -> None:
        self.socket = socket
        self._process = subprocess.Popen(
            [console, str(socket)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert self._answer() == "listening"

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, "the agent has ended"
        return line

    def _ask(self, command: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        return self._answer()

    def hint(self, worker: str, reason: str) -> int:
        """Gives this worker a hint, once it is running. Its number."""
        return int(self._ask(f"hint {worker} {reason}"))

    def line(self, worker: str) -> dict:
        """What the worker, once it is running or parked, has written."""
        return json.loads(self._ask(f"line {worker}"))

    def measured(self, worker: str, off_cpu_ns: int, wait_ns: int, involuntary: int) -> None:
        self._ask(f"measured {worker} {off_cpu_ns} {wait_ns} {involuntary}")

    def workers(self) -> list[str]:
        return json.loads(self._ask("workers"))

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAgent]:
    """A fake agent, at the socket `register` looks for."""
    agent = FakeAgent(os.environ["MORPHEUS_FAKE_AGENT"], tmp_path / "socket")
    monkeypatch.setenv("MORPHEUS_SOCKET", str(agent.socket))
    yield agent
    agent.kill()


@pytest.fixture
def no_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket where nobody listens."""
    monkeypatch.setenv("MORPHEUS_SOCKET", str(tmp_path / "nobody"))


@pytest.fixture
def morpheusd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A real `morpheusd observe`; its socket. Skips where BPF is not permitted."""
    binary = os.environ["MORPHEUSD"]
    check = subprocess.run([binary, "check", "observe"], capture_output=True, text=True, check=False)
    if check.returncode != 0:
        why = f"morpheusd cannot observe here: {(check.stderr or check.stdout).strip()}"
        if os.environ.get("MORPHEUS_REQUIRE_BPF") == "1":
            pytest.fail(why)
        pytest.skip(why)
    socket = tmp_path / "socket"
    process = subprocess.Popen([binary, "observe", "--socket", str(socket)], stderr=subprocess.DEVNULL)
    eventually("morpheusd listens", socket.exists)
    monkeypatch.setenv("MORPHEUS_SOCKET", str(socket))
    yield socket
    process.terminate()
    process.wait(PATIENCE_S)
