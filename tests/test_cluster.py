"""The passes on a cluster: the same files as on one machine, whatever dies."""

from __future__ import annotations

import dataclasses
import gc
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from conftest import street
from v2ir import __version__, cli
from v2ir.annotation import annotate
from v2ir.cluster import Cluster, Lost, Settings, spread
from v2ir.cluster.spread import TRIES, _Fatal, _Worker
from v2ir.data import index
from v2ir.errors import InputError, OutputError, RunError
from v2ir.files import read_jsonl

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


MEBIBYTE = 1024**2


@pytest.fixture(scope="module")
def machines():
    """Return two processors of this machine as a cluster, with memory for one network.

    Starting a worker is what takes time here; so two start only where a test says so.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    os.environ["RAY_raylet_start_wait_time_s"] = "300"  # noqa: SIM112 - the name is Ray's
    ray = pytest.importorskip("ray", reason="the extra `cluster` is not installed")
    ray.init(
        "local",
        num_cpus=2,
        _memory=1536 * MEBIBYTE,
        object_store_memory=80 * MEBIBYTE,
        include_dashboard=False,
        log_to_driver=False,
    )
    # Workers cannot import this file; its classes travel whole.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        yield Cluster("local")
    finally:
        ray.shutdown()
        # Ray leaves its processes unreaped, of which Python would complain at its end.
        for thing in gc.get_objects():
            if isinstance(thing, subprocess.Popen):
                thing.wait(30)


def v2ir(monkeypatch, *arguments):
    """Run the command line in this process and return its exit status."""
    monkeypatch.setattr(sys, "argv", ["v2ir", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as leaving:
        return int(leaving.code or 0)
    return 0


def state(folder):
    """Return what would show that a file was written again."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    stats = {path.relative_to(folder).as_posix(): path.stat() for path in files}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


def contents(folder, pattern="*"):
    """Return the bytes of a folder's files by name; what a killed writer began is left out."""
    files = (path for path in folder.rglob(pattern) if path.is_file() and path.suffix != ".part")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def worker_processes():
    """Return the ids of the worker processes below this one."""
    parents, workers = {}, []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            title = (entry / "cmdline").read_bytes()
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(entry.name)] = int(fields[1])
        if title.startswith(b"ray::") and b"_Worker" in title:
            workers.append(int(entry.name))

    def mine(number):
        while number > 1 and number != os.getpid():
            number = parents.get(number, 0)
        return number == os.getpid()

    return [number for number in workers if mine(number)]


# ---- spread ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Stamping:
    """Write a file for each number, once; die at some numbers."""

    folder: Path
    dies_once: int = -1
    dies_always: int = -1

    def start(self):
        return lambda numbers: [self.stamp(number) for number in numbers]

    def stamp(self, number):
        died = self.folder / "died"
        if number == self.dies_always or (number == self.dies_once and not died.exists()):
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        path = self.folder / f"{number}.txt"
        if not path.exists():
            with path.open("x") as stream:  # fails where there is one
                stream.write(f"{number} by {os.getpid()}")
        return number * number


@dataclasses.dataclass(frozen=True)
class Raising:
    error: Exception

    def start(self):
        raise self.error


def test_a_dead_worker_costs_nothing_and_a_deadly_item_itself(machines, tmp_path):
    work = Stamping(tmp_path, dies_once=2, dies_always=13)
    settings = Settings(tmp_path, memory=500 * MEBIBYTE, least=5)
    found = dict(spread(machines, work, range(20), settings))
    assert isinstance(found.pop(13), Lost)
    numbers = [number for number in range(20) if number != 13]
    assert found == {number: number * number for number in numbers}
    assert (tmp_path / "died").exists()
    texts = {p.stem: p.read_text().split(" by ") for p in tmp_path.glob("*.txt")}
    assert sorted(texts) == sorted(str(number) for number in numbers)
    # What stood before number 2 in its share is of the one who died.
    assert texts["0"][1] == texts["1"][1] != texts["2"][1]
    assert not list(tmp_path.glob(".cluster-*"))


class DeathError(BaseException):
    """What no worker outlives."""


def worked_on(work, numbers, folder):
    """Have a share done as often as workers die; return the results, and the deaths."""
    pyarrow = pytest.importorskip("pyarrow", reason="the extra `cluster` is not installed")
    table = pyarrow.table({"number": numbers, "item": [pickle.dumps(n) for n in numbers]})
    deaths = 0
    while True:
        try:
            rows = _Worker(work, folder, __version__)(table).to_pylist()
        except DeathError:
            deaths += 1
        else:
            return {row["number"]: pickle.loads(row["result"]) for row in rows}, deaths


@dataclasses.dataclass(frozen=True)
class Dying:
    """Square numbers; die at some of them, by chance at others, or at once."""

    deadly: frozenset[int] = frozenset()
    chances: list[int] = dataclasses.field(default_factory=list)
    starts: bool = True

    def start(self):
        if not self.starts:
            raise DeathError
        return lambda numbers: [self.square(number) for number in numbers]

    def square(self, number):
        if number in self.chances:
            self.chances.remove(number)
            raise DeathError
        if number in self.deadly:
            raise DeathError
        return number * number


