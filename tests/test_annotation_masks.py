"""Many masks, one map: known answers, SAM's own folders, suppression, own maps and captions."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from v2ir.annotation import (
    AnnotationStore,
    annotate,
    export,
    import_captions,
    import_segmentations,
    merge_masks,
)
from v2ir.annotation.masks import (
    RENDERINGS,
    boundaries,
    flat_regions,
    label_regions,
    mask_boxes,
    suppress,
    union,
)
from v2ir.captions import read_captions
from v2ir.cli import app
from v2ir.data import index, load_scenes
from v2ir.errors import DataError, InputError, UnknownNameError
from v2ir.images import read_map


def rectangle(left, top, right, bottom, shape=(40, 60)):
    mask = np.zeros(shape, bool)
    mask[top:bottom, left:right] = True
    return mask


WALL, WINDOW, CAR = rectangle(0, 0, 30, 30), rectangle(5, 5, 15, 15), rectangle(30, 10, 50, 30)
IMAGE = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)


def test_the_union_is_white_where_any_mask_lies():
    found = union([WALL, WINDOW, CAR], IMAGE)
    assert np.array_equal(found == 255, WALL | WINDOW | CAR)
    assert np.array_equal(found == 0, ~(WALL | CAR))


def test_small_masks_lie_over_large_ones_whatever_the_order():
    labels = label_regions([WINDOW, WALL, CAR], (40, 60))
    assert labels[0, 0] != labels[10, 10]
    assert labels[35, 55] == 0
    assert len(np.unique(labels)) == 4
    assert np.array_equal(labels == labels[10, 10], WINDOW)


def test_boundaries_divide_masks_that_touch():
    found = boundaries([WALL, WINDOW, CAR], IMAGE)
    assert (found[12:20, 29:31] == 0).all(), "no line where wall and car touch"
    assert found[20, 26] == 255
    assert found[10, 10] == 255
    assert (found[4:6, 8] == 0).all(), "no line around the window"
    assert (found[~(WALL | CAR)] == 0).all()
    assert (union([WALL, CAR], IMAGE)[12:20, 29:31] == 255).all()


def test_regions_have_their_mean_colour():
    found = flat_regions([WALL, WINDOW, CAR], IMAGE)
    assert (found[~(WALL | CAR)] == 0).all()
    for mask in (WINDOW, CAR, WALL & ~WINDOW):
        mean = IMAGE[mask].astype(float).mean(axis=0)
        assert np.abs(found[mask] - mean).max() <= 0.5
    black = flat_regions([WINDOW], np.zeros_like(IMAGE))
    assert (black[WINDOW] == 1).all()


@pytest.mark.parametrize("name", RENDERINGS)
def test_no_masks_are_a_black_map(name):
    assert not RENDERINGS[name]([], IMAGE).any()


def test_suppression_keeps_the_best_of_boxes_that_overlap():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30], [0, 0, 10, 6]])
    # Overlaps with the first: 0.9 and 0.6.
    assert suppress(boxes, np.array([0.8, 0.9, 0.5, 0.7]), 0.7).tolist() == [1, 3, 2]
    assert suppress(boxes, np.array([0.9, 0.8, 0.5, 0.7]), 0.5).tolist() == [0, 2]
    assert suppress(np.zeros((0, 4)), np.zeros(0), 0.5).tolist() == []


@given(st.integers(0, 10_000), st.floats(0.05, 0.95))
def test_suppression_leaves_no_two_that_overlap_and_drops_none_without_cause(seed, limit):
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 30, (12, 2))
    boxes = np.concatenate([corners, corners + rng.integers(1, 20, (12, 2))], axis=1)
    scores = rng.random(12)

    def overlap(one, other):
        sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
        shared = sides.clip(0).prod()
        return shared / ((one[2:] - one[:2]).prod() + (other[2:] - other[:2]).prod() - shared)

    kept = suppress(boxes, scores, limit).tolist()
    assert all(overlap(boxes[i], boxes[j]) <= limit for i in kept for j in kept if i != j)
    for dropped in set(range(12)) - set(kept):
        better = [k for k in kept if scores[k] >= scores[dropped]]
        assert any(overlap(boxes[dropped], boxes[k]) > limit for k in better)


def test_boxes_end_at_the_last_pixel():
    assert mask_boxes([CAR, np.zeros((40, 60), bool)]).tolist() == [[30, 10, 49, 29], [0, 0, 0, 0]]


def write_masks(folder, masks):
    """Write masks as SAM's own script does."""
    folder.mkdir(parents=True)
    lines = ["id,area,bbox_x0,bbox_y0,bbox_w,bbox_h,point_input_x,point_input_y,predicted_iou"]
    for number, mask in enumerate(masks):
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{number}.png")
        lines.append(f"{number},{mask.sum()},0,0,0,0,0,0,0.9")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")


