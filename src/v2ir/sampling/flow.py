"""Streams of images: a bounded number of them is ever in memory."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

A = TypeVar("A")
B = TypeVar("B")


class Worker:
    """Threads beside the caller's, for reading or writing while the network computes.

    Left by an error (an interrupt too), it drops what has not begun and finishes what
    has.

    Attributes:
        threads: Number of threads.
    """

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads

    def __enter__(self) -> Self:
        self._pool = ThreadPoolExecutor(max_workers=self.threads)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=kind is not None)

    def ahead(self, function: Callable[[A], B], items: Iterable[A], depth: int) -> Iterator[B]:
        """Yield `function` of each item in order, worked on at most `depth` items ahead."""
        waiting: deque[Future[B]] = deque()
        for item in items:
            waiting.append(self._pool.submit(function, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class Behind(Worker, Generic[A]):
    """A worker that is handed results and lags behind by at most `depth` of them.

    Attributes:
        function: What is done with a result in the thread.
        depth: Number of results that may wait.
        done: Number of results whose work has ended well.
    """

    def __init__(self, function: Callable[[A], None], depth: int) -> None:
        super().__init__()
        self.function = function
        self.depth = depth
        self.done = 0
        self._waiting: deque[Future[None]] = deque()

    def put(self, item: A) -> None:
        """Hand over a result; waits while too many are waiting, and raises their errors."""
        self._waiting.append(self._pool.submit(self.function, item))
        self._settle(self.depth)

    def finish(self) -> None:
        """Wait for all results, and raise their errors."""
        self._settle(0)

    def _settle(self, remaining: int) -> None:
        while len(self._waiting) > remaining:
            self._waiting.popleft().result()
            self.done += 1


class Waiting(Generic[A]):
    """A stream that counts how long it is waited for.

    Attributes:
        items: The stream.
        seconds: Time that the caller has waited for its items so far.
    """

    def __init__(self, items: Iterable[A]) -> None:
        self.items = items
        self.seconds = 0.0

    def __iter__(self) -> Iterator[A]:
        stream = iter(self.items)
        while True:
            begin = time.perf_counter()
            try:
                item = next(stream)
            except StopIteration:
                return
            finally:
                self.seconds += time.perf_counter() - begin
            yield item


def batches(
    items: Iterable[A], key: Callable[[A], Hashable], size: int, most_waiting: int
) -> Iterator[list[A]]:
    """Group items of one key into batches, looking ahead only so far.

    Args:
        items: The stream.
        key: Items of equal keys fit into one batch.
        size: Largest batch.
        most_waiting: Number of items that may wait for others of their key; beyond it
            the group that has waited longest goes as it is.

    Yields:
        Lists of 1 to `size` items of equal keys.
    """
    groups: dict[Hashable, list[A]] = {}
    for item in items:
        name = key(item)
        group = groups.setdefault(name, [])
        group.append(item)
        if len(group) == size:
            yield groups.pop(name)
        elif sum(map(len, groups.values())) > most_waiting:
            yield groups.pop(next(iter(groups)))
    yield from groups.values()
