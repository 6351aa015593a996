"""A window is read while the one before it is learned."""

from threading import Event
from typing import Any

import pytest

from exfm.artifact.manifest import Window
from exfm.errors import StorageError
from exfm.training.loop import walk_windows
from exfm.training.reading import read_ahead

PATIENCE_S = 30

WINDOWS = [Window(index=index, start=index, end=index + 1) for index in range(4)]


def test_the_next_window_is_read_meanwhile_and_none_further_ahead() -> None:
    read = [Event() for _ in WINDOWS]

    def note(window: Window) -> Any:
        read[window.index].set()
        return f"examples of {window.index}"

    for window, examples in read_ahead(WINDOWS, note):
        assert examples == f"examples of {window.index}"
        if window.index + 1 < len(WINDOWS):
            assert read[window.index + 1].wait(PATIENCE_S)
        assert not any(one.is_set() for one in read[window.index + 2 :])


def test_a_window_that_cannot_be_read_is_told_after_those_before_it() -> None:
    def read(window: Window) -> Any:
        if window.index == 2:
            raise StorageError("window 2 is damaged")
        return None

    coming = read_ahead(WINDOWS, read)
    assert [next(coming)[0].index for _ in range(2)] == [0, 1]
    with pytest.raises(StorageError, match="window 2 is damaged"):
        next(coming)


@pytest.mark.parametrize("reads_ahead", [True, False])
def test_a_walk_tests_a_window_while_the_next_one_is_read_unless_told_not_to(reads_ahead: bool) -> None:
    read = [Event() for _ in WINDOWS]

    class Patient:
        def test(self, examples: Any) -> bool:
            following = [*read, read[-1]][examples + 1]
            return following.wait(PATIENCE_S) if reads_ahead else following.is_set()

        def learn(self, window: Window, examples: Any, scores: bool, /) -> None:
            raise AssertionError("no label is known")

    def note(window: Window) -> Any:
        read[window.index].set()
        return window.index

    tested: list[bool] = []
    walk_windows(
        Patient(),
        WINDOWS,
        read=note,
        label_delay=9,
        known_until=0,
        on_tested=lambda window, examples, scores: tested.append(scores),
        on_trained=lambda window, examples: None,
        reads_ahead=reads_ahead,
    )
    assert tested[:-1] == [reads_ahead] * (len(WINDOWS) - 1)


def test_no_window_is_no_work() -> None:
    assert list(read_ahead([], lambda window: pytest.fail("read"))) == []
