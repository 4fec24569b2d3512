"""A small HTTP server in asyncio whose /cpu route computes, with a safe point after each chunk.

    sudo morpheusd observe &
    python asyncio_server.py --port 8080
    curl 'http://[::1]:8080/cpu?ms=20'; curl 'http://[::1]:8080/short'; curl 'http://[::1]:8080/stats'

`--yields` says what a safe point does: `none`, `always` (`asyncio.sleep(0)`), `stub` (`hint_pending()` and, with a hint,
`acheckpoint()`, on a thread that is not registered: its cost without its effect), or `morpheus` (the same, registered).
`--chunk` is the work between two of them in iterations of some 50 ns. `/stats` tells the loop's lag since it was last asked: how much later than wanted a 5 ms
timer fires, p50, p99 and the most in ms; the chunks done; and what the kernel says of the thread's time off the CPU.
"""

import argparse
import asyncio
import json
import time
from urllib.parse import parse_qs, urlsplit

import morpheus

TIMER_S = 0.005
PER_MS = 20_000  # iterations of the work, about 1 ms of CPU time


class Server:
    def __init__(self, yields: str, chunk: int) -> None:
        self.yields = yields
        self.chunk = chunk
        self.lags_ms: list[float] = []
        self.chunks = 0

    async def compute(self, chunks: int) -> int:
        """The work. The loop is written out for each kind of safe point, so that none pays for the choice."""
        pending, value, chunk = morpheus.hint_pending, 1, range(self.chunk)
        if self.yields == "none":
            for _ in range(chunks):
                for _ in chunk:
                    value = (value * 1103515245 + 12345) & 0x7FFFFFFF
                self.chunks += 1
        elif self.yields == "always":
            for _ in range(chunks):
                for _ in chunk:
                    value = (value * 1103515245 + 12345) & 0x7FFFFFFF
                self.chunks += 1
                await asyncio.sleep(0)
        else:
            for _ in range(chunks):
                for _ in chunk:
                    value = (value * 1103515245 + 12345) & 0x7FFFFFFF
                self.chunks += 1
                if pending():
                    await morpheus.acheckpoint()
        return value

    async def watch(self) -> None:
        """Notes the loop's lag, again and again."""
        while True:
            asked = time.perf_counter() + TIMER_S
            await asyncio.sleep(TIMER_S)
            self.lags_ms.append((time.perf_counter() - asked) * 1000)

    def stats(self) -> dict:
        lags = sorted(self.lags_ms) or [0.0]
        self.lags_ms = []
        usage = morpheus.usage()
        return {
            "chunks": self.chunks,
            "lag_p50_ms": lags[len(lags) // 2],
            "lag_p99_ms": lags[min(len(lags) - 1, len(lags) * 99 // 100)],
            "lag_max_ms": lags[-1],
            "off_cpu_ms": usage and usage.off_cpu_ns / 1e6,
            "waited_for_cpu_ms": usage and usage.runqueue_wait_ns and usage.runqueue_wait_ns / 1e6,
        }

    async def answer(self, target: str) -> tuple[int, str]:
        url = urlsplit(target)
        if url.path == "/short":
            return 200, "short\n"
        if url.path == "/stats":
            return 200, json.dumps(self.stats()) + "\n"
        if url.path == "/cpu":
            try:
                ms = float(parse_qs(url.query).get("ms", ["20"])[0])
            except ValueError:
                return 400, "ms is a number\n"
            return 200, f"{await self.compute(int(min(max(ms, 0), 1000) * PER_MS / self.chunk)):08x}\n"
        return 404, "no such page\n"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                while (await reader.readline()).strip():
                    pass  # headers tell nothing we need
                parts = line.decode("latin-1").split()
                status, body = await self.answer(parts[1]) if len(parts) == 3 else (400, "not HTTP\n")
                writer.write(
                    f"HTTP/1.1 {status} {'OK' if status == 200 else 'No'}\r\n"
                    f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
                )
                await writer.drain()
        except (ConnectionError, ValueError):
            pass  # the client went, or sent a line without end
        finally:
            writer.close()


async def main() -> None:
    parser = argparse.ArgumentParser(description="An asyncio HTTP server with safe points.")
    parser.add_argument("--host", default="::1")
    parser.add_argument("--port", type=int, default=8080, help="0 for any")
    parser.add_argument("--yields", choices=["none", "always", "stub", "morpheus"], default="morpheus")
    parser.add_argument("--chunk", type=int, default=200, help="iterations between two safe points")
    arguments = parser.parse_args()
    if arguments.yields == "morpheus":
        morpheus.register("asyncio", rotates_after=0.002)
    server = Server(arguments.yields, max(arguments.chunk, 1))
    watching = asyncio.create_task(server.watch())
    listener = await asyncio.start_server(server.serve, arguments.host, arguments.port)
    port = listener.sockets[0].getsockname()[1]
    print(f"listening at http://[{arguments.host}]:{port}", flush=True)
    async with listener:
        await asyncio.gather(listener.serve_forever(), watching)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        pass
