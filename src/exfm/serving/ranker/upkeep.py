"""What keeps a ranker's links to its shards good while it serves: desired and actual state, compared over and over."""

import asyncio
from collections.abc import Sequence

from exfm.serving.ranker.link import ShardLink
from exfm.serving.tls import TlsFolder

CHECK_S = 2.0
"""Pause between two looks."""


async def keep_links(links: Sequence[ShardLink], *, tls: TlsFolder | None) -> None:
    """Mend links that are lost, or that use a certificate which is no longer in the folder, until cancelled."""
    while True:
        await asyncio.sleep(CHECK_S)
        files = tls.files() if tls is not None else None
        await asyncio.gather(*(link.keep(files) for link in links))