@given(st.sets(st.integers(0, 9)), st.sets(st.integers(0, 9)), st.integers(1, 10))
def test_an_item_is_lost_if_and_only_if_it_is_deadly(deadly, chances, size):
    numbers = list(range(size))
    with tempfile.TemporaryDirectory() as folder:
        work = Dying(frozenset(deadly), sorted(chances))
        found, deaths = worked_on(work, numbers, Path(folder))
    assert found == {n: Lost() if n in deadly else n * n for n in numbers}
    # One of a share as a whole, and no more than that by chance at items of which each is done.
    assert deaths <= (TRIES - 1) * len(deadly & {*numbers}) + len(chances & {*numbers}) + 1


def test_a_share_that_one_item_kills_costs_three_workers(tmp_path):
    assert worked_on(Dying(frozenset({3})), [1, 2, 3, 4], tmp_path)[1] == TRIES


def test_workers_that_die_while_they_start_end_the_pass(tmp_path):
    found, deaths = worked_on(Dying(starts=False), [1, 2], tmp_path)
    assert deaths == TRIES
    assert all(isinstance(result.error, RunError) for result in found.values())
    assert "more memory" in str(found[1].error)


def test_errors_of_workers_come_home(machines, tmp_path):
    full = OutputError("no space", got="0 bytes", do="delete something")
    with pytest.raises(OutputError, match="delete something"):
        list(spread(machines, Raising(full), [1, 2], Settings(tmp_path)))
    assert not list(tmp_path.iterdir())


def test_nothing_to_do_asks_no_cluster(tmp_path):
    nowhere = Cluster("nowhere.invalid:1")
    assert list(spread(nowhere, Stamping(tmp_path), [], Settings(tmp_path / "new"))) == []
    assert not (tmp_path / "new").exists()


def test_room_for_workers_is_counted(machines, tmp_path):
    assert machines.found_device() == "cpu"
    assert machines.places(0) == 2
    assert machines.places(500 * MEBIBYTE) == 2
    assert machines.places(1000 * MEBIBYTE) == 1
    with pytest.raises(InputError, match="no machine of the cluster has room"):
        machines.places(2000 * MEBIBYTE)
    with pytest.raises(InputError, match="has a card"):
        dataclasses.replace(machines, device="cuda").found_device()
    with pytest.raises(InputError, match="cuda:1"):
        dataclasses.replace(machines, device="cuda:1").found_device()


