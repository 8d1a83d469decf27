"""Objects kept, lost and invented; boxes from files; detectors; the gate."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from v2ir.cli import app
from v2ir.errors import DataError, InputError, ModelError, UnknownNameError
from v2ir.evaluation.boxes import Box, BoxFile, overlaps, read_boxes
from v2ir.evaluation.cases import plan_comparison
from v2ir.evaluation.detectors import (
    COCO_CLASSES,
    Letterbox,
    OnnxDetector,
    TransformersDetector,
    decode_yolo,
    decode_yolox,
    load_box_source,
    suppressed,
)
from v2ir.evaluation.faithfulness import (
    MatchRule,
    ObjectCounts,
    count_objects,
    match_objects,
    object_contrast,
    total_objects,
)
from v2ir.evaluation.objects import Detection, evaluate_objects, quarantine
from v2ir.files import write_json
from v2ir.images import read_infrared, read_visible, to_uint8, write_image

Pairs = Callable[..., Path]


def box(left: float, label: str = "car", score: float = 1.0) -> Box:
    return Box(label, left, 0, left + 10, 10, score)


def test_overlap_of_known_boxes() -> None:
    found = overlaps([box(0)], [box(0), box(5), box(10), Box("car", 2, 2, 7, 7)])
    np.testing.assert_allclose(found, [[1, 50 / 150, 0, 25 / 100]])
    assert overlaps([], [box(0)]).shape == (0, 1)


def test_objects_are_kept_lost_and_invented() -> None:
    result = match_objects(
        [box(0), box(100), box(200, "person")],
        [box(1), box(200), box(300, "person")],
        MatchRule(),
    )
    assert result.kept == ((box(0), box(1)),)
    assert result.lost == (box(100), box(200, "person"))
    assert result.invented == (box(200), box(300, "person"))
    assert result.faithfulness == pytest.approx(1 / 5)
    assert count_objects([result, result]) == {
        "car": ObjectCounts(2, 2, 2),
        "person": ObjectCounts(0, 2, 2),
    }
    assert total_objects([result]).kept_share == pytest.approx(1 / 3)
    assert total_objects([result]).invented_share == pytest.approx(2 / 3)


def test_a_detector_s_doubt_about_the_same_object_is_no_loss() -> None:
    rule = MatchRule(score=0.4)
    sure, doubtful, noise = box(0, score=0.41), box(0, score=0.21), box(0, score=0.19)
    assert match_objects([sure], [doubtful], rule).faithfulness == 1
    # The other way round it is no invention, and there was nothing to keep.
    assert math.isnan(match_objects([doubtful], [sure], rule).faithfulness)
    assert match_objects([sure], [noise], rule).lost == (sure,)
    assert math.isnan(match_objects([doubtful], [doubtful], rule).faithfulness)


def test_one_box_is_no_two_objects() -> None:
    result = match_objects([box(0), box(2)], [box(1)], MatchRule(overlap=0.3))
    assert (len(result.kept), len(result.lost), len(result.invented)) == (1, 1, 0)


BOXES = st.lists(
    st.builds(
        lambda x, y, w, h, label, score: Box(label, x, y, x + w, y + h, score),
        *(st.integers(0, 20) for _ in range(2)),
        *(st.integers(5, 15) for _ in range(2)),
        st.sampled_from(["car", "person"]),
        st.sampled_from([0.1, 0.3, 0.6, 0.9]),
    ),
    max_size=6,
)


@given(BOXES, BOXES)
def test_swapping_the_sides_swaps_lost_and_invented(first: list[Box], second: list[Box]) -> None:
    rule = MatchRule()
    there, back = match_objects(first, second, rule), match_objects(second, first, rule)
    assert (len(there.lost), len(there.invented)) == (len(back.invented), len(back.lost))
    strong = sum(b.score >= rule.score for b in first)
    assert len(there.kept) + len(there.lost) == strong


@given(BOXES)
def test_an_image_is_faithful_to_itself(boxes: list[Box]) -> None:
    result = match_objects(boxes, boxes, MatchRule())
    assert result.lost == result.invented == ()


@pytest.mark.parametrize(("level", "expected"), [(0.9, 1.0), (0.6, 0.5), (0.3, 0.0), (0.0, -0.5)])
def test_object_contrast_by_hand(level: float, expected: float) -> None:
    truth, image = np.full((40, 40), 0.3), np.full((40, 40), 0.3)
    truth[10:20, 12:18], image[10:20, 12:18] = 0.9, level
    boxes = [Box("person", 12, 10, 18, 20)]
    assert object_contrast(image, truth, boxes) == pytest.approx(expected)
    # A cold object that is shown as cold is right, too.
    assert object_contrast(1 - image, 1 - truth, boxes) == pytest.approx(expected)
    assert math.isnan(object_contrast(image, truth, []))


# Files


def test_coco_files_and_results_are_read(tmp_path: Path) -> None:
    content = {
        "images": [{"id": 7, "file_name": "a/x.jpg"}, {"id": 8, "file_name": "empty.png"}],
        "annotations": [{"image_id": 7, "category_id": 3, "bbox": [1, 2, 10, 20]}],
        "categories": [{"id": 3, "name": "person"}],
    }
    write_json(tmp_path / "coco.json", content)
    found = read_boxes(tmp_path / "coco.json", lambda name: None)
    assert found.by_name == {"a/x": (Box("person", 1, 2, 11, 22),), "empty": ()}
    write_json(
        tmp_path / "results.json",
        [{"image_id": "y.png", "category_id": 1, "bbox": [0, 0, 2, 3], "score": 0.5}],
    )
    found = read_boxes(tmp_path / "results.json", lambda name: None)
    assert found.boxes("y", np.zeros((2, 2))) == (Box("1", 0, 0, 2, 3, 0.5),)
    write_json(tmp_path / "other.json", {"images": []})
    with pytest.raises(DataError, match="not a COCO file"):
        read_boxes(tmp_path / "other.json", lambda name: None)


def test_yolo_folders_are_read(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("person\ncar\n")
    (tmp_path / "x.txt").write_text("1 0.5 0.5 0.2 0.4\n0 0.1 0.1 0.2 0.2 0.7\n")
    found = read_boxes(tmp_path, lambda name: (100, 50) if name == "x" else None)
    first, second = found.by_name["x"]
    assert (first.label, second.label, second.score) == ("car", "person", 0.7)
    assert (first.left, first.top, first.right, first.bottom) == pytest.approx((40, 15, 60, 35))
    (tmp_path / "x.txt").write_text("car 0.5\n")
    with pytest.raises(DataError, match=r"x.txt:1"):
        read_boxes(tmp_path, lambda name: (100, 50))
    with pytest.raises(DataError, match="no boxes"):
        read_boxes(tmp_path, lambda name: None)


# Detectors


def test_letterbox_keeps_the_aspect_and_pads_with_grey() -> None:
    fitted = Letterbox.of(np.full((50, 100), 200, np.uint8), 64)
    assert fitted.scale == pytest.approx(0.64)
    assert (fitted.pixels[:32] == 200).all()
    assert (fitted.pixels[32:] == 114).all()


def test_yolox_output_is_decoded_on_its_grids() -> None:
    """One 32 px input has 4x4 + 2x2 + 1 cells."""
    output = np.zeros((21, 7), np.float32)
    output[6] = [0.5, 0.25, math.log(2), math.log(3), 0.5, 0.1, 0.8]  # stride 8, row 1, column 2
    output[20] = [0.5, 0.5, 0, 0, 1, 1, 0]  # stride 32
    rows = decode_yolox(output, 32)
    np.testing.assert_allclose(rows[6], [20 - 8, 10 - 12, 20 + 8, 10 + 12, 0.05, 0.4], atol=1e-6)
    np.testing.assert_allclose(rows[20], [0, 0, 32, 32, 1, 0], atol=1e-6)


def test_yolo_output_is_decoded() -> None:
    output = np.array([[10, 20, 4, 6, 0.1, 0.9]]).T
    np.testing.assert_allclose(decode_yolo(output), [[8, 17, 12, 23, 0.1, 0.9]])


def test_suppression_keeps_the_surest_of_each_class() -> None:
    boxes = [box(1, score=0.5), box(0, score=0.9), box(0, "bus", 0.4), box(30, score=0.3)]
    assert suppressed(boxes) == (boxes[1], boxes[0 + 2], boxes[3])


def test_there_are_eighty_classes() -> None:
    assert len(set(COCO_CLASSES)) == 80
    assert (COCO_CLASSES[0], COCO_CLASSES[79]) == ("person", "toothbrush")


@pytest.fixture
def yolox(real_data: Path) -> OnnxDetector:
    pytest.importorskip("onnxruntime")
    path = real_data.parent / "models" / "yolox_nano.onnx"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    return OnnxDetector(path)


def test_yolox_finds_people_in_real_infrared(yolox: OnnxDetector, real_data: Path) -> None:
    paths = sorted((real_data / "pairs" / "ir").glob("llvip_*.jpg"))[:3]
    found = [b for p in paths for b in yolox.boxes("", to_uint8(read_infrared(p)))]
    assert sum(b.label == "person" and b.score > 0.4 for b in found) >= 2
    assert all(b.right > b.left >= 0 and b.bottom > b.top >= 0 for b in found)


def test_yolox_boxes_scale_with_the_image(yolox: OnnxDetector, real_data: Path) -> None:
    path = min((real_data / "pairs" / "rgb").glob("llvip_*.jpg"))
    image = read_visible(path)
    doubled = image.repeat(2, axis=0).repeat(2, axis=1)
    small, large = (yolox.boxes("", pixels) for pixels in (image, doubled))
    sure = [b for b in small if b.score > 0.5]
    halved = [
        Box(b.label, b.left / 2, b.top / 2, b.right / 2, b.bottom / 2, b.score) for b in large
    ]
    assert sure
    assert len(match_objects(sure, halved, MatchRule(overlap=0.8)).kept) == len(sure)


def test_a_wrong_detector_is_explained(tmp_path: Path, yolox: OnnxDetector) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        OnnxDetector(tmp_path / "absent.onnx")
    (tmp_path / "classes.txt").write_text("person\ncar\n")
    path = str(next(p for p in [tmp_path]))  # the folder has no config.json: boxes, not a model
    with pytest.raises(DataError, match="no boxes"):
        load_box_source(path, lambda name: None)


def test_transformers_detectors_give_their_own_boxes(tmp_path: Path) -> None:
    import torch
    from transformers import YolosConfig, YolosForObjectDetection, YolosImageProcessorPil

    torch.manual_seed(0)
    config = YolosConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=[32, 32],
        patch_size=16,
        num_detection_tokens=6,
        id2label={0: "person", 1: "car"},
        label2id={"person": 0, "car": 1},
    )
    model = YolosForObjectDetection(config).eval()
    model.save_pretrained(tmp_path / "tiny")
    processor = YolosImageProcessorPil(size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path / "tiny")
    detector = load_box_source(str(tmp_path / "tiny"), lambda name: None)
    assert isinstance(detector, TransformersDetector)
    image = np.random.default_rng(0).integers(0, 256, (48, 64), dtype=np.uint8)
    found = detector.boxes("", image)
    pixels = processor(images=np.repeat(image[..., None], 3, axis=2), return_tensors="pt")
    with torch.no_grad():
        scores = model(**pixels).logits.softmax(-1)[0, :, :-1].max(-1).values
    assert found
    assert found[0].score == pytest.approx(float(scores.max()), abs=1e-5)
    assert {b.label for b in found} <= {"person", "car"}
    assert all(b.left >= 0 and b.right <= 64.5 and b.bottom <= 48.5 for b in found)
    with pytest.raises(ModelError, match="not a detector"):
        (tmp_path / "empty").mkdir()
        (tmp_path / "empty" / "config.json").write_text("{}")
        load_box_source(str(tmp_path / "empty"), lambda name: None)


# Comparisons


class Bright:
    """A detector that finds the one box around all pixels above 200."""

    name, version = "bright", "1"

    def boxes(self, name: str, image: np.ndarray) -> tuple[Box, ...]:
        grey = image if image.ndim == 2 else image.mean(axis=2)
        rows, columns = np.nonzero(grey > 200)
        if not rows.size:
            return ()
        ends = (float(columns.max()) + 1, float(rows.max()) + 1)
        return (Box("warm", float(columns.min()), float(rows.min()), *ends),)


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Three scenes of one warm box: kept, lost, and moved; and one with nothing."""
    for index, place in enumerate([10, None, 40, None]):
        truth, made = (np.full((40, 60), 60, np.uint8) for _ in range(2))
        if index < 3:
            truth[10:20, 10:18] = 240
        if place is not None:
            made[10:20, place : place + 8] = 240
        write_image(tmp_path / "true" / f"{index}.png", truth)
        write_image(tmp_path / "out" / f"{index}.png", made)
        write_image(tmp_path / "rgb" / f"{index}.png", np.repeat(truth[..., None], 3, axis=2))
        (tmp_path / "out" / f"{index}.json").write_text('{"synthetic": true}')
    return tmp_path


