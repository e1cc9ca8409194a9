import threading
from collections.abc import Iterator

import pytest

from wrp.flow.prefetch import prefetch


def test_items_keep_their_order_and_are_made_in_another_thread() -> None:
    threads = []

    def items() -> Iterator[int]:
        for i in range(5):
            threads.append(threading.current_thread())
            yield i

    assert list(prefetch(items())) == [0, 1, 2, 3, 4]
    assert threading.main_thread() not in threads


def test_one_item_is_made_while_the_last_is_used() -> None:
    made = threading.Semaphore(0)

    def items() -> Iterator[int]:
        for i in range(3):
            made.release()
            yield i

    worker = prefetch(items())
    assert next(worker) == 0
    assert made.acquire(timeout=10)
    assert made.acquire(timeout=10)
    assert not made.acquire(timeout=0.1)
    worker.close()


def test_errors_arrive_and_nothing_is_left_running() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise KeyError("broken")

    worker = prefetch(items())
    assert next(worker) == 1
    with pytest.raises(KeyError, match="broken"):
        next(worker)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("wrp-prefetch")]


def test_nothing_stays_nothing() -> None:
    assert list(prefetch(iter(()))) == []
