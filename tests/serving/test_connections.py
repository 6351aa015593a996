"""The options of both ends of a gRPC connection, between servers of gRPC's own."""

import asyncio
from typing import Any

import grpc

from exfm.serving.config import RankerConfig, ServerConfig
from exfm.serving.connections import client_options, server_options

METHOD = "/test.Echo/Ask"
NUM_CALLERS = 32


async def echo(request: bytes, context: Any) -> bytes:
    await asyncio.sleep(0.002)
    return request


async def start_server() -> tuple[Any, int]:
    server = grpc.aio.server(options=server_options(ServerConfig()))
    method = grpc.unary_unary_rpc_method_handler(echo)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", {"Ask": method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, port


async def num_answered_while_one_of_two_servers_stops() -> int:
    (leaving, leaving_port), (staying, staying_port) = await start_server(), await start_server()
    target = f"ipv4:127.0.0.1:{leaving_port},127.0.0.1:{staying_port}"
    has_stopped = asyncio.Event()

    async with grpc.aio.insecure_channel(target, options=client_options(RankerConfig())) as channel:
        call = channel.unary_unary(METHOD)

        async def keep_asking() -> int:
            num_answered = 0
            while not has_stopped.is_set():
                await call(b"x", timeout=5)
                num_answered += 1
            return num_answered

        callers = [asyncio.create_task(keep_asking()) for _ in range(NUM_CALLERS)]
        await asyncio.sleep(0.1)
        await leaving.stop(grace=5)
        has_stopped.set()
        answered = await asyncio.gather(*callers)
    await staying.stop(grace=None)
    return sum(answered)


def test_a_call_that_meets_the_moment_in_which_a_server_stops_is_sent_to_another() -> None:
    for _ in range(5):
        assert asyncio.run(num_answered_while_one_of_two_servers_stops()) > NUM_CALLERS
