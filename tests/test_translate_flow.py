"""The streams, the sidecar's decision and the noise behind `v2ir translate`."""

from __future__ import annotations

import dataclasses
import gc
import json
import threading
import time
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from v2ir.errors import InputError
from v2ir.sampling.flow import Behind, Waiting, Worker, batches
from v2ir.sampling.jobs import find_jobs
from v2ir.sampling.noise import draw_noise, image_generator
from v2ir.sampling.sidecar import Sidecar

# ---- streams --------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers()), max_size=60),
    st.integers(1, 6),
    st.integers(0, 12),
)
def test_batches_lose_nothing_and_mix_nothing(items, size, most_waiting):
    found = list(batches(items, lambda item: item[0], size, most_waiting))
    assert sorted(item for batch in found for item in batch) == sorted(items)
    assert all(1 <= len(batch) <= size for batch in found)
    assert all(len({key for key, _ in batch}) == 1 for batch in found)
    for key in range(5):  # the order within a key is kept
        seen = [item for batch in found for item in batch if item[0] == key]
        assert seen == [item for item in items if item[0] == key]


def test_like_images_wait_for_one_another():
    items = [(key, number) for number in range(4) for key in "abc"]
    assert [len(batch) for batch in batches(items, lambda item: item[0], 4, 9)] == [4, 4, 4]
    assert [len(batch) for batch in batches(items, lambda item: item[0], 4, 0)] == [1] * 12


class Image:
    alive: weakref.WeakSet[Image]

    def __init__(self, number):
        self.number, self.shape = number, number % 3


@pytest.mark.parametrize("number", [40, 400])
def test_the_number_of_images_in_memory_does_not_grow(number):
    """The same chain as `translate`: reader, batches, network, writer."""
    alive: weakref.WeakSet[Image] = weakref.WeakSet()
    most, size, written = 0, 4, []

    def read(index):
        image = Image(index)
        alive.add(image)
        return image

    writer = Behind(lambda image: written.append(image.number), depth=2 * size)
    with Worker() as reader, writer:
        prepared = reader.ahead(read, range(number), depth=size + 1)
        for batch in batches(prepared, lambda image: image.shape, size, 3 * size):
            for image in batch:
                writer.put(image)
            gc.collect(0)
            most = max(most, len(alive))
        writer.finish()
    assert sorted(written) == list(range(number))
    assert writer.done == number
    # Read ahead, waiting for a batch, the batch, waiting to be written, and in hand.
    assert most <= (size + 2) + 3 * size + size + 2 * size + 4


def test_the_reader_is_ahead_and_in_order():
    seen = []
    with Worker() as reader:
        stream = reader.ahead(lambda item: seen.append(item) or item, range(100), depth=3)
        first = next(stream)
        while len(seen) < 4:
            time.sleep(0.001)
        assert first == 0
        assert len(seen) == 4
        assert list(stream) == list(range(1, 100))


def test_several_readers_keep_the_order():
    gates = [threading.Event() for _ in range(3)]

    def work(item):
        if item < 2:  # the first two end after the third
            gates[2].wait()
        gates[item % 3].set()
        return item

    with Worker(3) as reader:
        assert list(reader.ahead(work, range(30), depth=5)) == list(range(30))


def test_the_time_that_a_stream_is_waited_for():
    def slow():
        for item in range(3):
            time.sleep(0.02)
            yield item

    stream = Waiting(slow())
    found = []
    for item in stream:
        found.append(item)
        time.sleep(0.05)  # the caller's own time does not count
    assert found == [0, 1, 2]
    assert stream.seconds >= 3 * 0.02
    ready = Waiting([1, 2])
    assert list(ready) == [1, 2]
    assert ready.seconds < stream.seconds


def test_errors_of_the_writer_reach_the_caller():
    def refuse(item):
        if item == 3:
            raise OSError("full")

    with pytest.raises(OSError, match="full"), Behind(refuse, depth=2) as writer:
        for item in range(10):
            writer.put(item)


def test_an_error_drops_what_has_not_begun():
    begun, gate = [], threading.Event()

    def work(item):
        begun.append(item)
        gate.wait()

    with pytest.raises(KeyboardInterrupt), Behind(work, depth=50) as writer:
        for item in range(20):
            writer.put(item)
        while not begun:
            time.sleep(0.001)
        threading.Timer(0.05, gate.set).start()
        raise KeyboardInterrupt
    assert begun == [0]