def test_sams_folders_are_merged(tmp_path):
    many = [rectangle(i, i, i + 2, i + 2) for i in range(11)]
    write_masks(tmp_path / "a", [WALL, WINDOW, CAR, *many])
    assert np.array_equal(merge_masks(tmp_path / "a"), union([WALL, CAR], IMAGE))
    expected = flat_regions([WALL, WINDOW, CAR, *many], IMAGE)
    assert np.array_equal(merge_masks(tmp_path / "a", "regions", IMAGE), expected)
    with pytest.raises(DataError, match="visible image"):
        merge_masks(tmp_path / "a", "regions")
    with pytest.raises(UnknownNameError, match="boundaries"):
        merge_masks(tmp_path / "a", "boundary")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "a" / "3.png")
    with pytest.raises(DataError, match="differ in size"):
        merge_masks(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no masks"):
        merge_masks(tmp_path / "empty")


@pytest.fixture
def data(make_pairs):
    root = make_pairs(4, width=60, height=40)
    index(root)
    return root


def scenes_of(root):
    return {scene.name: scene for scene in load_scenes(root)}


def test_own_maps_and_masks_come_in_once_and_stay(data, tmp_path):
    own = tmp_path / "masks"
    write_masks(own / "street_00", [WALL, CAR])
    Image.fromarray(union([CAR], IMAGE)).save(own / "street_01.png")
    Image.fromarray(union([CAR], IMAGE)).save(own / "elsewhere.png")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(own / "street_02.png")
    dry = import_segmentations(data, own, dry_run=True)
    assert (dry.taken, dry.strangers) == (3, ("elsewhere",))
    assert not (data / "seg").exists()
    report = import_segmentations(data, own)
    assert report.taken == 2
    assert "another size" in report.failures[0][1]
    store, scenes = AnnotationStore(data), scenes_of(data)
    first = read_map(store.segmentation_path(scenes["street_00"]))
    assert np.array_equal(first, union([WALL, CAR], IMAGE))
    assert annotate(data, captioner=None).segmentations.own == 2
    assert import_segmentations(data, own).kept == 2
    forced = import_segmentations(data, own, rendering="regions", force=True)
    assert forced.taken == 2
    assert read_map(store.segmentation_path(scenes["street_00"])).shape == (40, 60, 3)
    with pytest.raises(InputError, match="no maps"):
        import_segmentations(data, tmp_path / "nothing")


COCO = {
    "images": [{"id": 7, "file_name": "street_00.png"}, {"id": 8, "file_name": "street_01.png"}],
    "annotations": [
        {"image_id": 7, "id": 1, "caption": "a red car"},
        {"image_id": 8, "id": 2, "caption": "a wall"},
        {"image_id": 7, "id": 3, "caption": " a road "},
    ],
}
EXPECTED = {"street_00": ("a red car", "a road"), "street_01": ("a wall",)}


def write_captions(folder, kind):
    if kind == "texts":
        (folder / "texts").mkdir()
        (folder / "texts" / "street_00.txt").write_text("a red car\n\n a road\n")
        (folder / "texts" / "street_01_ir.txt").write_text("a wall")
        return folder / "texts"
    path = folder / f"captions.{kind}"
    if kind == "json":
        path.write_text(json.dumps(COCO))
    elif kind == "csv":
        path.write_text(
            "file_name,caption\n"
            'street_00.png,a red car\nstreet_01.png,a wall\nstreet_00.png,"a road"\n'
        )
    else:
        rows = [("street_00.png", "a red car"), ("street_01", "a wall"), ("street_00", "a road")]
        path.write_text("".join(json.dumps({"name": n, "caption": c}) + "\n" for n, c in rows))
    return path


@pytest.mark.parametrize("kind", ["texts", "jsonl", "csv", "json"])
def test_own_captions_of_every_kind(data, tmp_path, kind):
    source = write_captions(tmp_path, kind)
    assert read_captions(source) == EXPECTED
    annotate(data, segmenter=None)
    assert import_captions(data, source, dry_run=True).taken == 2
    assert import_captions(data, source).taken == 2
    store, scenes = AnnotationStore(data), scenes_of(data)
    assert tuple(store.captions(scenes["street_00"])) == EXPECTED["street_00"]
    before = (data / "captions.jsonl").read_bytes()
    assert import_captions(data, source).kept == 2
    assert annotate(data, segmenter=None).captions.own == 2
    assert (data / "captions.jsonl").read_bytes() == before


def test_captions_that_fit_nothing_are_refused(data, tmp_path):
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"far/away": "a road"}))
    with pytest.raises(InputError, match="no scene"):
        import_captions(data, path)
    path.write_text("{]")
    with pytest.raises(InputError, match="not valid JSON"):
        import_captions(data, path)
    with pytest.raises(InputError, match="no file of captions"):
        read_captions(tmp_path / "captions.xml")


