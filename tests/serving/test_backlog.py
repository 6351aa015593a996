"""Items wait for a thread that writes them."""

from collections.abc import Sequence

import pytest

from exfm.serving.ranker.backlog import Backlog


def test_a_fault_in_writing_loses_its_block_and_is_told_and_the_next_is_written(
    caplog: pytest.LogCaptureFixture,
) -> None:
    written: list[str] = []

    def write(block: Sequence[str], is_due: bool) -> None:
        if "bad" in block:
            raise MemoryError("no room")
        written.extend(block)

    backlog = Backlog[str](write, waiting_size=10, block_size=1, block_items=1, block_s=60.0)
    assert all(backlog.offer(item, size=1) for item in ("first", "bad", "last"))
    backlog.close()
    assert written == ["first", "last"]
    assert "request log: 1 items are lost" in caplog.text
    assert all(backlog.offer("more", size=1) for _ in range(10)), "what was lost takes no room"
