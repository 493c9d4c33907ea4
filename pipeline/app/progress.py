"""Run a command's coroutine: the event loop, the signals, and the display of progress on stderr.

The core only counts (`job.Progress`); here the counts are read at intervals and shown.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from enum import StrEnum
from typing import Any, Final, TypeVar

import structlog

from pipeline.app.screen import is_coloured, may_colour
from pipeline.job import Progress

T = TypeVar("T")
Work = Callable[[Progress, asyncio.Event], Coroutine[Any, Any, T]]

_LOOK_EVERY_S: Final = 0.2
_LINE_EVERY_S: Final = 30.0

log = structlog.get_logger()


class Display(StrEnum):
    """The ways to show progress."""

    LINE = "line"  # on a terminal
    LINES = "lines"  # a log line now and then
    NONE = "none"


def display_for(*, quiet: bool, is_logged: bool) -> Display:
    """Return the display: one line on a terminal, log lines elsewhere, none if `quiet`."""
    if quiet:
        return Display.NONE
    is_terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    return Display.LINE if is_terminal and not is_logged else Display.LINES


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
    is_begun = not is_logged
    with _shown(display, progress) as look:
        look()  # before `work` loads what it needs, which takes a second
        task: asyncio.Task[T] = asyncio.ensure_future(work(progress, stop))
        with _signals(task, stop, progress, is_logged=is_logged):
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
    if display is Display.LINE:
        with _line(progress) as look:
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
def _line(progress: Progress) -> Iterator[Callable[[], None]]:
    from rich.console import Console  # noqa: PLC0415 - only on a terminal
    from rich.live import Live  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    from pipeline.app.display import Line  # noqa: PLC0415

    has_colours = is_coloured(sys.stderr, allowed=may_colour())
    console = Console(stderr=True, no_color=not has_colours, highlight=False)
    line = Line("━" if console.encoding.startswith("utf") else "=")
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def look() -> None:
            text = Text(line.text(progress, console.width - 1), no_wrap=True, overflow="crop")
            text.highlight_regex("[━=]+", "cyan")
            live.update(text, refresh=True)

        yield look
