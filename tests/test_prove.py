"""Proofs: labels, scenes, lessons and losses exactly; then the whole verb, twice."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from v2ir.cli import app
from v2ir.errors import DataError, InputError, MissingExtraError, UnknownNameError
from v2ir.evaluation.boxes import Box
from v2ir.evaluation.detectors import load_box_source
from v2ir.evaluation.voc import read_voc
from v2ir.proof import DEFAULT_ROWS, INGREDIENTS
from v2ir.proof.canvas import Placed, canvas_shape, fitted, lesson_of, mirrored, varied
from v2ir.proof.results import mean_and_spread
from v2ir.proof.scenes import (
    Chosen,
    ProofScene,
    find_scenes,
    ingredients_of,
    readable,
)

SHAPE = (64, 96)


# Labels


def write_voc(path: Path, *objects: tuple[str, int, int, int, int]) -> None:
    rows = "".join(
        f"<object><name>{n}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax>"
        f"<ymax>{d}</ymax></bndbox></object>"
        for n, a, b, c, d in objects
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<annotation><size/>{rows}</annotation>", encoding="utf-8")


def test_voc_counts_pixels_from_one_and_owns_both_corners(tmp_path: Path) -> None:
    write_voc(tmp_path / "190001.xml", ("person", 1, 3, 10, 4), ("car", 5, 5, 5, 5))
    write_voc(tmp_path / "deep" / "190002.xml")
    found = load_box_source(str(tmp_path), {}.get)
    assert found.boxes("190001", np.zeros((9, 9))) == (
        Box("person", 0, 2, 10, 4),
        Box("car", 4, 4, 5, 5),
    )
    assert read_voc(tmp_path).by_name["deep/190002"] == ()


@pytest.mark.parametrize(
    "text",
    [
        "<annotation>",
        "<annotation><object><name>car</name></object></annotation>",
        "<a><object><name>car</name><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>2</xmax>"
        "<ymax>9</ymax></bndbox></object></a>",
    ],
)
def test_a_broken_voc_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.xml").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"x\.xml is not a VOC file"):
        read_voc(tmp_path)


# Scenes


def test_rows_are_ingredients_joined_by_plus() -> None:
    assert ingredients_of(DEFAULT_ROWS)["real+generated"] == ("real", "generated")
    with pytest.raises(UnknownNameError, match="did you mean generated"):
        ingredients_of(["generate"])
    for rows in (["real+real"], []):
        with pytest.raises(InputError):
            ingredients_of(rows)


def scene(boxes: int, label: str = "person", **images: Path) -> ProofScene:
    return ProofScene("x", 9, 9, images, tuple(Box(label, 0, 0, 5, 5) for _ in range(boxes)))


def test_a_class_needs_ten_objects_on_both_sides_unless_named() -> None:
    many, few = [scene(6), scene(6), scene(12, "car")], [scene(11), scene(3, "car")]
    from v2ir.proof.classes import classes_of
    from v2ir.proof.detection import DETECTION

    assert classes_of(DETECTION, many, few) == ("person",)
    assert classes_of(DETECTION, many, few, ("car",)) == ("car",)
    with pytest.raises(DataError, match="'bus' to train on"):
        classes_of(DETECTION, many, few, ("bus",))
    with pytest.raises(DataError, match="too few objects"):
        classes_of(DETECTION, few, few[1:])


def test_scenes_without_an_ingredient_are_left_out_of_every_row(proof_data: Path) -> None:
    generated = proof_data / "made"
    generated.mkdir()
    (generated / "t00.png").write_bytes((proof_data / "ir" / "t00.png").read_bytes())
    training, testing, missing = find_scenes(Chosen(proof_data, generated), {"real", "generated"})
    assert ([s.name for s in training], len(testing)) == (["t00"], 4)
    assert missing[0] == ("t01", "left out of every row: no generated")
    with pytest.raises(InputError, match="--generated FOLDER"):
        find_scenes(Chosen(proof_data), {"generated"})
    with pytest.raises(DataError, match="0 to test on"):
        find_scenes(Chosen(proof_data, alignment="strict"), {"real"})


def test_images_of_another_size_or_cut_off_are_listed(proof_data: Path) -> None:
    good, _, _ = find_scenes(Chosen(proof_data), {"real", "grey"})
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(good[0].images["real"])
    torn = good[1].images["grey"]
    torn.write_bytes(torn.read_bytes()[:300])
    left, failures = readable(good, {"real", "inverted"})
    assert len(left) == len(good) - 2
    assert [Path(path).name for path, _ in failures] == ["t00.png", "t01.png"]
    assert "8x8 px where the scene has 96x80" in failures[0][1]


def test_every_ingredient_gives_bytes_of_the_scene_s_size(proof_data: Path) -> None:
    training, _, _ = find_scenes(Chosen(proof_data, proof_data / "ir"), set(INGREDIENTS))
    images = {name: training[0].read(name) for name in INGREDIENTS}
    for image in images.values():
        assert (image.shape, image.dtype) == ((80, 96), np.uint8)
    np.testing.assert_array_equal(images["inverted"], 255 - images["grey"])
    np.testing.assert_array_equal(images["generated"], images["real"])


# Canvas and lessons


def test_the_canvas_holds_the_whole_image_and_its_boxes() -> None:
    image = np.full((128, 128), 255, np.uint8)
    placed = fitted(image, (Box("a", 0, 64, 128, 128),), SHAPE)
    assert placed.scale == 0.5
    assert placed.pixels[:, :64].min() == 1.0
    assert set(placed.pixels[:, 64:].ravel()) == {0.5}
    assert placed.boxes == (Box("a", 0, 32, 64, 64),)


def test_mirroring_twice_changes_nothing() -> None:
    placed = fitted(np.arange(64, dtype=np.uint8).reshape(8, 8), (Box("a", 1, 1, 4, 5),), SHAPE)
    back = mirrored(mirrored(placed))
    np.testing.assert_array_equal(back.pixels, placed.pixels)
    assert back.boxes == placed.boxes
    assert mirrored(placed).boxes[0].left == 96 - placed.boxes[0].right


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.integers(20, 150), st.integers(20, 150))
def test_a_varied_box_stays_on_its_object(seed: int, height: int, width: int) -> None:
    """The object is the only bright thing, so its box can be found again in the pixels."""
    image = np.zeros((height, width), np.uint8)
    box = Box("a", width // 4, height // 4, width // 4 + 12, height // 4 + 9)
    image[height // 4 : height // 4 + 9, width // 4 : width // 4 + 12] = 255
    placed = varied(image, (box,), SHAPE, np.random.default_rng(seed))
    assert placed.pixels.shape == SHAPE
    assert 0 <= placed.pixels.min() <= placed.pixels.max() <= 1
    for found in placed.boxes:
        assert 0 <= found.left < found.right <= 96 and 0 <= found.top < found.bottom <= 64
        y, x = int((found.top + found.bottom) / 2), int((found.left + found.right) / 2)
        assert placed.pixels[y, x] == placed.pixels.max()


def test_a_lesson_has_its_peak_at_the_centre_and_exact_distances() -> None:
    placed = Placed(np.zeros(SHAPE, np.float32), (Box("b", 10, 20, 34, 44),), 1.0)
    lesson = lesson_of(placed, ("a", "b"))
    assert lesson.peaks.shape == (2, 16, 24)
    assert not lesson.peaks[0].any()
    assert np.argwhere(lesson.peaks[1] == 1).tolist() == [[8, 5]]
    assert len(lesson.places) == 9
    at = lesson.places.tolist().index([8, 5])
    assert lesson.distances[at].tolist() == [22 - 10, 34 - 20, 34 - 22, 44 - 34]


def test_the_smaller_of_two_objects_keeps_the_cells_they_share() -> None:
    boxes = (Box("a", 20, 20, 32, 32), Box("a", 0, 0, 60, 60))
    lesson = lesson_of(Placed(np.zeros(SHAPE, np.float32), boxes, 1.0), ("a",))
    at = lesson.places.tolist().index([6, 6])
    assert lesson.distances[at].tolist() == [6, 6, 6, 6]


# The detector


def test_losses_by_hand() -> None:
    import torch

    from v2ir.proof.network import overlap_loss, peak_loss

    edges = torch.tensor([[2.0, 2.0, 2.0, 2.0]])
    assert float(overlap_loss(edges, edges)) == pytest.approx(0)
    # 4x4 inside 8x8 around the same pixel: a quarter, and the hull is the larger one.
    assert float(overlap_loss(edges, edges * 2)) == pytest.approx(0.75)
    assert float(overlap_loss(edges[:0], edges[:0])) == 0.0
    targets = torch.tensor([[[[1.0, 0.5, 0.0]]]])
    expected = 0.25 * math.log(2) * (1 + 0.5**4 + 1)
    assert float(peak_loss(torch.zeros(1, 1, 1, 3), targets)) == pytest.approx(expected)


def test_peaks_are_turned_back_into_boxes() -> None:
    import torch

    from v2ir.proof.network import find_peaks

    logits = torch.full((2, 16, 24), -9.0)
    logits[1, 8, 5], logits[1, 8, 6], logits[0, 2, 2] = 3.0, 2.0, 1.0
    distances = torch.full((4, 16, 24), 5.0)
    distances[:, 8, 5] = torch.tensor([12.0, 14.0, 12.0, 10.0])
    edges, told = find_peaks(logits, distances, number=2)
    assert edges[0].tolist() == [10, 20, 34, 44]
    # The neighbour of the higher peak is none.
    assert told[:, 1].tolist() == [1, 0]
    assert told[0, 0].item() == pytest.approx(1 / (1 + math.exp(-3)))


def warm_scenes(folder: Path, number: int) -> list[ProofScene]:
    """Dark noise with two warm boxes each."""
    found = []
    for index in range(number):
        rng = np.random.default_rng(index)
        image = rng.normal(60, 8, (64, 96))
        boxes = []
        for column in (8, 56):
            left, top = column + int(rng.integers(0, 16)), int(rng.integers(4, 36))
            wide, high = int(rng.integers(10, 16)), int(rng.integers(14, 22))
            image[top : top + high, left : left + wide] = 220
            boxes.append(Box("person", left, top, left + wide, top + high))
        path = folder / f"{index}.png"
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(path)
        found.append(ProofScene(str(index), 96, 64, {"real": path}, tuple(boxes)))
    return found


def test_the_detector_learns_warm_boxes_and_the_same_seed_gives_the_same(tmp_path: Path) -> None:
    import torch

    from v2ir.proof.detection import DETECTION
    from v2ir.proof.learning import Budget, ask, train
    from v2ir.proof.precision import average_precision

    scenes = warm_scenes(tmp_path, 12)
    budget = Budget(steps=45, batch_size=4, size=96)
    samples = [(scene, "real") for scene in scenes[:8]]
    torch.set_num_threads(1)
    detector = train(DETECTION, samples, ("person",), budget, seed=0)
    found = {
        s.name: ask(DETECTION, detector, s.read("real"), ("person",), budget) for s in scenes[8:]
    }
    assert all(box.right <= 96 and box.bottom <= 64 for boxes in found.values() for box in boxes)
    if not has_coco_tools():
        pytest.skip("pycocotools is absent")
    assert average_precision(scenes[8:], found, ("person",)).half > 0.5
    short = Budget(steps=2, batch_size=2, size=96)
    first, second, other = (
        train(DETECTION, samples, ("person",), short, seed=s).edges[1].weight for s in (3, 3, 4)
    )
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_the_learning_rate_rises_and_falls_to_nothing() -> None:
    from v2ir.proof.learning import Budget, learning_rate

    budget = Budget(steps=100)
    rates = [learning_rate(budget, step) for step in range(100)]
    assert max(rates) == rates[9] == budget.learning_rate
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.001 * budget.learning_rate
    with pytest.raises(InputError, match="multiple of 32"):
        Budget(size=100)
    assert canvas_shape(320) == (256, 320)


# Average precision


def has_coco_tools() -> bool:
    from v2ir.proof.precision import require_tools

    try:
        require_tools()
    except MissingExtraError:
        return False
    return True


needs_coco = pytest.mark.skipif(not has_coco_tools(), reason="pycocotools is absent")


@needs_coco
def test_average_precision_by_hand() -> None:
    from v2ir.proof.precision import average_precision

    box = Box("person", 10, 10, 30, 50, 0.9)
    # Half of the height is missed: overlap 0.5 counts at the first of the ten thresholds.
    low = Box("person", 10, 10, 30, 30, 0.9)
    car = Box("car", 0, 0, 9, 9, 0.8)
    scenes = [
        ProofScene("a", 64, 64, {}, (box, car)),
        ProofScene("b", 64, 64, {}, (box,)),
    ]
    classes = ("person", "car")
    perfect = average_precision(scenes, {"a": [box, car], "b": [box]}, classes)
    assert (perfect.mean, perfect.half) == (1.0, 1.0)
    half = average_precision(scenes, {"a": [low], "b": [low]}, classes)
    assert half.by_class == {"person": pytest.approx(0.1), "car": 0.0}
    assert half.half == pytest.approx(0.5)
    # One of two found, without a false one: precision 1 up to recall 0.5, at 51 of 101 points.
    one = average_precision(scenes, {"a": [box]}, ("person",))
    assert one.mean == pytest.approx(51 / 101)
    assert average_precision(scenes, {}, classes).mean == 0.0


def test_mean_and_spread() -> None:
    assert mean_and_spread([1.0, 3.0]) == (2.0, pytest.approx(math.sqrt(2)))
    assert mean_and_spread([0.4]) == (0.4, 0.0)


# The verb


@pytest.fixture
def proof_data(tmp_path: Path, make_pairs: Callable[..., Path]) -> Path:
    """Eight indexed pairs, four of them to test on; labels around each warm figure."""
    data = make_pairs(8)
    stems = sorted(path.stem for path in (data / "ir").iterdir())
    rows, labels = [], data / "labels"
    for place, stem in enumerate(stems):
        split = "train" if place < 4 else "test"
        name = f"{split[0]}{place % 4:02d}"
        scene = {"name": name, "split": split, "group": name, "width": 96, "height": 80}
        for key, folder in (("visible", "rgb"), ("infrared", "ir")):
            path = next((data / folder).glob(f"{stem}.*"))
            Image.open(path).save(data / folder / f"{name}.png")
            path.unlink()
            scene[key] = f"{folder}/{name}.png"
        figure = np.argwhere(np.asarray(Image.open(data / "ir" / f"{name}.png")) > 235)
        (top, left), (bottom, right) = figure.min(0) + 1, figure.max(0) + 1
        write_voc(labels / f"{name}.xml", ("person", left, top, right, bottom))
        rows.append(scene)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (data / "scenes.jsonl").write_text(lines, encoding="utf-8")
    return data


def files_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(folder.iterdir())}


@needs_coco
def test_prove_fills_its_table_and_continues_row_by_row(proof_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "proof"
    base = ["prove", str(proof_data), str(out), "--labels", str(proof_data / "labels")]
    base += ["--budget", "2", "--batch-size", "2", "--size", "96", "--classes", "person"]
    base += ["--device", "cpu", "--seeds", "2", "--generated", str(proof_data / "ir")]
    done = CliRunner().invoke(app, [*base, "--rows", "real"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "| real | 4 |" in done.output
    first = (out / "runs.jsonl").read_text(encoding="utf-8")
    done = CliRunner().invoke(app, [*base, "--rows", "real,grey+generated"])
    assert done.exit_code == 0, done.output
    runs = (out / "runs.jsonl").read_text(encoding="utf-8")
    assert runs.startswith(first)
    assert [json.loads(line)["seed"] for line in runs.splitlines()] == [0, 1, 0, 1]
    values = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert values["rows"]["grey+generated"]["images"] == 8
    assert values["objects"] == {"person": {"train": 4, "test": 4}}
    before = files_of(out)
    done = CliRunner().invoke(app, [*base, "--rows", "real,grey+generated"])
    assert (done.exit_code, files_of(out)) == (0, before)
    # Another image is another claim: only the rows that use it are trained again.
    Image.fromarray(np.zeros((80, 96), np.uint8)).save(proof_data / "rgb" / "t00.png")
    CliRunner().invoke(app, [*base, "--rows", "real,grey+generated"])
    again = (out / "runs.jsonl").read_text(encoding="utf-8").splitlines()[4:]
    assert [json.loads(line)["row"] for line in again] == ["grey+generated"] * 2


def test_a_dry_run_trains_and_writes_nothing(proof_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "proof"
    call = ["prove", str(proof_data), str(out), "--labels", "detector:absent.onnx", "--dry-run"]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0
    assert "would train on 4 scenes and test on 4" in done.output
    assert "generated" not in done.output
    assert not out.exists()


def test_scenes_that_the_labels_do_not_name_are_no_negatives(
    proof_data: Path, tmp_path: Path
) -> None:
    from v2ir.proof.labels import label_scenes, open_labels

    training, _, _ = find_scenes(Chosen(proof_data), {"real"})
    (proof_data / "labels" / "t01.xml").unlink()
    labels = open_labels(str(proof_data / "labels"), training, 0.4, tmp_path)
    found, failures = label_scenes(training, labels)
    assert [scene.name for scene in found] == ["t00", "t02", "t03"]
    assert failures == [("t01", "left out: the labels do not name it")]


def test_a_detector_looks_once_and_its_doubts_do_not_count(
    proof_data: Path, tmp_path: Path
) -> None:
    from v2ir.proof.labels import BoxLabels, label_scenes

    class Counting:
        name, version, looks = "counting", "1", 0

        def boxes(self, name: str, image: np.ndarray) -> tuple[Box, ...]:
            type(self).looks += 1
            return (Box("person", 1, 2, 3, 4, 0.9), Box("car", 1, 2, 3, 4, 0.3))

    training, _, _ = find_scenes(Chosen(proof_data), {"real"})
    for _ in range(2):
        found, failures = label_scenes(training, BoxLabels(Counting(), 0.4, tmp_path))
        assert failures == []
        assert [scene.boxes for scene in found] == [(Box("person", 1, 2, 3, 4, 0.9),)] * 4
    assert Counting.looks == 4
