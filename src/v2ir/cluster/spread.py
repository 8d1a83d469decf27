"""Items over workers: each comes back once, or is said to be lost.

A worker is a Ray actor that loads its networks once and then gets share after share. Where
a worker dies, another takes its place and its share is done again, now item by item, so
that one bad item does not cost its neighbours; an item that took `TRIES` workers along is
lost. Whoever writes files passes over those that are there, so none is written twice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import pickle
import shutil
import socket
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from v2ir import __version__
from v2ir.cluster.machines import GIBIBYTE, Cluster
from v2ir.errors import InputError, OutputError, RunError

A = TypeVar("A")
B = TypeVar("B")
A_contra = TypeVar("A_contra", contravariant=True)
B_co = TypeVar("B_co", covariant=True)

TRIES = 3
_MOST_ITEMS = 64
_SHARES_A_WORKER = 8
_PATIENCE = 10.0

logger = logging.getLogger(__name__)


class Work(Protocol[A_contra, B_co]):
    """What workers do; it travels to them, and must be picklable."""

    def start(self) -> Callable[[Sequence[A_contra]], Sequence[B_co]]:
        """Load what is needed, and return what turns items into results, one for one."""
        ...


@dataclasses.dataclass(frozen=True)
class Lost:
    """Stands for the result of an item with which workers die.

    Attributes:
        reason: What happened, for the list of failures.
    """

    reason: str = "the worker died of it again and again; its memory may be too small for it"


@dataclasses.dataclass(frozen=True)
class Settings:
    """How work is spread.

    Attributes:
        folder: A folder that all machines see under this path.
        memory: Bytes that a worker needs.
        least: Items that a share should have at least, such as a network's batch.
        most: Items that a share has at most.
    """

    folder: Path
    memory: int = GIBIBYTE
    least: int = 1
    most: int = _MOST_ITEMS

    def share(self, items: int, workers: int) -> int:
        """Return the number of items in a share, so that all workers end at about a time."""
        fair = -(-items // (workers * _SHARES_A_WORKER))
        return max(1, min(max(self.least, fair), self.most, -(-items // workers)))


def spread(
    cluster: Cluster, work: Work[A, B], items: Sequence[A], settings: Settings
) -> Iterator[tuple[A, B | Lost]]:
    """Yield each item with its result as they come, in any order.

    Raises:
        V2IRError: The error that a worker met and that is not one item's.
        RunError: If a worker met an error that v2ir does not know.
        InputError: If the cluster has no room, or the machines share no folder.
        OutputError: If the folder cannot be written.
    """
    if not items:
        return
    workers = min(cluster.places(settings.memory), len(items))
    share = settings.share(len(items), workers)
    pool = _Pool(min(workers, -(-len(items) // share)), share, cluster.needs(settings.memory))
    logger.info("%d items in shares of %d over %d workers", len(items), share, pool.workers)
    with _mark(settings.folder) as mark:
        for number, result in _results(cluster, work, items, pool, mark):
            yield items[number], result


@dataclasses.dataclass(frozen=True)
class _Pool:
    """Workers, the items that each gets at once, and what each takes of its machine."""

    workers: int
    share: int
    needs: dict[str, float]


def _results(
    cluster: Cluster, work: Work[A, B], items: Sequence[A], pool: _Pool, mark: Path
) -> Iterator[tuple[int, B | Lost]]:
    """Give all items out in shares; yield their places with what came back."""
    ray = cluster.connect()
    with _quiet(ray), _told(ray):
        # Ray does a dead worker's share again without end; the workers count.
        rows = ray.data.from_blocks(list(_shares(items, pool.share))).map_batches(
            _Worker,
            fn_constructor_args=(work, mark, __version__),
            batch_size=pool.share,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=pool.workers, max_tasks_in_flight_per_actor=1),
            **pool.needs,
        )
        for table in rows.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for row in table.to_pylist():
                found = pickle.loads(row["result"])
                if isinstance(found, _Fatal):
                    raise found.error
                yield row["number"], found


@contextlib.contextmanager
def _told(ray: Any) -> Iterator[None]:
    """Turn what Ray itself cannot do into an error of v2ir."""
    try:
        yield
    except ray.exceptions.RayError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise RunError(
            "the cluster gave up",
            got=(lines or [type(error).__name__])[-1].strip(),
            do="check that v2ir is installed on every machine; what was written stays valid",
        ) from error


def _shares(items: Sequence[Any], share: int) -> Iterator[Any]:
    import pyarrow

    for start in range(0, len(items), share):
        chosen = range(start, min(start + share, len(items)))
        packed = pyarrow.array([pickle.dumps(items[n]) for n in chosen], pyarrow.binary())
        yield pyarrow.table({"number": list(chosen), "item": packed})


@contextlib.contextmanager
def _quiet(ray: Any) -> Iterator[None]:
    """Let Ray Data work without bars and reports of its own."""
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    reports = logging.getLogger("ray.data")
    level = reports.level
    reports.setLevel(logging.CRITICAL)
    try:
        with ray.data.DataContext.current(context):
            yield
    finally:
        reports.setLevel(level)


@dataclasses.dataclass(frozen=True)
class _Fatal:
    """An error that ends the pass."""

    error: Exception


class _Worker(Generic[A, B]):
    """The actor: unpacks items, has them worked on, packs results."""

    def __init__(self, work: Work[A, B], mark: Path, version: str) -> None:
        self._work, self._mark, self._version = work, mark, version
        self._run: Callable[[Sequence[A]], Sequence[B]] | None = None

    def __call__(self, table: Any) -> Any:
        import pyarrow

        items = [pickle.loads(item) for item in table["item"].to_pylist()]
        numbers = table["number"].to_pylist()
        results: Sequence[Any]
        try:
            results = self._work_on(numbers, items)
        except Exception as error:
            results = [_Fatal(_portable(error))] * len(items)
        assert len(results) == len(items)
        packed = pyarrow.array([pickle.dumps(result) for result in results], pyarrow.binary())
        return pyarrow.table({"number": table["number"], "result": packed})

    def _work_on(self, numbers: list[int], items: list[A]) -> Sequence[B | Lost]:
        share = f"{numbers[0]}-{numbers[-1]}"
        run = self._run = self._run or self._start(share)
        if self._begun(share) == 1:
            return run(items)
        # A worker died here, and it will be seen which item it died of.
        return [self._alone(*pair) for pair in zip(numbers, items, strict=True)]

    def _alone(self, number: int, item: A) -> B | Lost:
        """Work on one item, unless too many have died of it; the share's try counts too."""
        assert self._run is not None
        if self._begun(str(number)) >= TRIES:
            return Lost()
        result = self._run([item])[0]
        self._survived(str(number))
        return result

    def _start(self, share: str) -> Callable[[Sequence[A]], Sequence[B]]:
        """Load what is needed.

        Raises:
            RunError: If workers have died of loading it.
        """
        self._check()
        name = f"start-{share}"
        if self._begun(name) > TRIES:
            raise RunError(
                "workers die while they load what they need",
                got=f"{TRIES} in succession, the last on {socket.gethostname()}",
                do="use machines with more memory, or look into the kernel's log on them",
            )
        run = self._work.start()
        self._survived(name)
        return run

    def _begun(self, what: str) -> int:
        """Note that something is begun, and return how many times it was."""
        with (self._mark / what).open("ab") as stream:
            stream.write(b"+")
            stream.flush()
            return stream.tell()

    def _survived(self, what: str) -> None:
        (self._mark / what).unlink()

    def _check(self) -> None:
        """Refuse to work with another v2ir, or on a disk that the others do not see."""
        host = socket.gethostname()
        if __version__ != self._version:
            raise InputError(
                f"{host} has another v2ir", got=__version__, do=f"install {self._version} there"
            )
        # A network disk may show a new file only after a while.
        until = time.monotonic() + _PATIENCE
        while not self._mark.exists():
            if time.monotonic() > until:
                raise InputError(
                    f"{host} does not see what was just written to {self._mark.parent}",
                    do="use a folder on a disk that all machines share under one path",
                )
            time.sleep(0.2)


def _portable(error: Exception) -> Exception:
    """Return an error that can travel: itself, or its text."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        told = True
    else:
        told = not type(error).__module__.startswith("v2ir.")
    if not told:
        return error
    text = "".join(traceback.format_exception(error)[-3:]).strip()
    return RunError(f"a worker on {socket.gethostname()} failed", got=text)


@contextlib.contextmanager
def _mark(folder: Path) -> Iterator[Path]:
    """Have a hidden folder in the shared one while the work is going on."""
    path = folder / f".cluster-{uuid.uuid4().hex}"
    try:
        path.mkdir(parents=True)
    except OSError as error:
        raise OutputError(f"cannot write {folder}", got=error.strerror) from error
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
