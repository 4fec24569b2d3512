"""Registration, hints and critical sections of threads."""

import gc
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import morpheus
from conftest import FakeAgent, eventually

REASONS = ["waiter", "local", "slice_end", "quota", "pressure"]


def test_without_an_agent_everything_works_and_does_nothing(no_agent: None) -> None:
    assert morpheus.usage() is None
    with morpheus.register("alone") as worker:
        assert not worker.attached
        assert worker.slot is None
        assert not morpheus.hint_pending()
        assert morpheus.take_hint() is None
        assert morpheus.checkpoint() is None
        assert morpheus.usage() is None
        assert morpheus.yield_thread()
        with morpheus.critical():
            assert not morpheus.yield_thread()


def test_who_requires_an_agent_is_told_that_there_is_none(no_agent: None) -> None:
    with pytest.raises(morpheus.NotAvailable, match="no Morpheus agent at"):
        morpheus.register("alone", required=True)
    assert morpheus.usage() is None


def test_a_thread_that_never_registered_has_no_hints() -> None:
    assert not morpheus.hint_pending()
    assert morpheus.checkpoint() is None


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), 1e300])
def test_what_is_no_time_is_no_rotation(seconds: float) -> None:
    with pytest.raises(ValueError, match="no time in seconds"):
        morpheus.register("worker", rotates_after=seconds)


@pytest.mark.parametrize("reason", REASONS)
def test_a_checkpoint_answers_each_reason(agent: FakeAgent, reason: str) -> None:
    with morpheus.register("worker", required=True) as worker:
        assert worker.attached
        seq = agent.hint("worker", reason)
        assert morpheus.hint_pending()
        assert morpheus.checkpoint() == getattr(morpheus.Reason, reason.upper())
        assert not morpheus.hint_pending()
        assert morpheus.checkpoint() is None
        line = agent.line("worker")
        assert line["ack_seq"] == seq
        assert line["yields"].get(reason, 0) == (reason in ("waiter", "slice_end"))


def test_a_taken_hint_tells_what_it_is(agent: FakeAgent) -> None:
    with morpheus.register("worker", required=True):
        seq = agent.hint("worker", "quota")
        hint = morpheus.take_hint()
        assert hint is not None
        assert (hint.reason, hint.seq, hint.deadline_ns) == (morpheus.Reason.QUOTA, seq, None)
        assert hint.time_ns > 0
        assert "Quota" in repr(hint)
        assert morpheus.take_hint() is None


def test_nobody_is_ever_escapable(agent: FakeAgent) -> None:
    with morpheus.register("worker", polite=True, required=True):
        line = agent.line("worker")
        assert (line["escapable"], line["escalation_policy"]) == (0, 0)


def test_two_threads_are_two_workers(agent: FakeAgent) -> None:
    """The hint of one is not the other's."""
    both = threading.Barrier(2, timeout=60)

    def work(name: str) -> tuple[bool, int | None]:
        with morpheus.register(name, required=True) as worker:
            both.wait()
            if name == "first":
                agent.hint("first", "waiter")
            both.wait()
            seen = morpheus.checkpoint() is not None
            both.wait()
            return seen, worker.slot

    with ThreadPoolExecutor(2) as threads:
        (first, first_slot), (second, second_slot) = threads.map(work, ["first", "second"])
    assert (first, second) == (True, False)
    assert first_slot != second_slot


def test_a_waiter_hint_lets_other_python_threads_run(agent: FakeAgent) -> None:
    """The yield releases the GIL: with a switch interval of an hour nothing else between the two looks does."""
    interval, cpus = sys.getswitchinterval(), os.sched_getaffinity(0)

    def runs_at_the_checkpoint() -> bool:
        begin, ran = threading.Event(), threading.Event()
        other = threading.Thread(target=lambda: begin.wait() and ran.set())
        other.start()
        agent.hint("worker", "waiter")
        begin.set()
        before = ran.is_set()
        assert morpheus.checkpoint() == morpheus.Reason.WAITER
        after = ran.is_set()
        other.join()
        return after and not before

    with morpheus.register("worker", polite=True, required=True):
        sys.setswitchinterval(3600)
        # Threads inherit it: on one CPU the other can only have run when this one gave way.
        os.sched_setaffinity(0, {min(cpus)})
        try:
            eventually("the other thread runs", runs_at_the_checkpoint)
        finally:
            os.sched_setaffinity(0, cpus)
            sys.setswitchinterval(interval)


def test_hints_stay_pending_in_critical_sections(agent: FakeAgent) -> None:
    with morpheus.register("worker", required=True):
        with morpheus.critical():
            with morpheus.critical():
                agent.hint("worker", "waiter")
                assert agent.line("worker")["critical_depth"] == 2
                assert morpheus.checkpoint() is None
            assert morpheus.in_critical()
            assert morpheus.checkpoint() is None
            assert agent.line("worker")["critical_depth"] == 1
        assert not morpheus.in_critical()
        assert agent.line("worker")["critical_depth"] == 0
        assert morpheus.checkpoint() == morpheus.Reason.WAITER


