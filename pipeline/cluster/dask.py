"""The workers of a Dask cluster: the only home of `distributed`."""

import contextlib
import logging
import pickle
import platform
import signal
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.metadata import version
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, Final, Generic
from uuid import uuid4

import structlog

from pipeline.errors import ConfigError, IngestError, fault
from pipeline.files import write_private
from pipeline.job import EngineSettings
from pipeline.planning.workers import Call, InPlace, Look, Shared, T, Workers
from pipeline.system.confinement import close_memory
from pipeline.system.environment import SPILL, cores, hidden, hide, secrets
from pipeline.version import VERSION

log = structlog.get_logger()

Versions = tuple[str, ...]

_AHEAD: Final = 2  # short calls that are under way or wait, for each worker
_LOOK_EVERY_S: Final = 1.0
_CONNECT_S_MAX: Final = 30
_SILENT: Final = logging.CRITICAL + 1
_WORKERLESS_S_MAX: Final = 300.0
# Of a cluster that is started here: `worker-ttl` is the silence after which a worker counts as lost,
# `allowed-failures` the number of workers that may die under one call.
_SETTINGS: Final = {
    "distributed.scheduler.worker-ttl": "60s",
    "distributed.scheduler.allowed-failures": 100,
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.gil.enabled": False,
    # A web server listens all the same, on loopback; it shows nothing.
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
}
_LOGGERS: Final = ("distributed", "distributed.client", "tornado", "tornado.application")


@contextlib.contextmanager
def open_workers(
    options: EngineSettings, folder: Path, connect_s: float = _CONNECT_S_MAX
) -> Iterator[Workers]:
    """Yield the configured workers. Raises ConfigError, IngestError.

    `folder` takes the files of workers that are started here; they are removed at the end. `connect_s`: the time to
    reach a scheduler.
    """
    if options.kind != "dask":
        yield InPlace()
        return
    with contextlib.ExitStack() as stack:
        cluster = Cluster(stack.enter_context(_connected(options, folder, connect_s)))
        try:
            yield cluster
        finally:
            cluster.forget()


def count_workers(options: EngineSettings, folder: Path, look: Look, connect_s: float) -> int:
    """Return the number of workers, after one of them has made a call. Raises ConfigError, IngestError.

    Args:
        options: An engine with workers.
        folder: For the files of workers that are started here.
        look: Called while one is awaited; may raise.
        connect_s: The time to reach a scheduler.
    """
    with open_workers(options, folder, connect_s) as workers:
        count = workers.count if isinstance(workers, Cluster) else 1
        for _ in workers.as_they_end([cores] if count else [], look):
            pass  # it has our versions
        return count


@dataclass(frozen=True, slots=True)
class _OnDisk(Generic[T]):
    path: str

    @property
    def value(self) -> T:
        """Return the value. Each process reads it once, until it asks for another one."""
        with _loading:
            found: T = _loaded(self.path)
        return found


_loading = threading.Lock()


@lru_cache(maxsize=1)
def _loaded(path: str) -> Any:
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise IngestError(
            f"a worker cannot read what all workers are to read under state.dir ({error.strerror})",
            "have state.dir, and the files of the feeds, at the same path on all workers",
        ) from None
    return pickle.loads(content)  # noqa: S301 - our own file, 0600


@dataclass(frozen=True, slots=True)
class _Raised:
    """The error with which a call ended: if the worker raised it, the worker would log its text."""

    error: IngestError


def _outcome(call: Call[T], versions: Versions) -> T | _Raised:
    """Return what a call returns, or the error that it raises; runs on a worker."""
    if _versions() != versions:
        here, there = ", ".join(_versions()), ", ".join(versions)
        return _Raised(
            ConfigError(
                f"a worker has other versions than the command: {here}, not {there}",
                "install the same on both, and start the workers anew",
            )
        )
    from distributed import Reschedule

    found: T | _Raised
    try:
        found = call()
    except IngestError as error:
        found = _Raised(error)
    except Exception as error:  # noqa: BLE001 - its own text may hold values
        found = _Raised(fault(error))
    if is_closing():
        raise Reschedule  # another worker runs it, or what is left of it
    return found


def is_closing() -> bool:
    """Return whether the worker that runs this call, in this thread, is to end as soon as it can.

    From then on the result of a call is lost, and another worker makes the call again.
    """
    try:
        from distributed import get_worker
        from distributed.core import Status

        worker = get_worker()
    except (ImportError, ValueError):  # no worker
        return False
    return worker.status not in {Status.running, Status.paused}


