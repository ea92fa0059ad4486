"""`Prefetcher`: read the batches of the next steps in a thread, while a step is computed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Prefetcher(Generic[K, T]):
    """Calls `fetch` for keys before they are needed, in one thread.

    fetch : a pure function of the key. It must not refer to this object, so that the thread ends with the object.

    The result of `get` never depends on earlier calls: a key that was not expected is fetched at once.
    """

    def __init__(self, fetch: Callable[[K], T]):
        self._fetch = fetch
        self._pool: ThreadPoolExecutor | None = None
        self._expected: dict[K, Future[T]] = {}

    def get(self, key: K, following: Sequence[K] = ()) -> T:
        """The value of a key. The thread then fetches the following keys.

        Raises the error that `fetch` raised for this key. An error for another key is raised if that key is needed.
        """
        known = self._expected.pop(key, None)
        for other in [other for other in self._expected if other not in following]:
            self._expected.pop(other).cancel()
        for other in following:
            if other not in self._expected and other != key:
                self._expected[other] = self._submit(other)
        return self._fetch(key) if known is None else known.result()

    def settle(self) -> None:
        """Wait until the thread has nothing to do."""
        wait(self._expected.values())

    def close(self) -> None:
        """End the thread, after the fetch that it is in. A later `get` works, and starts another."""
        self._expected.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _submit(self, key: K) -> Future[T]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="softmix-data")
        return self._pool.submit(self._fetch, key)
