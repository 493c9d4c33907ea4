"""Run a command's coroutine: the event loop, the signals, and the display of progress on stderr.

The core only counts (`job.Progress`); here the counts are read at intervals and shown.
"""

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from enum import StrEnum
from typing import Any, Final, TypeVar

import structlog

from pipeline.job import Progress
from pipeline.records import Disposition

T = TypeVar("T")
Work = Callable[[Progress, asyncio.Event], Coroutine[Any, Any, T]]

_LOOK_EVERY_S: Final = 0.2
_LINE_EVERY_S: Final = 30.0

log = structlog.get_logger()


class Display(StrEnum):
    """The ways to show progress."""

    BAR = "bar"  # on a terminal
    LINES = "lines"  # a log line now and then
    NONE = "none"


def display_for(*, quiet: bool, is_logged: bool) -> Display:
    """Return the display: a bar on a terminal, log lines elsewhere, none if `quiet`."""
    if quiet:
        return Display.NONE
    return Display.BAR if sys.stderr.isatty() and not is_logged else Display.LINES


def watch(work: Work[T], display: Display, *, is_logged: bool = False) -> T:
    """Run `work` and show its progress.

    The first Ctrl-C, SIGTERM or SIGHUP lets it finish what is in flight, the second stops it.

    Args:
        work: Makes the coroutine, given the counts and the event that asks it to stop.
        display: The way to show progress.
        is_logged: stderr is a log for machines: the start is logged there, and no text is written.
    """
    return _runner()(_watched(work, display, is_logged=is_logged))


def _runner() -> Callable[[Coroutine[Any, Any, T]], T]:
    try:
        import uvloop  # noqa: PLC0415 - not on Windows
    except ImportError:
        return asyncio.run
    run: Callable[[Coroutine[Any, Any, T]], T] = uvloop.run
    return run


async def _watched(work: Work[T], display: Display, *, is_logged: bool) -> T:
    progress, stop = Progress(), asyncio.Event()
    task: asyncio.Task[T] = asyncio.ensure_future(work(progress, stop))
    is_begun = not is_logged
    with _signals(task, stop, progress, is_logged=is_logged), _shown(display, progress) as look:
        while True:
            if progress.run_id and not is_begun:
                log.info("run_started", run_id=progress.run_id)
                is_begun = True
            look()
            if task.done():
                return task.result()
            await asyncio.wait([task], timeout=_LOOK_EVERY_S)


@contextlib.contextmanager
def _signals(
    task: "asyncio.Task[Any]", stop: asyncio.Event, progress: Progress, *, is_logged: bool
) -> Iterator[None]:
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        if stop.is_set():
            task.cancel()
            return
        stop.set()
        if is_logged:
            log.warning("stopping", run_id=progress.run_id)
            return
        with contextlib.suppress(OSError):  # the terminal is gone
            sys.stderr.write(
                "\nStopping: what is in flight is finished first. Once more to stop at once.\n"
            )

    numbers = [signal.SIGINT, signal.SIGTERM]
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    if hangup and signal.getsignal(hangup) is not signal.SIG_IGN:  # nohup ignores it
        numbers.append(hangup)
    with contextlib.suppress(NotImplementedError):  # Windows has no handlers on the loop
        for number in numbers:
            loop.add_signal_handler(number, interrupt)
    try:
        yield
    finally:
        with contextlib.suppress(NotImplementedError):
            for number in numbers:
                loop.remove_signal_handler(number)


@contextlib.contextmanager
def _shown(display: Display, progress: Progress) -> Iterator[Callable[[], None]]:
    if display is Display.BAR:
        with _bar(progress) as look:
            yield look
    elif display is Display.LINES:
        yield _lines(progress)
    else:
        yield lambda: None


def _lines(progress: Progress) -> Callable[[], None]:
    last_s = time.monotonic()

    def look() -> None:
        nonlocal last_s
        if time.monotonic() - last_s < _LINE_EVERY_S:
            return
        last_s = time.monotonic()
        counts = {word.value: count for word, count in progress.dispositions.items() if count}
        log.info(
            "progress",
            run_id=progress.run_id,
            stage=progress.stage,
            rows_read=progress.rows_read,
            to_send=progress.to_send,
            sent=progress.sent,
            **counts,
        )

    return look


@contextlib.contextmanager
def _bar(progress: Progress) -> Iterator[Callable[[], None]]:
    from rich import progress as rich  # noqa: PLC0415 - only on a terminal
    from rich.console import Console  # noqa: PLC0415

    columns = (
        rich.TextColumn("{task.description:<10}"),
        rich.BarColumn(bar_width=24),
        rich.MofNCompleteColumn(),
        rich.TextColumn("{task.fields[rate]}"),
        rich.TimeRemainingColumn(elapsed_when_finished=True),
        rich.TextColumn("{task.fields[counts]}"),
    )
    with rich.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None, rate="", counts="")

        def look() -> None:
            is_counted = progress.stage in {"searching", "sending", "verifying", "reporting"}
            done, total = (
                (progress.sent, progress.to_send or None)
                if is_counted
                else (progress.rows_read, None)
            )
            if total != bar.tasks[0].total:
                bar.reset(task, total=total)
            speed = bar.tasks[0].speed
            bar.update(
                task,
                description=progress.stage,
                completed=done,
                total=total,
                rate=f"{speed:,.0f}/s" if speed else "",
                counts=_counts(progress.dispositions),
            )

        yield look


def _counts(dispositions: dict[Disposition, int]) -> str:
    return "  ".join(
        f"{count:,} {word.value.replace('_', ' ')}" for word, count in dispositions.items() if count
    )