def threads() -> int:
    """Return how many calls the worker that runs this one makes at a time; 1 outside of a worker."""
    try:
        from distributed import get_worker

        return max(1, int(get_worker().state.nthreads))
    except (ImportError, ValueError):  # no worker
        return 1


def _versions() -> Versions:
    """Return the versions that must be equal everywhere for equal results."""
    python = ".".join(platform.python_version_tuple()[:2])
    return (
        f"canvas-ingest {VERSION}",
        f"Python {python}",
        *(f"{name} {version(name)}" for name in ("polars", "pydantic")),
    )


class Cluster:
    """The workers of a Dask cluster."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._versions = _versions()
        self._workers = set(client.nthreads())
        self._looked_s = self._seen_s = (
            time.monotonic()
        )  # the last look, and the last with a worker
        if not self._workers:
            log.warning("workers_awaited")

    @property
    def count(self) -> int:
        """Return the number of workers when they were last looked for."""
        return len(self._workers)

    def share(self, value: T, folder: Path) -> Shared[T]:
        """Write the value to a file in `folder`, so that nothing of it passes the scheduler."""
        path = folder / f"{uuid4().hex}.shared"
        write_private(path, pickle.dumps(value))
        return _OnDisk(str(path))

    def in_turn(self, calls: Iterable[Call[T]], look: Look) -> Iterator[T]:
        """Yield the results in order; up to `_AHEAD` calls per worker run ahead, so that results do not pile up."""
        under_way: deque[Any] = deque()
        try:
            for call in calls:
                under_way.append(self._submit(call))
                if len(under_way) > _AHEAD * max(1, len(self._workers)):
                    yield self._result(under_way[0], look)
                    under_way.popleft().release()
            while under_way:
                yield self._result(under_way[0], look)
                under_way.popleft().release()
        finally:
            self._drop(under_way)

    def as_they_end(self, calls: Iterable[Call[T]], look: Look) -> Iterator[tuple[int, T]]:
        """Yield (number, result) of calls that all run at once, as they end."""
        under_way = {number: self._submit(call) for number, call in enumerate(calls)}
        try:
            while under_way:
                ended = [number for number, future in under_way.items() if future.done()]
                for number in ended:
                    yield number, self._result(under_way[number], look)
                    under_way.pop(number).release()
                if not ended:
                    self._look(look)
                    time.sleep(_LOOK_EVERY_S / 10)
        finally:
            self._drop(under_way.values())

    def _submit(self, call: Call[Any]) -> Any:
        name = call.func.__name__ if isinstance(call, partial) else call.__name__
        key = f"{name.strip('_')}-{uuid4().hex}"
        return self._client.submit(_outcome, call, self._versions, key=key)

    def _result(self, future: Any, look: Look) -> Any:
        from distributed.scheduler import KilledWorker

        while True:
            self._look(look)
            try:
                found = future.result(timeout=_LOOK_EVERY_S)
            except TimeoutError:
                continue
            except KilledWorker:
                raise IngestError(
                    "workers of the Dask cluster died again and again under one call",
                    "give them more memory, or raise distributed.scheduler.allowed-failures of the scheduler",
                ) from None
            except CancelledError as error:
                raise _lost(error) from None
            except Exception as error:  # noqa: BLE001 - its text may be anything
                raise IngestError(
                    f"a worker of the Dask cluster could not begin a call, or not answer ({type(error).__name__})",
                    "install the same version of canvas-ingest on all workers, and start them anew",
                ) from None
            if isinstance(found, _Raised):
                raise found.error
            return found

    def _look(self, look: Look) -> None:
        """Call `look`, and now and then check that there are workers. Raises IngestError if not."""
        look()
        now_s = time.monotonic()
        if now_s - self._looked_s < _LOOK_EVERY_S:
            return
        self._looked_s = now_s
        try:
            there = set(self._client.nthreads())
        except Exception as error:  # noqa: BLE001 - whatever it is, the scheduler does not answer
            raise _lost(error) from None
        if gone := self._workers - there:
            log.warning("workers_lost", count=len(gone))
        self._workers = there
        if there:
            self._seen_s = now_s
        elif now_s - self._seen_s > _WORKERLESS_S_MAX:
            raise IngestError(
                f"the Dask cluster has had no worker for {_WORKERLESS_S_MAX:,.0f} s",
                "start workers, and run again",
            )

    def forget(self) -> None:
        """Drop shared values on workers that go on after this run."""
        with contextlib.suppress(Exception):  # workers that are gone hold nothing either
            self._client.run(_loaded.cache_clear)

    def _drop(self, futures: Iterable[Any]) -> None:
        """Cancel calls that no caller waits for."""
        with contextlib.suppress(Exception):  # a scheduler that is lost does nothing anyhow
            self._client.cancel(list(futures))


def _lost(error: BaseException) -> IngestError:
    return IngestError(
        f"the Dask scheduler was lost ({type(error).__name__})",
        "look into its log, and run again: what was sent is known",
    )


@contextlib.contextmanager
def _connected(options: EngineSettings, folder: Path, connect_s: float) -> Iterator[Any]:
    """Yield a client of the configured scheduler, or of one that is started here with its workers."""
    try:
        import dask
        import distributed
    except ImportError:
        raise ConfigError(
            'engine = "dask" needs the package distributed, which is not installed',
            'install it, here and on all workers: pip install "canvas-ingest[dask]"',
        ) from None
    untyped: Any = distributed
    with _silent():
        if options.scheduler:
            with _client_of(options, untyped, connect_s) as client:
                yield client
            return
        with (
            tempfile.TemporaryDirectory(prefix=".workers-", dir=folder) as scratch,
            dask.config.set({**_SETTINGS, "temporary-directory": scratch}),
            _temporary_files_in(scratch),
            hidden(),
            _without_signals(),
            _cluster_of(options, untyped, scratch) as cluster,
            untyped.Client(cluster, set_as_default=False) as client,
        ):
            yield client


@contextlib.contextmanager
def _temporary_files_in(folder: str) -> Iterator[None]:
    """Have Dask write the keys of its connections to `folder` if there is no other folder for temporary files."""
    try:
        tempfile.gettempdir()
        is_needed = False
    except FileNotFoundError:
        is_needed, tempfile.tempdir = True, folder
    try:
        yield
    finally:
        if is_needed:
            tempfile.tempdir = None


def dask_setup(worker: Any) -> None:  # noqa: ARG001 - Dask calls it so
    """Close a worker that is started here to other processes, before it does anything."""
    close_memory()
    hide()


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Silence Dask's loggers: they log addresses, arguments and reprs. This module logs what matters."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(_SILENT)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _without_signals() -> Iterator[None]:
    """Keep processes that start in this context from the signals of a terminal or a service manager.

    The command gets the signal, lets its workers finish what is in flight, and ends them.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # its start would unblock them in this thread
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _cluster_of(options: EngineSettings, distributed: Any, scratch: str) -> Any:
    try:
        return distributed.LocalCluster(
            n_workers=options.worker_count,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            protocol="tls://",
            # A client that can connect can run any code, and that includes other users of this machine.
            security=distributed.Security.temporary(),
            scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
            worker_dashboard_address=None,
            memory_limit=None,  # results are small, and calls bound their own memory
            local_directory=scratch,
            silence_logs=_SILENT,
            # Passed through a pipe, not in the environment that the process is started with.
            env={
                "POLARS_MAX_THREADS": max(1, cores() // options.worker_count),
                "TMPDIR": scratch,
                SPILL: scratch,
                **secrets(),
            },
            preload=[__name__],  # see dask_setup
        )
    except Exception as error:  # noqa: BLE001 - its text is about addresses and processes
        raise IngestError(
            f"{options.worker_count} workers could not be started on this machine ({type(error).__name__})",
            'try fewer (--workers); a program of your own that plans must do so under `if __name__ == "__main__":`, because each worker imports it',
        ) from None


def _client_of(options: EngineSettings, distributed: Any, connect_s: float) -> Any:
    security = None
    if options.scheduler.startswith("tls://"):
        security = distributed.Security(
            require_encryption=True,
            tls_ca_file=options.ca_file,
            tls_client_cert=options.cert_file,
            tls_client_key=options.key_file,
        )
    try:
        return distributed.Client(
            options.scheduler, security=security, timeout=connect_s, set_as_default=False
        )
    except Exception as error:  # noqa: BLE001 - no answer, or one that is not trusted
        raise IngestError(
            f"no Dask scheduler was reached at {options.scheduler} ({type(error).__name__})",
            "check that it runs, its address, and that its certificate is of the authority in engine.ca_file",
        ) from None
