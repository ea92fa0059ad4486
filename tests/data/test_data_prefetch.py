"""Reading ahead in a thread."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable

import pytest

from softmix.data import DataError
from softmix.data.prefetch import Prefetcher


class Fetch:
    """Squares of the keys. It notes the order and the threads of its calls."""

    def __init__(self) -> None:
        self.keys: list[int] = []
        self.threads: list[str] = []

    def __call__(self, key: int) -> int:
        self.keys.append(key)
        self.threads.append(threading.current_thread().name)
        if key == 13:
            raise DataError("item 13 cannot be read; leave it out")
        return key * key


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("softmix-data")]


def wait_until(true: Callable[[], bool]) -> bool:
    end = time.monotonic() + 5
    while not true() and time.monotonic() < end:
        time.sleep(0.005)
    return true()


def test_values_are_those_of_the_function() -> None:
    prefetcher = Prefetcher(Fetch())
    assert [prefetcher.get(key, [key + 1, key + 2]) for key in range(6)] == [0, 1, 4, 9, 16, 25]
    prefetcher.close()


def test_each_key_is_fetched_once_and_in_order() -> None:
    fetch = Fetch()
    prefetcher = Prefetcher(fetch)
    for key in range(4):
        prefetcher.get(key, [key + 1, key + 2])
        prefetcher.settle()
    prefetcher.close()
    assert sorted(fetch.keys) == [0, 1, 2, 3, 4, 5]
    assert fetch.keys[2:] == sorted(fetch.keys[2:])


def test_following_keys_are_fetched_in_another_thread() -> None:
    fetch = Fetch()
    prefetcher = Prefetcher(fetch)
    prefetcher.get(0, [1])
    prefetcher.settle()
    assert prefetcher.get(1) == 1
    prefetcher.close()
    name = dict(zip(fetch.keys, fetch.threads, strict=True))
    assert name[0] == threading.current_thread().name
    assert name[1].startswith("softmix-data")


def test_without_following_keys_there_is_no_thread() -> None:
    prefetcher = Prefetcher(Fetch())
    assert [prefetcher.get(key) for key in range(3)] == [0, 1, 4]
    assert threads() == []


def test_a_key_that_was_not_expected_is_fetched_at_once() -> None:
    prefetcher = Prefetcher(Fetch())
    prefetcher.get(10, [11, 12])
    assert prefetcher.get(3, [4, 5]) == 9
    assert prefetcher.get(4, [5, 6]) == 16
    prefetcher.close()


def test_keys_that_are_no_longer_expected_are_forgotten() -> None:
    fetch = Fetch()
    prefetcher = Prefetcher(fetch)
    prefetcher.get(10, [11, 12])
    prefetcher.settle()
    prefetcher.get(3, [4])
    assert prefetcher.get(11, []) == 121
    prefetcher.close()
    assert fetch.keys.count(11) == 2


def test_an_error_is_raised_for_its_key_with_its_sentence() -> None:
    prefetcher = Prefetcher(Fetch())
    assert prefetcher.get(12, [13, 14]) == 144
    with pytest.raises(DataError, match="item 13 cannot be read; leave it out"):
        prefetcher.get(13, [14, 15])
    assert prefetcher.get(14, [15]) == 196
    prefetcher.close()


def test_an_error_for_a_key_that_is_not_needed_is_not_raised() -> None:
    prefetcher = Prefetcher(Fetch())
    prefetcher.get(12, [13])
    prefetcher.settle()
    assert prefetcher.get(20, [21]) == 400
    prefetcher.close()


def test_close_ends_the_thread() -> None:
    prefetcher = Prefetcher(Fetch())
    prefetcher.get(0, [1, 2])
    assert len(threads()) == 1
    prefetcher.close()
    assert threads() == []


def test_close_does_not_fetch_what_is_left() -> None:
    begun, go = threading.Event(), threading.Event()
    keys: list[int] = []

    def slow(key: int) -> int:
        keys.append(key)
        if key:
            begun.set()
            go.wait(5)
        return key

    prefetcher = Prefetcher(slow)
    prefetcher.get(0, [1, 2, 3])
    assert begun.wait(5)
    threading.Timer(0.05, go.set).start()
    prefetcher.close()
    assert sorted(keys) == [0, 1]


def test_the_thread_ends_with_the_object() -> None:
    prefetcher = Prefetcher(Fetch())
    prefetcher.get(0, [1, 2])
    del prefetcher
    gc.collect()
    assert wait_until(lambda: threads() == [])


def test_a_closed_prefetcher_still_answers() -> None:
    prefetcher = Prefetcher(Fetch())
    prefetcher.get(0, [1])
    prefetcher.close()
    assert prefetcher.get(1, [2]) == 1
    assert prefetcher.get(2) == 4
    prefetcher.close()
    assert threads() == []
