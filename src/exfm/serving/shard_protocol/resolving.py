"""Resolves a shard's name to the addresses of its servers."""

import asyncio
import re
import socket

import dns.asyncresolver
import dns.exception

from exfm.errors import ShardUnavailableError

_ADDRESS = re.compile(r"^(?:dns://(?P<server>[^/:]+)(?::(?P<dns_port>\d+))?/)?(?P<host>[^:/]+):(?P<port>\d+)$")
_DNS_PORT = 53


async def resolve(address: str, *, timeout_s: float) -> tuple[tuple[str, int], ...]:
    """Return all hosts and ports behind an address (`exfm.serving.config.Address`), sorted.

    Raises: ShardUnavailableError if the name has no address now, or DNS does not answer.
    """
    found = _matched(address)
    host, port = found["host"], int(found["port"])
    try:
        async with asyncio.timeout(timeout_s):
            if found["server"]:
                hosts = await _resolve_by_server(found["server"], int(found["dns_port"] or _DNS_PORT), host)
            else:
                hosts = await _resolve_by_system(host)
    except (OSError, ValueError, dns.exception.DNSException) as error:  # TimeoutError is an OSError
        raise ShardUnavailableError(f"{host} has no address now ({error or 'no answer'})") from error
    return tuple((one, port) for one in sorted(hosts))


def host_of(address: str) -> str:
    """Return the host name in an address, which the server's certificate must have."""
    return _matched(address)["host"]


def _matched(address: str) -> re.Match[str]:
    found = _ADDRESS.match(address)
    if found is None:
        raise ShardUnavailableError(
            f"{address} is not HOST:PORT, nor dns://SERVER[:PORT]/HOST:PORT; write it in one of these forms"
        )
    return found


async def _resolve_by_system(host: str) -> set[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return {str(address[0]) for *_, address in found}


async def _resolve_by_server(server: str, port: int, host: str) -> set[str]:
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers, resolver.port = [server], port
    return {record.address for record in await resolver.resolve(host, "A")}