def test_objects_of_each_image_are_told(scenes: Path) -> None:
    plan = plan_comparison(scenes / "out", scenes / "true")
    report = evaluate_objects(plan, Detection(Bright()))
    counts = [
        (len(r.objects.kept), len(r.objects.lost), len(r.objects.invented)) for r in report.rows
    ]
    assert counts == [(1, 0, 0), (0, 1, 0), (0, 1, 1), (0, 0, 0)]
    assert report.total("prediction") == ObjectCounts(1, 2, 1)
    assert report.below("prediction", 0.5) == [("1", 0.0), ("2", 0.0)]
    assert [round(r.contrast, 6) for r in report.rows[:3]] == [1, 0, 0]
    assert math.isnan(report.rows[3].contrast)


def test_boxes_from_files_stand_in_for_a_detector(scenes: Path) -> None:
    plan = plan_comparison(scenes / "out", scenes / "true")
    labelled = BoxFile("labels", "1", {"0": (Box("warm", 10, 10, 18, 20),)})
    report = evaluate_objects(plan, Detection(Bright(), {"truth": labelled}))
    assert report.total("prediction") == ObjectCounts(1, 0, 1)
    assert report.source == "labels"
    only = evaluate_objects(plan, Detection(None, {"truth": labelled}))
    assert only.rows == ()
    with pytest.raises(InputError, match="reference"):
        Detection(None, {"prediction": labelled})


