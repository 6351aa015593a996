"""What keeps a ranker's links to its shards good while it serves: desired and actual state, compared over and over."""

import asyncio
from collections.abc import Sequence

from exfm.serving.ranker.shards.link import ShardLink
from exfm.serving.tls import TlsFolder

CHECK_S = 2.0
"""Pause between two looks."""


async def keep_links(links: Sequence[ShardLink], *, tls: TlsFolder | None) -> None:
    """Mend links that are lost, or that use a certificate which is no longer in the folder, until cancelled."""
    await asyncio.gather(*(_keep(link, tls) for link in links))  # one that hangs does not keep others


async def _keep(link: ShardLink, tls: TlsFolder | None) -> None:
    while True:
        await asyncio.sleep(CHECK_S)
        await link.keep(tls.files() if tls is not None else None)
