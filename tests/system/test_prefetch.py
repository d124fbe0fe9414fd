"""Reading ahead changes neither items nor order, hands errors over, and ends with its consumer."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from pipelines.system.prefetch import read_ahead


@pytest.mark.parametrize("depth", [1, 2, 100])
@pytest.mark.parametrize("number", [0, 1, 7])
def test_the_items_come_in_order(number: int, depth: int) -> None:
    assert list(read_ahead(iter(range(number)), depth)) == list(range(number))


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt()])
def test_an_error_of_the_producer_comes_in_its_place(error: BaseException) -> None:
    def produce() -> Iterator[int]:
        yield 1
        yield 2
        raise error

    got = []
    with pytest.raises(type(error)):
        for item in read_ahead(produce(), 1):
            got.append(item)
    assert got == [1, 2]


def test_no_more_than_the_depth_is_made_ahead() -> None:
    made = []

    def produce() -> Iterator[int]:
        for number in range(50):
            made.append(number)
            yield number

    items = read_ahead(produce(), depth=3)
    assert next(items) == 0
    time.sleep(0.2)
    # one was taken, three wait, and one more is made and waits for its place
    assert len(made) <= 5
    items.close()  # type: ignore[attr-defined]


def test_a_consumer_that_stops_early_stops_the_producer() -> None:
    before = threading.active_count()
    items = read_ahead(iter(range(1000)), depth=2)
    assert next(items) == 0
    assert threading.active_count() == before + 1
    items.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_the_producer_runs_while_the_consumer_works() -> None:
    second_is_made = threading.Event()

    def produce() -> Iterator[int]:
        yield 1
        second_is_made.set()
        yield 2

    for _ in read_ahead(produce(), depth=1):
        assert second_is_made.wait(timeout=5)