def test_photographs_are_the_reference_where_no_truth_exists(scenes: Path) -> None:
    plan = plan_comparison(scenes / "out", scenes / "rgb")
    report = evaluate_objects(plan, Detection(Bright(), against="visible"), with_truth=False)
    assert report.total("prediction") == ObjectCounts(1, 2, 1)
    assert all(math.isnan(row.contrast) for row in report.rows)
    without = evaluate_objects(
        plan_comparison(scenes / "out", scenes / "true"), Detection(Bright(), against="visible")
    )
    assert len(without.failures) == 4
    assert "no visible image" in without.failures[0][1]


def test_quarantine_moves_images_with_their_sidecars(scenes: Path) -> None:
    paths = {path.stem: path for path in (scenes / "out").glob("*.png")}
    quarantine(scenes / "bad", paths, ["1"])
    assert sorted(p.name for p in (scenes / "bad").iterdir()) == ["1.json", "1.png"]
    assert not paths["1"].exists()
    write_image(paths["1"], np.zeros((2, 2), np.uint8))
    with pytest.raises(OSError, match="exists already"):
        quarantine(scenes / "bad", paths, ["1"])


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["evaluate", *map(str, arguments)])
    if isinstance(result.exception, Exception):
        raise result.exception
    return result.exit_code, result.output