def test_the_layouts_of_others(data, tmp_path):
    annotate(data)
    store, scenes = AnnotationStore(data), scenes_of(data)
    report = export(data, tmp_path / "diffv2ir", "diffv2ir")
    assert (report.written, report.missing) == (4, 0)
    for name, scene in scenes.items():
        exported = read_map(tmp_path / "diffv2ir" / "seg" / f"{name}.png")
        assert np.array_equal(exported, read_map(store.segmentation_path(scene)))
    assert export(data, tmp_path / "diffv2ir", "diffv2ir").kept == 4
    export(data, tmp_path / "txt2ir", "txt2ir")
    back = read_captions(tmp_path / "txt2ir" / "captions")
    assert back == {name: tuple(store.captions(scene)) for name, scene in scenes.items()}
    with pytest.raises(UnknownNameError, match="txt2ir"):
        export(data, tmp_path, "text2ir")


def test_the_verb_takes_own_results_and_exports(data, tmp_path):
    write_masks(tmp_path / "masks" / "street_00", [WALL, CAR])
    source = write_captions(tmp_path, "csv")
    call = ["annotate", str(data), "--captions", str(source)]
    call += ["--segmentations", str(tmp_path / "masks"), "--rendering", "boundaries"]
    call += ["--export", "diffv2ir", "--into", str(tmp_path / "out")]
    dry = CliRunner().invoke(app, [*call, "--dry-run"])
    assert dry.exit_code == 0, dry.output
    assert not (data / "captions.jsonl").exists() and not (tmp_path / "out").exists()
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0, done.output
    assert "2 taken" in done.output
    assert "diffv2ir" in done.output
    expected = boundaries([WALL, CAR], IMAGE)
    assert np.array_equal(read_map(tmp_path / "out" / "seg" / "street_00.png"), expected)
    for wrong in (["--rendering", "union"], ["--export", "txt2ir"]):
        result = CliRunner().invoke(app, ["annotate", str(data), *wrong])
        assert isinstance(result.exception, InputError)
