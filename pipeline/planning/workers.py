"""Calls that run in this process or, by `cluster.dask`, on the workers of a cluster.

A call is a `functools.partial` of a function at the top of a module, over numbers and paths, because a
dashboard shows its name and arguments. It may run more than once, even twice at the same time, because a
worker that seems lost may be alive: a call writes its files in one step, and the same bytes each time. An
error that it raises is raised here, as if it ran in this process.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, Protocol, TypeVar

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Call = Callable[[], T]
Look = Callable[[], None]

_LOOK_EVERY_S: Final = 0.1


class Shared(Protocol[T_co]):
    """A value that many calls read and none changes."""

    @property
    def value(self) -> T_co:
        """Return the value."""


class Workers(Protocol):
    """Runs calls."""

    def share(self, value: T, folder: Path) -> Shared[T]:
        """Let calls read a value. It travels as a file in `folder`, which all workers reach."""

    def in_turn(self, calls: Iterable[Call[T]], look: Look) -> Iterator[T]:
        """Yield what many short calls return, in their order; some run ahead.

        `look` is called now and then, and ends the iteration by raising.
        """

    def as_they_end(self, calls: Iterable[Call[T]], look: Look) -> Iterator[tuple[int, T]]:
        """Yield (number, result) of a few long calls that run at the same time, as they end."""


@dataclass(frozen=True, slots=True)
class _Here(Generic[T]):
    value: T


class InPlace:
    """Runs calls in this process."""

    def share(self, value: T, folder: Path) -> Shared[T]:  # noqa: ARG002 - as all workers have it
        """Return the value as it is."""
        return _Here(value)

    def in_turn(self, calls: Iterable[Call[T]], look: Look) -> Iterator[T]:
        """Yield what the calls return."""
        for call in calls:
            look()
            yield call()

    def as_they_end(self, calls: Iterable[Call[T]], look: Look) -> Iterator[tuple[int, T]]:
        """Yield (number, result) of calls in threads of this process."""
        with ThreadPoolExecutor(thread_name_prefix="call") as pool:
            under_way = {pool.submit(call): number for number, call in enumerate(calls)}
            while under_way:
                ended, _ = wait(under_way, _LOOK_EVERY_S, FIRST_COMPLETED)
                for future in ended:
                    yield under_way.pop(future), future.result()
                look()