def test_machines_that_do_not_fit_refuse(tmp_path, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow", reason="the extra `cluster` is not installed")
    table = pyarrow.table({"number": [4], "item": [pickle.dumps(4)]})

    def answer(mark, version, work=Stamping(tmp_path)):
        row = _Worker(work, mark, version)(table).to_pylist()[0]
        assert row["number"] == 4
        return pickle.loads(row["result"])

    old = answer(tmp_path, "0.0.0-other")
    assert isinstance(old, _Fatal) and "install 0.0.0-other" in str(old.error)
    monkeypatch.setitem(_Worker._check.__globals__, "_PATIENCE", 0.3)
    apart = answer(tmp_path / "not there", __version__)
    assert isinstance(apart, _Fatal) and "all machines share" in str(apart.error)
    odd = answer(tmp_path, __version__, Raising(KeyError("odd")))
    assert isinstance(odd.error, RunError) and "KeyError: 'odd'" in str(odd.error)


@given(st.integers(1, 10**6), st.integers(1, 500), st.integers(1, 64))
def test_shares_are_fair(items, workers, least):
    share = Settings(Path(), least=least).share(items, workers)
    equal = -(-items // workers)
    assert 1 <= share <= min(64, equal), "a worker would wait for another"
    assert share >= min(least, equal), "a network's batch would not be full"
    # Where there is much to do, the last shares to end are small ones.
    assert share == 64 or share <= max(least, -(-items // (8 * workers)))


# ---- translate ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    from v2ir.model import Guidance, architecture, build_model

    model = build_model(
        architecture("tiny"),
        name="tiny",
        styles=("north", "south"),
        resolution=64,
        multiple=16,
        solver="euler_ancestral",
        steps=4,
        guidance=Guidance(text=2.0, visible=1.5, segmentation=1.5),
        captioner="statistics",
        segmenter="regions",
        licence="for tests",
    )
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model.save(folder)
    return folder


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for number in range(12):
        below = "more" if number % 3 else "."
        Image.fromarray(street(number)[0]).save(folder / below / f"street_{number:02d}.png")
    (folder / "broken.jpg").write_bytes(b"not an image")
    (folder / "captions.jsonl").write_text('{"name": "street_00", "caption": "a street"}\n')
    return folder


class Killer(threading.Thread):
    """Kill one worker as soon as some outputs are complete."""

    def __init__(self, out, number):
        super().__init__(daemon=True)
        self.out, self.number = out, number
        self.before, self.killed = {}, 0

    def run(self):
        until = time.monotonic() + 300
        while time.monotonic() < until:
            if len(list(self.out.rglob("*.json"))) >= self.number and (ids := worker_processes()):
                os.kill(ids[0], signal.SIGKILL)
                self.killed = ids[0]
                done = state(self.out)
                self.before = {
                    name: stat
                    for name, stat in done.items()
                    if Path(name).with_suffix(".json").as_posix() in done
                }
                return
            time.sleep(0.02)


def test_translation_with_a_worker_killed(
    machines, tmp_path, model_folder, photos, monkeypatch, capsys
):
    there, here = tmp_path / "there", tmp_path / "here"
    words = ["--model", model_folder, "--captions", photos / "captions.jsonl", "--device", "cpu"]
    many = [*words, "--cluster", "local"]
    assert v2ir(monkeypatch, "translate", photos, there, *many, "--dry-run") == 0
    assert not there.exists()
    killer = Killer(there, 3)
    killer.start()
    assert v2ir(monkeypatch, "translate", photos, there, *many) == 1
    killer.join()
    told = " ".join(capsys.readouterr().err.split())  # lines break where the path is long
    assert "12 infrared images made" in told and "1 inputs failed" in told
    assert "broken.jpg" in told and "is not an image" in told
    assert killer.killed and 6 <= len(killer.before) < 24, "it was killed too late"
    after = state(there)
    assert {name: after[name] for name in killer.before} == killer.before
    assert v2ir(monkeypatch, "translate", photos, here, *words) == 1
    # Sidecars state the seed, the captioner, the hash of the input: all are the same.
    assert contents(there) == contents(here)
    assert len(contents(there)) == 24

    before = state(there)
    broken = photos / "broken.jpg"
    broken.unlink()
    nowhere = ["--cluster", "nowhere.invalid:1"]
    assert v2ir(monkeypatch, "translate", photos, there, *words, *nowhere) == 0
    assert state(there) == before


# ---- annotate -------------------------------------------------------------------------


def test_annotation_is_that_of_one_machine(machines, tmp_path, make_pairs, monkeypatch, capsys):
    here = make_pairs(9)
    index(here)
    there = tmp_path / "there"
    shutil.copytree(here, there)
    (there / "rgb" / "street_04.png").write_bytes(b"not an image")
    (there / "captions").mkdir()
    (there / "captions" / "street_01.txt").write_text("mine\n")
    words = ["annotate", there, "--cluster", "local", "--batch-size", "1"]
    assert v2ir(monkeypatch, *words, "--dry-run") == 0
    assert not (there / "seg").exists()
    assert v2ir(monkeypatch, *words) == 1
    told = capsys.readouterr().err
    assert "captions by statistics: 7 made, 0 already there, 1 your own" in told
    assert "maps by regions: 8 made" in told
    assert "1 inputs failed" in told and "street_04" in told

    annotate(here)
    rows = {row["name"]: row for row in read_jsonl(here / "captions.jsonl")}
    made = list(read_jsonl(there / "captions.jsonl"))
    assert {row["name"]: row for row in made} == {
        name: row for name, row in rows.items() if name not in {"street_01", "street_04"}
    }
    assert len(made) == 7, "a line was written twice"
    maps = contents(here / "seg")
    maps.pop("street_04.png")
    assert contents(there / "seg") == maps

    shutil.copy(here / "rgb" / "street_04.png", there / "rgb")
    assert v2ir(monkeypatch, *words) == 0
    before = state(there)
    assert v2ir(monkeypatch, *words[:2], "--cluster", "nowhere.invalid:1") == 0
    assert state(there) == before


# ---- caches ---------------------------------------------------------------------------


def entries(folder):
    """Return all tensors of the shards below a folder."""
    return {
        name: value
        for path in folder.rglob("*.safetensors")
        for name, value in load_file(path).items()
    }


def test_caches_are_those_of_one_machine(machines, tmp_path, make_pairs, model_folder):
    from v2ir.cluster.caching import fill_spread
    from v2ir.training import RECIPES, TrainSettings, train
    from v2ir.training.scenes import scenes_of, training_scenes
    from v2ir.training.train import CacheFiller, CacheShare

    data = make_pairs(6)
    index(data)
    annotate(data)
    stage = next(s for s in RECIPES["tiny"].stages if s.objective == "denoising")
    scenes = scenes_of(stage, training_scenes(data))
    here = CacheFiller(CacheShare(stage, str(model_folder), tmp_path / "here", scenes))
    here.fill(scenes)

    calls = []

    def fill(share, progress):
        calls.append([item.scene.name for item in share.scenes])
        fill_spread(machines)(share, progress)

    recipe = RECIPES["tiny"].model_copy(update={"stages": (stage.model_copy(update={"steps": 2}),)})
    settings = TrainSettings(data, tmp_path / "run", (), str(model_folder))
    train(recipe, settings, fill=fill)
    assert calls == [[item.scene.name for item in scenes]]

    share = CacheShare(stage, str(model_folder), data / ".cache", scenes)
    there = CacheFiller(share)
    assert there.objective.unprepared(scenes) == []
    assert len(there.caches.latents.store) == len(here.caches.latents.store) > 0
    one, many = entries(tmp_path / "here"), entries(data / ".cache")
    assert one.keys() == many.keys()
    assert all(torch.equal(one[name], many[name]) for name in one)
