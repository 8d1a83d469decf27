"""Captions and maps that say nothing are found, listed, and never given to training."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from v2ir.annotation import AnnotationStore, Provenance, annotate, check_annotations
from v2ir.annotation.quality import caption_fault, measure_map
from v2ir.cli import app
from v2ir.data import index, load_scenes
from v2ir.files import append_jsonl


@pytest.mark.parametrize(
    "caption, fault",
    [
        ("a street at night with parked cars", None),
        ("two people walk past a brick wall", None),
        ("ein nasser Platz bei Nacht", None),
        ("夜晚的街道", None),
        ("", "empty"),
        (" ... 12 !", "empty"),
        ("a black and white photo", "no noun"),
        ("it is very dark and cold in the picture", "no noun"),
        ("car car car car car", "repeating"),
        ("a tree and a tree and a tree and a tree and a tree", "repeating"),
        ("road tree car road car tree car road tree car tree road tree", "repeating"),
        ("a car near a car on a road by a wall", None),
    ],
)
def test_captions_that_say_nothing(caption, fault):
    assert caption_fault(caption) == fault


@given(st.text(alphabet="ab t\n.'-é夜1", max_size=60))
def test_any_text_has_a_verdict(text):
    assert caption_fault(text) in {None, "empty", "repeating", "no noun"}


def noisy(low, high, seed=0):
    return np.random.default_rng(seed).integers(low, high, (80, 96)).astype(np.uint8)


def test_maps_that_say_nothing():
    assert measure_map(np.full((80, 96), 255, np.uint8)).fault == "all white"
    assert measure_map(np.zeros((80, 96), np.uint8)).fault == "all black"
    assert measure_map(noisy(120, 128)).fault == "nearly constant"
    assert measure_map(noisy(250, 256)).fault == "all white"
    speck = np.full((80, 96), 255, np.uint8)
    speck[:3, :5] = 0  # 15 of 7680 pixels
    assert measure_map(speck).fault == "all white"
    line = np.full((80, 96), 255, np.uint8)
    line[:, 40] = 0
    assert measure_map(line).fault is None
    assert measure_map(255 - line).fault is None


def test_a_coloured_map_counts_by_its_liveliest_channel():
    colours = np.zeros((80, 96, 3), np.uint8)
    colours[:, :48, 2] = 200
    assert measure_map(colours).fault is None
    assert measure_map(np.full((8, 8, 3), (9, 120, 200), np.uint8)).fault == "nearly constant"


@pytest.fixture
def spoilt(make_pairs):
    """Return a data set with a white map, a nearly constant one and two bad captions."""
    root = make_pairs(6)
    index(root)
    annotate(root)
    scenes = {scene.name: scene for scene in load_scenes(root)}
    store = AnnotationStore(root)
    for name, pixels in (("street_00", 255), ("street_01", 130)):
        source = Provenance("broken", "1", scenes[name].visible_hash)
        store.put_segmentation(scenes[name], np.full((80, 96), pixels, np.uint8), source)
    # The user's own map, black all over, without a word about its making.
    Image.fromarray(np.zeros((80, 96), np.uint8)).save(root / "seg" / "street_02.png")
    source = Provenance("broken", "1", scenes["street_03"].visible_hash)
    store.put_captions(scenes["street_03"], ["wall wall wall wall wall", "a wall"], source)
    append_jsonl(root / "captions.jsonl", {"name": "street_04", "caption": "a picture"})
    return root, scenes


def test_the_store_leaves_them_out_counts_and_logs_once(spoilt, caplog):
    root, scenes = spoilt
    store = AnnotationStore(root)
    paths = {name: store.segmentation_path(scene) for name, scene in scenes.items()}
    assert [name for name, path in paths.items() if path is None] == [
        "street_00",
        "street_01",
        "street_02",
    ]
    assert store.captions(scenes["street_03"]) == ["a wall"]
    assert store.captions(scenes["street_04"]) == []
    assert store.left_out == {
        "all white": 1,
        "nearly constant": 1,
        "all black": 1,
        "repeating": 1,
        "no noun": 1,
    }
    assert caplog.text.count("say nothing") == 1
    everything = AnnotationStore(root, with_faulty=True)
    assert everything.segmentation_path(scenes["street_00"])
    assert len(everything.captions(scenes["street_03"])) == 2
    assert everything.left_out == {}


def test_training_does_not_see_them(spoilt):
    from v2ir.training.scenes import training_scenes

    root, scenes = spoilt
    for scene in scenes.values():
        rows = [row for row in training_scenes(root, scene.split) if row.scene.name == scene.name]
        assert (rows[0].segmentation is None) == (
            scene.name in {"street_00", "street_01", "street_02"}
        )
        assert "wall wall wall wall wall" not in rows[0].captions


def test_check_lists_each_once(spoilt):
    root, _ = spoilt
    kinds = sorted(finding.kind for finding in check_annotations(root))
    assert kinds == ["caption: no noun", "caption: repeating", *["empty map"] * 3]
    result = CliRunner().invoke(app, ["check", str(root), "--skip", "alignment", "--json"])
    rows = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    maps = sorted(row["where"][0] for row in rows if row["kind"] == "empty map")
    assert maps == ["seg/street_00.png", "seg/street_01.png", "seg/street_02.png"]
    assert sum(row["kind"].startswith("caption:") for row in rows) == 2
    without = ["check", str(root), "--skip", "alignment", "--skip", "annotations", "--json"]
    assert "caption:" not in CliRunner().invoke(app, without).stdout


def test_a_caption_that_all_scenes_share_is_listed(make_pairs):
    root = make_pairs(24)
    index(root)
    for scene in load_scenes(root)[:20]:
        append_jsonl(root / "captions.jsonl", {"name": scene.name, "caption": "a grey street"})
    found = [f for f in check_annotations(root) if f.kind == "caption: shared"]
    assert len(found) == 1
    assert "20 of 20" in found[0].what


def test_the_report_counts_what_is_faulty(make_pairs):
    class White:
        name, version = "white", "1"

        def segment(self, images):
            return [np.full(image.shape[:2], 255, np.uint8) for image in images]

    root = make_pairs(3)
    index(root)
    assert annotate(root, captioner=None, segmenter=White()).segmentations.faulty == 3
    assert annotate(root, captioner=None).segmentations.faulty == 0
