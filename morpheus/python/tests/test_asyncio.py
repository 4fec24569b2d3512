"""Tasks that give way."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

import morpheus
import morpheus.asgi
from conftest import FakeAgent


async def turns_of_another_task(work) -> int:
    """How often another task that is always ready had its turn while `work` ran."""
    turns = 0
    done = False

    async def other() -> None:
        nonlocal turns
        while not done:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await work()
    counted = turns
    done = True
    await task
    return counted


@pytest.mark.parametrize("reason", ["waiter", "local", "slice_end", "quota", "pressure"])
def test_a_hint_gives_the_loop_one_turn(agent: FakeAgent, reason: str) -> None:
    async def work() -> None:
        await morpheus.acheckpoint()
        agent.hint("loop", reason)
        await morpheus.acheckpoint()
        await morpheus.acheckpoint()

    with morpheus.register("loop", required=True):
        assert asyncio.run(turns_of_another_task(work)) == 1
        assert agent.line("loop")["yields"].get(reason) == 1


def test_without_a_hint_the_loop_has_no_turn(agent: FakeAgent) -> None:
    async def work() -> None:
        for _ in range(100):
            await morpheus.acheckpoint()
        async for _ in morpheus.chunked(range(100)):
            pass

    with morpheus.register("loop", required=True):
        assert asyncio.run(turns_of_another_task(work)) == 0


def test_no_turn_in_a_critical_section(agent: FakeAgent) -> None:
    async def work() -> None:
        with morpheus.critical():
            agent.hint("loop", "waiter")
            await morpheus.acheckpoint()
            assert morpheus.hint_pending()

    with morpheus.register("loop", required=True):
        assert asyncio.run(turns_of_another_task(work)) == 0


@pytest.mark.parametrize(("every", "expected"), [(1, 10), (2, 5), (3, 3), (11, 0)])
def test_chunked_gives_all_items_and_a_checkpoint_after_each_chunk(
    agent: FakeAgent, every: int, expected: int
) -> None:
    got = []

    async def work() -> None:
        async for item in morpheus.chunked(iter(range(10)), every):
            got.append(item)
            if not morpheus.hint_pending():
                agent.hint("loop", "local")

    with morpheus.register("loop", required=True):
        assert asyncio.run(turns_of_another_task(work)) == expected
        assert got == list(range(10))
        # What the last items left behind.
        morpheus.take_hint()


def test_chunks_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="every is 0"):
        morpheus.chunked([], 0)


def test_without_an_agent_tasks_run_as_ever(no_agent: None) -> None:
    async def work() -> list[int]:
        await morpheus.acheckpoint()
        return [item async for item in morpheus.chunked([1, 2, 3])]

    with morpheus.register("loop"):
        assert asyncio.run(work()) == [1, 2, 3]


def test_the_middleware_registers_the_loops_thread_and_answers_between_messages(agent: FakeAgent) -> None:
    sent: list[dict] = []
    asked: list[bool] = []

    async def app(scope, receive, send) -> None:
        agent.hint("web", "local")
        assert await receive() == {"type": "http.request"}
        asked.append(morpheus.hint_pending())
        agent.hint("web", "waiter")
        await send({"type": "http.response.start", "status": 200})
        asked.append(morpheus.hint_pending())
        await send({"type": "http.response.body", "body": b"hello"})

    async def receive() -> dict:
        return {"type": "http.request"}

    async def send(message: dict) -> None:
        sent.append(message)

    wrapped = morpheus.asgi.Middleware(app, name="web")

    def serve() -> dict:
        asyncio.run(wrapped({"type": "http"}, receive, send))
        asyncio.run(wrapped({"type": "http"}, receive, send))
        assert agent.workers() == ["web"]
        return agent.line("web")

    # On a thread of its own, since the middleware's registration lasts as long as that.
    with ThreadPoolExecutor(1) as threads:
        line = threads.submit(serve).result()
    assert asked == [False] * 4
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"] * 2
    assert line["yields"].get("local") == 2
    # The pace leaves out a yield that comes too soon after a costly one; both count as answered.
    assert line["yields"].get("waiter", 0) + line["yields"].get("withheld", 0) == 2


def test_an_applications_error_goes_through_the_middleware(no_agent: None) -> None:
    async def app(scope, receive, send) -> None:
        raise LookupError("as it was")

    def serve() -> None:
        asyncio.run(morpheus.asgi.Middleware(app)({"type": "http"}, None, None))

    with ThreadPoolExecutor(1) as threads, pytest.raises(LookupError, match="as it was"):
        threads.submit(serve).result()
