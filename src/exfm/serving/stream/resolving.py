"""Names to addresses, for streams: gRPC has a resolver of its own."""

import asyncio
import re
import socket

import dns.asyncresolver
import dns.exception

from exfm.errors import ShardUnavailableError

_ADDRESS = re.compile(r"^(?:dns://(?P<server>[^/]+)/)?(?P<host>.+):(?P<port>\d+)$")


async def resolve(address: str, *, timeout_s: float) -> tuple[tuple[str, int], ...]:
    """Return all hosts and ports behind an address (`exfm.serving.config.Address`), sorted.

    Raises: ShardUnavailableError if the name is not known now.
    """
    found = _ADDRESS.match(address)
    assert found, "an Address has this form"
    host, port = found["host"], int(found["port"])
    try:
        async with asyncio.timeout(timeout_s):
            hosts = await _ask_server(found["server"], host) if found["server"] else await _ask_system(host)
    except (OSError, dns.exception.DNSException, TimeoutError) as error:
        raise ShardUnavailableError(f"{host} has no address now ({error or 'no answer'})") from error
    return tuple((one, port) for one in sorted(hosts))


def host_of(address: str) -> str:
    """Return the name in an address, which the other end's certificate must be for."""
    found = _ADDRESS.match(address)
    assert found, "an Address has this form"
    return found["host"]


async def _ask_system(host: str) -> set[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return {str(address[0]) for *_, address in found}


async def _ask_server(server: str, host: str) -> set[str]:
    where, _, port = server.rpartition(":")
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers, resolver.port = [where], int(port)
    return {record.address for record in await resolver.resolve(host, "A")}