@pytest.fixture
def boxes_file(scenes: Path) -> Callable[[str], Path]:
    """Return a function that writes what `Bright` finds in a folder as COCO results."""

    def write(folder: str) -> Path:
        rows = [
            {"image_id": p.stem, "category_id": 0, "bbox": [b.left, b.top, b.right - b.left, 10]}
            for p in sorted((scenes / folder).glob("*.png"))
            for b in Bright().boxes("", read_visible(p))
        ]
        write_json(scenes / f"{folder}.json", rows)
        return scenes / f"{folder}.json"

    return write


def test_the_gate_lists_and_moves_only_when_asked(
    scenes: Path, boxes_file: Callable[[str], Path]
) -> None:
    sides = [f"--boxes=truth={boxes_file('true')}", f"--boxes=prediction={boxes_file('out')}"]
    common = (scenes / "out", scenes / "true", *sides, "--gate", "0.5")
    before = {p: p.stat().st_mtime_ns for p in scenes.rglob("*") if p.is_file()}
    status, output = run(*common, "--quarantine", scenes / "bad", "--dry-run")
    assert (status, "would move to" in output) == (0, True)
    status, output = run(*common)
    assert status == 1
    assert "2 images below the gate" in output
    assert {p: p.stat().st_mtime_ns for p in scenes.rglob("*") if p.is_file()} == before
    status, output = run(*common, "--quarantine", scenes / "bad", "--report", scenes / "report")
    assert status == 0
    assert sorted(p.name for p in (scenes / "out").glob("*.png")) == ["0.png", "3.png"]
    assert sorted(p.name for p in (scenes / "bad").iterdir()) == [
        "1.json", "1.png", "2.json", "2.png",
    ]  # fmt: skip
    with (scenes / "report" / "objects.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(r["kept"], r["lost"], r["invented"]) for r in rows] == [
        ("1", "0", "0"),
        ("0", "1", "0"),
        ("0", "1", "1"),
        ("0", "0", "0"),
    ]
    summary = json.loads((scenes / "report" / "summary.json").read_text())
    assert summary["objects"]["total"]["prediction"] == {"kept": 1, "lost": 2, "invented": 1}
    assert (scenes / "report" / "objects.png").is_file()


def test_without_a_truth_only_objects_are_compared(
    scenes: Path, boxes_file: Callable[[str], Path]
) -> None:
    sides = [f"--boxes=visible={boxes_file('rgb')}", f"--boxes=prediction={boxes_file('out')}"]
    status, output = run(
        scenes / "out", scenes / "rgb", "--no-truth", *sides, "--report", scenes / "report"
    )
    assert status == 0
    assert "PSNR" not in output
    assert not (scenes / "report" / "per_image.csv").exists()
    assert "objects against the visible" in (scenes / "report" / "report.html").read_text()


def test_wrong_object_options_are_explained(scenes: Path) -> None:
    both = (scenes / "out", scenes / "true")
    for options, message in (
        (["--gate", "0.5"], "--detector"),
        (["--quarantine", "x"], "--gate"),
        (["--no-truth"], "--detector"),
    ):
        with pytest.raises(InputError, match=message):
            run(*both, *options)
    with pytest.raises(UnknownNameError, match="prediction"):
        run(*both, "--boxes", "predictions=x.json")
