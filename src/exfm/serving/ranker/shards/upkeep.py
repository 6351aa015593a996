"""Repairs a ranker's links to its shards while it serves: desired and actual state are compared again and again."""

import asyncio
from collections.abc import Sequence

from exfm.serving.ranker.shards.link import ShardLink
from exfm.serving.tls import TlsFolder

CHECK_S = 2.0
"""Pause between two checks."""


async def keep_links(links: Sequence[ShardLink], *, tls: TlsFolder | None) -> None:
    """Reconnect lost links, and links under a certificate that was replaced, until cancelled."""
    await asyncio.gather(*(_keep(link, tls) for link in links))  # a link that hangs does not delay others


async def _keep(link: ShardLink, tls: TlsFolder | None) -> None:
    while True:
        await asyncio.sleep(CHECK_S)
        await link.keep(tls.files() if tls is not None else None)
