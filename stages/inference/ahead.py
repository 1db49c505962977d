"""Let reading, computing and writing overlap: work through an iterator in a thread of its own, a few items ahead."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

Item = TypeVar("Item")
_END = object()


@contextmanager
def ahead(items: Iterable[Item], depth: int) -> Iterator[Iterator[Item]]:
    """Give the items of an iterable, while a thread works at the next, at most ``depth`` of them ahead.

    What the iterable raises is raised where its items are taken. When the block is left early, the thread stops
    after the item that it is at work on.
    """
    waiting: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: Any, fault: BaseException | None = None) -> bool:
        while not stopped.is_set():
            try:
                waiting.put((item, fault), timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(item):
                    return
            put(_END)
        except BaseException as fault:  # raised anew where the items are taken
            put(_END, fault)
        finally:
            if isinstance(items, Generator):
                items.close()

    thread = threading.Thread(target=work, name="ahead", daemon=True)
    thread.start()
    try:
        yield _taken(waiting)
    finally:
        stopped.set()
        thread.join()


def _taken(waiting: queue.Queue[tuple[Any, BaseException | None]]) -> Iterator[Any]:
    while True:
        item, fault = waiting.get()
        if fault is not None:
            raise fault
        if item is _END:
            return
        yield item