# ---- noise ----------------------------------------------------------------------------


def test_noise_depends_on_the_seed_and_the_content_alone():
    def noise(seed, content):
        return draw_noise([image_generator(seed, content)], 4, 8, 8)

    assert torch.equal(noise(1, "a"), noise(1, "a"))
    different = [noise(seed, content) for seed in (0, 1) for content in "ab"]
    assert len({tuple(x.flatten().tolist()) for x in different}) == 4
    both = draw_noise([image_generator(1, "b"), image_generator(1, "a")], 4, 8, 8)
    assert torch.equal(both[1:], noise(1, "a"))


def test_noise_is_standard_normal():
    noise = draw_noise([image_generator(seed, "x") for seed in range(8)], 4, 64, 64)
    assert float(noise.mean()) == pytest.approx(0, abs=0.02)
    assert float(noise.std()) == pytest.approx(1, abs=0.02)
    rows = noise.flatten(1)
    assert float((torch.corrcoef(rows) - torch.eye(8)).abs().max()) < 0.05


# ---- sidecar --------------------------------------------------------------------------

MADE = Sidecar(
    model="m",
    model_hash="h",
    seed=0,
    steps=2,
    solver="dpmpp",
    guidance={"text": 1.0, "interval": [0.0, 1.0]},
    style="north",
    resolution=64,
    without=("caption",),
    input="a/b.png",
    input_hash="i",
    captioner="statistics 1",
    segmenter="regions 1",
    v2ir="0.1",
)


@pytest.mark.parametrize("style", ["north", None])
def test_a_sidecar_read_from_disk_agrees(style):
    full = dataclasses.replace(MADE, style=style, caption="street", geometry={"width": 3})
    wanted = dataclasses.replace(MADE, style=style)
    assert wanted.agrees_with(Sidecar.from_json(json.loads(json.dumps(full.to_json()))))


@pytest.mark.parametrize(
    "change",
    [
        {"model_hash": "x"},
        {"seed": 1},
        {"steps": 3},
        {"solver": "ddim"},
        {"guidance": {"text": 2.0, "interval": [0.0, 1.0]}},
        {"style": None},
        {"resolution": "native"},
        {"reuse": 2},
        {"precision": "bfloat16"},
        {"without": ()},
        {"captioner": "statistics 2"},
        {"segmenter": None},
        {"input_hash": "j"},
    ],
    ids=str,
)
def test_whatever_changes_the_picture_disagrees(change):
    assert not dataclasses.replace(MADE, **change).agrees_with(MADE)


@pytest.mark.parametrize(
    "change", [{"input": "c.png"}, {"v2ir": "9"}, {"caption": "x"}, {"speed": "fast"}], ids=str
)
def test_a_moved_input_and_a_newer_version_agree(change):
    assert dataclasses.replace(MADE, **change).agrees_with(MADE)


def test_a_caption_counts_where_the_user_gave_it():
    made = dataclasses.replace(MADE, captioner="user", caption="a street")
    assert made.agrees_with(made)
    assert not dataclasses.replace(made, caption="a yard").agrees_with(made)


# ---- jobs -----------------------------------------------------------------------------


def test_outputs_of_a_folder(tmp_path):
    for name in ("a.jpg", "sub/b.c.png", "sub/.hidden.png", "notes.txt", "d.JPG", "d.tif"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    jobs = find_jobs(tmp_path / "in", tmp_path / "out")
    assert {job.name: job.output.relative_to(tmp_path / "out").as_posix() for job in jobs} == {
        "a.jpg": "a.png",
        "d.JPG": "d.JPG.png",
        "d.tif": "d.tif.png",
        "sub/b.c.png": "sub/b.c.png",
    }
    assert len({job.sidecar for job in jobs}) == 4


def test_names_that_still_collide_are_refused(tmp_path):
    for name in ("a.jpg", "a.png", "a.jpg.bmp"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"a\.jpg, a\.jpg\.bmp.*rename"):
        find_jobs(tmp_path, tmp_path / "out")
