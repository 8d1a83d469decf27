"""The store: what is fresh, what is the user's own, what survives kills and crowds."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from v2ir.annotation import AnnotationStore, Provenance, annotate
from v2ir.cli import app
from v2ir.data import index, load_scenes
from v2ir.errors import DataError, InputError, OutputError, UnknownNameError
from v2ir.files import append_jsonl, hash_file, read_jsonl
from v2ir.images import read_map


class Fixed:
    """A captioner and segmenter that says the same of every image, and counts its work."""

    def __init__(self, name="fixed", version="1", text="a thing"):
        self.name, self.version, self.text = name, version, text
        self.batches = []

    def caption(self, images):
        self.batches.append(len(images))
        return [f"{self.text} of {image.shape[1]} pixels" for image in images]

    def segment(self, images):
        self.batches.append(len(images))
        return [np.full(image.shape[:2], 200, np.uint8) for image in images]


@pytest.fixture
def data(make_pairs):
    root = make_pairs(5)
    (root / "rgb" / "deep" / "er").mkdir(parents=True)
    (root / "ir" / "deep" / "er").mkdir(parents=True)
    for side in ("rgb", "ir"):
        source = root / side / "street_00.png"
        Image.open(source).rotate(180).save(root / side / "deep" / "er" / "down.v2.png")
    Image.open(root / "ir" / "street_01.png").rotate(90).save(root / "ir" / "alone.png")
    index(root)
    return root


def scenes_of(root):
    return {scene.name: scene for scene in load_scenes(root)}


def snapshot(root):
    """Return every file below `root` with its bytes and time of change."""
    files = [path for path in root.rglob("*") if path.is_file()]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def contents(root):
    """Return the results alone: captions by name, maps by path."""
    captions = {row["name"]: row for row in read_jsonl(root / "captions.jsonl")}
    maps = {str(p.relative_to(root)): p.read_bytes() for p in (root / "seg").rglob("*.png")}
    return captions, maps


def test_a_pass_makes_everything_once_and_a_second_changes_no_file(data):
    report = annotate(data)
    assert (report.captions.made, report.segmentations.made) == (6, 6)
    assert report.infrared_only == 1
    assert report.failures == ()
    before = snapshot(data)
    again = annotate(data)
    assert (again.captions.kept, again.segmentations.kept) == (6, 6)
    assert again.captions.made == again.segmentations.made == 0
    assert snapshot(data) == before


def test_the_store_gives_what_was_made(data):
    annotate(data)
    store, scenes = AnnotationStore(data), scenes_of(data)
    deep = scenes["deep/er/down.v2"]
    assert store.segmentation_path(deep) == data / "seg" / "deep" / "er" / "down.v2.png"
    assert read_map(store.segmentation_path(deep)).shape == (deep.height, deep.width)
    assert store.caption(deep) == store.captions(deep)[0]
    source = Provenance("statistics", "1", deep.visible_hash)
    assert store.provenance("caption", deep) == source
    assert store.provenance("segmentation", deep) == dataclasses.replace(
        source, annotator="regions"
    )
    alone = scenes["alone"]
    assert store.caption(alone) is None
    assert store.captions(alone) == []
    assert store.segmentation_path(alone) is None


@pytest.mark.parametrize("change", ["name", "version", "image"])
@pytest.mark.parametrize("kind", ["caption", "segmentation"])
def test_a_result_is_stale_when_name_version_or_image_changes(data, change, kind):
    first = Fixed()
    annotate(data, captioner=first, segmenter=first)
    store, scene = AnnotationStore(data), scenes_of(data)["street_00"]
    assert store.is_fresh(kind, scene, first)
    if change == "image":
        Image.new("RGB", (96, 80), (9, 9, 9)).save(data / "rgb" / "street_00.png")
        index(data)
        changed, scene = first, scenes_of(data)["street_00"]
        assert store.caption(scene) is None, "a caption of another image was given out"
        assert store.segmentation_path(scene) is None
    else:
        changed = Fixed(**{change: "other"})
    assert store.state(kind, scene, changed) == "stale"
    report = annotate(data, captioner=changed, segmenter=changed)
    assert report.captions.made == report.segmentations.made == (1 if change == "image" else 6)
    assert store.is_fresh(kind, scene, changed)
    assert store.caption(scene)


def test_several_captions_keep_their_order_and_the_last_put_counts(data):
    store, scene = AnnotationStore(data), scenes_of(data)["street_00"]
    source = Provenance("blip", "7", scene.visible_hash)
    store.put_captions(scene, ["first road", "second road"], source)
    assert store.captions(scene) == ["first road", "second road"]
    store.put_captions(scene, ["third road"], source)
    assert store.captions(scene) == ["third road"]
    assert AnnotationStore(data).captions(scene) == ["third road"]


def test_own_captions_and_maps_are_taken_as_they_are(data):
    (data / "captions" / "deep" / "er").mkdir(parents=True)
    (data / "captions" / "deep" / "er" / "down.v2.txt").write_text("a well\n\na hole\n")
    append_jsonl(data / "captions.jsonl", {"name": "street_01", "caption": "my street"})
    append_jsonl(data / "captions.jsonl", {"name": "street_01.png", "caption": "once more"})
    (data / "seg").mkdir()
    own = np.tile(np.array([[0, 255]], np.uint8), (80, 48))
    Image.fromarray(own).save(data / "seg" / "street_02.png")
    own_bytes = (data / "seg" / "street_02.png").read_bytes()

    report = annotate(data)
    assert (report.captions.own, report.captions.made) == (2, 4)
    assert (report.segmentations.own, report.segmentations.made) == (1, 5)
    store, scenes = AnnotationStore(data), scenes_of(data)
    assert store.captions(scenes["deep/er/down.v2"]) == ["a well", "a hole"]
    assert store.captions(scenes["street_01"]) == ["my street", "once more"]
    assert store.provenance("caption", scenes["street_01"]).is_user
    assert (data / "seg" / "street_02.png").read_bytes() == own_bytes

    with pytest.raises(OutputError, match="captions of your own"):
        store.put_captions(scenes["street_01"], ["a road"], Provenance("a", "1"))
    with pytest.raises(OutputError, match="your own map"):
        store.put_segmentation(scenes["street_02"], own, Provenance("a", "1"))

    forced = annotate(data, force=True)
    assert forced.captions.made == forced.segmentations.made == 6
    assert store.provenance("caption", scenes["deep/er/down.v2"]).annotator == "statistics"
    assert store.provenance("segmentation", scenes["street_02"]).annotator == "regions"
    assert (data / "captions" / "deep" / "er" / "down.v2.txt").read_text().startswith("a well")
    assert annotate(data).captions.kept == 6, "what was forced is not fresh afterwards"

    append_jsonl(data / "captions.jsonl", {"name": "street_01", "captions": ["mine again"]})
    assert store.captions(scenes["street_01"]) == ["mine again"]
    assert annotate(data).captions.own == 1


def test_a_map_edited_by_hand_becomes_the_users_own(data):
    annotate(data, captioner=None)
    path = data / "seg" / "street_00.png"
    image = Image.open(path)
    image.load()
    chunks = dict(image.info)
    edited = np.asarray(image).copy()
    edited[:10] = 0
    from v2ir.images import encode_png

    path.write_bytes(encode_png(edited, {k: v for k, v in chunks.items() if isinstance(v, str)}))
    report = annotate(data, captioner=None, segmenter=Fixed())
    assert (report.segmentations.own, report.segmentations.made) == (1, 5)
    assert np.array_equal(read_map(path), edited)


def test_masks_follow_the_infrared_image(data):
    store, scene = AnnotationStore(data), scenes_of(data)["alone"]
    assert store.mask_path(scene) is None
    mask = np.zeros((scene.height, scene.width), np.uint8)
    store.put_mask(scene, mask, Provenance("hot", "1", scene.infrared_hash))
    assert store.mask_path(scene) == data / "mask" / "alone.png"
    assert store.mask_path(dataclasses.replace(scene, infrared_hash="0" * 64)) is None
    with pytest.raises(InputError, match="not HW uint8"):
        store.put_mask(scene, mask.astype(np.float32), Provenance("hot", "2"))


def test_broken_images_are_listed_and_the_others_done(data):
    rgb = data / "rgb"
    (rgb / "street_00.png").write_bytes((rgb / "street_01.png").read_bytes()[:200])
    (rgb / "street_02.png").unlink()
    Image.new("RGB", (96, 80), (50, 60, 70)).save(rgb / "street_03.png")
    report = annotate(data)
    failures = dict(report.failures)
    assert set(failures) == {f"rgb/street_0{number}.png" for number in (0, 2, 3)}
    assert "changed since" in failures["rgb/street_03.png"]
    assert report.captions.made == report.segmentations.made == 3


def test_an_empty_caption_is_a_failure_not_a_result(data):
    class Silent(Fixed):
        def caption(self, images):
            return [" " for _ in images]

    report = annotate(data, captioner=Silent(), segmenter=None)
    assert len(report.failures) == 6
    assert report.captions.made == 0
    assert not (data / "captions.jsonl").exists()


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_batches_are_bounded_and_change_nothing(data, batch_size):
    counted, told = Fixed(), []
    annotate(
        data,
        captioner=counted,
        segmenter=None,
        batch_size=batch_size,
        progress=lambda done, total: told.append((done, total)),
    )
    assert sum(counted.batches) == 6
    assert max(counted.batches) == min(batch_size, 6)
    assert told[-1] == (6, 6)


def test_torn_and_foreign_lines_are_passed_over(data, caplog):
    annotate(data, segmenter=None)
    path = data / "captions.jsonl"
    whole = path.read_bytes()
    path.write_bytes(b'not json\n{"caption": "nameless"}\n' + whole[:-20])
    store = AnnotationStore(data)
    last = json.loads(whole.splitlines()[-1])["name"]
    assert store.captions(scenes_of(data)[last]) == []
    assert "passed over a line" in caplog.text
    report = annotate(data, segmenter=None)
    assert (report.captions.made, report.captions.kept) == (1, 5)
    assert store.captions(scenes_of(data)[last])


def test_a_line_seen_half_written_is_taken_when_it_is_whole(data):
    store, scene = AnnotationStore(data), scenes_of(data)["street_00"]
    store.put_captions(scene, ["old road"], Provenance("a", "1"))
    line = json.dumps({"name": "street_00", "captions": ["new road"], "annotator": "a"}).encode()
    with (data / "captions.jsonl").open("ab", buffering=0) as stream:
        stream.write(line[:30])
        assert store.captions(scene) == ["old road"]
        stream.write(line[30:] + b"\n")
    assert store.captions(scene) == ["new road"]


def test_wrong_use_says_what_to_do(data, tmp_path):
    with pytest.raises(DataError, match="v2ir index"):
        annotate(tmp_path)
    with pytest.raises(UnknownNameError, match="regions"):
        annotate(data, segmenter="regons")
    with pytest.raises(InputError, match="batch_size"):
        annotate(data, batch_size=0)


def test_a_full_disk_stops_with_a_clear_error_and_leaves_no_result(data, monkeypatch):
    real_write = os.write
    monkeypatch.setattr(os, "write", lambda handle, line: real_write(handle, line[:25]))
    with pytest.raises(OutputError, match="free space"):
        annotate(data, segmenter=None)
    monkeypatch.undo()
    assert annotate(data, segmenter=None).captions.made == 6


ANNOTATE = "import sys; from pathlib import Path; from v2ir.annotation import annotate; "


def test_killed_and_run_again_gives_the_same_files(make_pairs, tmp_path):
    killed, whole = make_pairs(10, tmp_path / "killed"), make_pairs(10, tmp_path / "whole")
    for root in (killed, whole):
        index(root)
    annotate(whole)
    code = ANNOTATE + "annotate(Path(sys.argv[1]), batch_size=1)"
    for wanted in ("captions.jsonl", "seg/street_02.png"):
        process = subprocess.Popen([sys.executable, "-c", code, str(killed)])
        limit = time.monotonic() + 60
        while not (killed / wanted).exists() and process.poll() is None:
            assert time.monotonic() < limit
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    done = len(list((killed / "seg").glob("*.png")))
    report = annotate(killed)
    assert report.segmentations.kept == done
    assert report.segmentations.made == 10 - done
    assert contents(killed) == contents(whole)
    annotate_report = annotate(killed)
    assert annotate_report.captions.kept == annotate_report.segmentations.kept == 10


def _put_many(root, who, number):
    store = AnnotationStore(root)
    scene = load_scenes(root)[0]
    for count in range(number):
        mine = dataclasses.replace(scene, name=f"{who}/{count}")
        store.put_captions(mine, [f"caption {count} of {who} " + "x" * 300], Provenance(who, "1"))


def test_two_processes_append_at_once_without_loss(data):
    context = multiprocessing.get_context("spawn")
    number = 150
    processes = [
        context.Process(target=_put_many, args=(data, who, number)) for who in ("one", "two")
    ]
    store = AnnotationStore(data)
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len((data / "captions.jsonl").read_text().splitlines()) == 2 * number
    scene = scenes_of(data)["street_00"]
    for who in ("one", "two"):
        for count in range(number):
            mine = dataclasses.replace(scene, name=f"{who}/{count}")
            assert store.caption(mine).startswith(f"caption {count} of {who} ")


def test_the_verb_annotates_lists_failures_and_tries_dry(data):
    runner, before = CliRunner(), snapshot(data)
    dry = runner.invoke(app, ["annotate", str(data), "--dry-run"])
    assert dry.exit_code == 0, dry.output
    assert "captions by statistics: 6 to make" in dry.output
    assert snapshot(data) == before
    only = runner.invoke(app, ["annotate", str(data), "--captioner", "none"])
    assert only.exit_code == 0, only.output
    assert "captions" not in only.output
    assert not (data / "captions.jsonl").exists()
    assert len(list((data / "seg").rglob("*.png"))) == 6
    (data / "rgb" / "street_00.png").write_text("no image")
    failed = runner.invoke(app, ["annotate", str(data), "--segmenter", "none"])
    assert failed.exit_code == 1
    assert "rgb/street_00.png" in failed.output
    assert hash_file(data / "captions.jsonl")
