"""Windows are read ahead, so that a trainer does not wait for them."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from exfm.artifact.manifest import Window
from exfm.events.examples import Examples


def read_ahead(windows: Iterable[Window], read: Callable[[Window], Examples]) -> Iterator[tuple[Window, Examples]]:
    """Yield windows with their examples in order, while a thread reads the next window, and none further ahead.

    Raises: what `read` raises, once the windows before are yielded.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead") as reader:
        begun: deque[tuple[Window, Future[Examples]]] = deque()

        def first() -> tuple[Window, Examples]:
            window, future = begun.popleft()  # nothing here holds the examples while they are learned
            return window, future.result()

        for window in windows:
            begun.append((window, reader.submit(read, window)))
            if len(begun) > 1:
                yield first()
        while begun:
            yield first()
