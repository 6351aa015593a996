"""What keeps a ranker's channels good while it serves: desired and actual state, compared over and over."""

import asyncio
from collections.abc import Sequence

from exfm.serving.ranker.channel import ShardChannel
from exfm.serving.tls import TlsFolder

CHECK_S = 2.0
"""Pause between two looks."""


async def keep_channels(channels: Sequence[ShardChannel], *, tls: TlsFolder | None) -> None:
    """Replace channels that are lost, or that use a certificate which is no longer in the folder, until cancelled."""
    while True:
        await asyncio.sleep(CHECK_S)
        files = tls.files() if tls is not None else None
        await asyncio.gather(*(channel.renew(files) for channel in channels if channel.is_due(files)))
