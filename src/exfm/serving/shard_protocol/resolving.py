"""Resolves a shard's name to the addresses of its servers."""

import asyncio
import socket

import dns.asyncresolver
import dns.exception

from exfm.errors import ShardUnavailableError

_DNS_PORT = 53


async def resolve(address: str, *, timeout_s: float) -> tuple[tuple[str, int], ...]:
    """Return all hosts and ports behind an address (`exfm.serving.config.Address`), sorted.

    Raises: ShardUnavailableError if the name has no address now, or DNS does not answer.
    """
    server, host, port = _split(address)
    try:
        async with asyncio.timeout(timeout_s):
            hosts = await (_resolve_by_server(server, host) if server else _resolve_by_system(host))
    except (OSError, ValueError, dns.exception.DNSException) as error:  # TimeoutError is an OSError
        raise ShardUnavailableError(f"{host} has no address now ({error or 'no answer'})") from error
    return tuple((one, port) for one in sorted(hosts))


def host_of(address: str) -> str:
    """Return the host name in an address, which the server's certificate must have."""
    return _split(address)[1]


def _split(address: str) -> tuple[str, str, int]:
    """Return the DNS server, empty if it is the system's, the host and the port in an address."""
    server, _, place = address.removeprefix("dns://").rpartition("/")
    host, _, port = place.rpartition(":")
    return server, host, int(port)


async def _resolve_by_system(host: str) -> set[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return {str(address[0]) for *_, address in found}


async def _resolve_by_server(server: str, host: str) -> set[str]:
    resolver = dns.asyncresolver.Resolver(configure=False)
    address, _, port = server.partition(":")
    resolver.nameservers, resolver.port = [address], int(port or _DNS_PORT)
    return {record.address for record in await resolver.resolve(host, "A")}
