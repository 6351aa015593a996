"""A server's process: `python -m exfm.bench.transports CARRIER PORT ANSWERED_BYTES`."""

import asyncio
import sys

import uvloop

from exfm.bench.transports.carriers import CARRIERS


async def _serve(name: str, port: str, answered_bytes: str) -> None:
    # Ones: of zeros nobody wrote, the kernel keeps one page for all, and reading it is faster.
    await CARRIERS[name].serve(int(port), b"1" * int(answered_bytes))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(*sys.argv[1:]))
