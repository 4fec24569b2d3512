"""With the real agent on this machine's kernel."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import morpheus
from conftest import PATIENCE_S, eventually

COMPETITOR = """
import os, time
while os.getppid() == {parent}:
    end = time.monotonic() + 0.0002
    while time.monotonic() < end:
        pass
    time.sleep(0.0005)
"""


@pytest.fixture
def shared_cpu():
    """This thread on one CPU, with a process beside it that often wants it for a short time."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    competitor = subprocess.Popen([sys.executable, "-c", COMPETITOR.format(parent=os.getpid())])
    yield
    competitor.send_signal(signal.SIGKILL)
    competitor.wait()
    os.sched_setaffinity(0, before)


def report(socket: Path) -> dict:
    answer = subprocess.run(
        [os.environ["MORPHEUSD"], "status", "--socket", str(socket), "--json"], capture_output=True, check=True
    )
    return json.loads(answer.stdout)


def test_a_busy_python_thread_with_a_neighbour_takes_hints(morpheusd: Path, shared_cpu: None) -> None:
    with morpheus.register("busy", required=True) as worker:
        assert worker.attached
        reasons = set()

        def hinted() -> bool:
            reasons.add(morpheus.checkpoint())
            return morpheus.Reason.WAITER in reasons

        eventually("a hint", hinted)
        eventually("time on the queue", lambda: (usage := morpheus.usage()) is not None and usage.off_cpu_ns > 0)
        assert "busy" in json.dumps(report(morpheusd))


def test_agent_killed_in_the_middle_leaves_the_worker_unharmed(
    tmp_path: Path, morpheusd: Path, shared_cpu: None
) -> None:
    with morpheus.register("busy", required=True) as worker:
        eventually("a hint", lambda: morpheus.checkpoint() is not None)
        pid = next(
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and _command(entry)[:1] == [os.environ["MORPHEUSD"]] and str(morpheusd) in _command(entry)
        )
        os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        eventually("the worker notices", lambda: not worker.attached)
        assert time.monotonic() - killed < PATIENCE_S
        assert morpheus.checkpoint() is None


def _command(process: Path) -> list[str]:
    try:
        return (process / "cmdline").read_text().split("\0")
    except OSError:
        return []