def test_an_exception_ends_its_critical_sections_and_no_more() -> None:
    with morpheus.critical():
        with pytest.raises(ZeroDivisionError):
            with morpheus.critical(), morpheus.critical():
                1 / 0
        assert morpheus.in_critical()
    assert not morpheus.in_critical()


def test_a_section_can_be_entered_again_and_inside_of_itself() -> None:
    section = morpheus.critical()
    for _ in range(2):
        with section, section:
            assert morpheus.in_critical()
        assert not morpheus.in_critical()


def test_another_thread_cannot_leave_a_section() -> None:
    section = morpheus.critical()
    with section, ThreadPoolExecutor(1) as threads:

        def leave() -> None:
            with morpheus.critical():
                section.__exit__(None, None, None)

        with pytest.raises(RuntimeError, match="not in the critical section"):
            threads.submit(leave).result()
        assert morpheus.in_critical()
    assert not morpheus.in_critical()


def test_sections_may_end_in_another_order_than_they_began() -> None:
    first, second = morpheus.critical(), morpheus.critical()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert morpheus.in_critical()
    second.__exit__(None, None, None)
    assert not morpheus.in_critical()


def test_usage_is_what_the_agent_measured(agent: FakeAgent) -> None:
    with morpheus.register("worker", required=True):
        agent.measured("worker", 7_000_000, 3_000_000, 5)
        usage = morpheus.usage()
        assert usage is not None
        assert (usage.off_cpu_ns, usage.runqueue_wait_ns, usage.involuntary_switches) == (7_000_000, 3_000_000, 5)
        assert usage.budget_remaining_ns is None


def test_a_thread_stays_a_worker_until_the_last_handle_lets_go(agent: FakeAgent) -> None:
    with morpheus.register("outer", required=True) as outer:
        with morpheus.register("inner") as inner:
            assert inner.slot == outer.slot
        inner.unregister()
        inner.unregister()
        assert outer.attached
        assert not inner.attached
        assert agent.workers() == ["outer"]
    assert not outer.attached
    assert agent.workers() == []


def test_a_collected_handle_does_not_end_the_registration(agent: FakeAgent) -> None:
    def work() -> None:
        morpheus.register("worker", required=True)
        gc.collect()
        assert agent.workers() == ["worker"]

    with ThreadPoolExecutor(1) as threads:
        threads.submit(work).result()
    # The thread's end did.
    eventually("the worker is gone", lambda: agent.workers() == [])


def test_a_worker_is_no_matter_of_other_threads(agent: FakeAgent) -> None:
    with morpheus.register("worker", required=True) as worker, ThreadPoolExecutor(1) as threads:
        for foreign in (worker.unregister, worker.park, lambda: worker.attached, lambda: worker.slot):
            with pytest.raises(RuntimeError, match="the thread that registered it"):
                threads.submit(foreign).result()
        assert worker.attached


def test_a_parked_worker_says_so(agent: FakeAgent) -> None:
    with morpheus.register("worker", required=True) as worker:
        worker.park()
        assert agent.line("worker")["state"] == "registered"
        worker.unpark()
        assert agent.line("worker")["state"] == "running"


def test_a_killed_agent_looks_like_no_hints(agent: FakeAgent) -> None:
    with morpheus.register("worker", required=True) as worker:
        agent.hint("worker", "waiter")
        agent.kill()
        eventually("the worker notices", lambda: not worker.attached)
        assert morpheus.checkpoint() is None
        assert morpheus.usage() is None


def test_an_agent_that_comes_later_is_found(no_agent: None, tmp_path, request) -> None:
    with morpheus.register("worker") as worker:
        late = FakeAgent(os.environ["MORPHEUS_FAKE_AGENT"], tmp_path / "nobody")
        request.addfinalizer(late.kill)

        def attached() -> bool:
            morpheus.checkpoint()
            return worker.attached

        eventually("the worker attaches", attached)
        late.hint("worker", "waiter")
        assert morpheus.checkpoint() == morpheus.Reason.WAITER


@pytest.mark.filterwarnings("ignore:This process")
def test_a_forked_child_is_no_worker_and_may_become_one(agent: FakeAgent) -> None:
    with morpheus.register("parent", required=True) as worker:
        child = os.fork()
        if child == 0:
            # No assertion may lead back into pytest.
            right = not worker.attached and morpheus.usage() is None
            worker.unregister()
            own = morpheus.register("child", required=True)
            right = right and own.attached and "child" in agent.workers() and "parent" in agent.workers()
            os._exit(0 if right else 1)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert worker.attached
        assert "parent" in agent.workers()
