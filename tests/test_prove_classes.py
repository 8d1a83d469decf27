"""Proofs without boxes: readers of classes, scores exactly, and the verb on drawn images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from v2ir.cli import app
from v2ir.errors import DataError, InputError, UnknownNameError
from v2ir.evaluation.boxes import Box
from v2ir.proof.accuracy import chance, score
from v2ir.proof.image_classes import FIELDS, classes_of_field, read_class_list
from v2ir.proof.scenes import ProofScene

WIDTH, HEIGHT = 48, 40


def labelled(*labels: str | None, **more: str) -> list[ProofScene]:
    return [ProofScene(f"s{i}", 9, 9, {}, label=c, **more) for i, c in enumerate(labels)]


# Labels


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_list_may_have_a_mark_more_columns_and_file_names(tmp_path: Path) -> None:
    text = "\ufeffplace, name ,label\na,s0.jpg,day\nb, s1 ,night \nc,deep/s2.tiff,day\nd,v1.5,day\n"
    path = write(tmp_path / "l.csv", text)
    found = read_class_list(path, {"s0", "s1", "deep/s2", "v1.5"})
    assert found.by_name == {"s0": "day", "s1": "night", "deep/s2": "day", "v1.5": "day"}
    assert found.kind == "classification"
    again = read_class_list(write(tmp_path / "m.csv", text + "s9,s9,day\n"), {"s0"})
    assert len(found.version) == 16 and again.version != found.version


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("s0,day\ns1,night\n", r"no header with the columns name and label; got: first line: s0,d"),
        ("name;label\ns0;day\n", r"got: first line: name;label; to do: begin the file with"),
        ("", r"got: first line: nothing"),
        ("name,label\ns0,day\ns1\n", r"l\.csv:3 is incomplete; got: name 's1', label ''"),
        ("name,label\ns0,day\ns0,night\n", r"the image s0 two classes; got: day and night; to do"),
        ("name,label\nsO,day\n", r"no scene of the data set; got: 'sO'; to do: .* such as s[01]"),
        ("name,label\n", r"names no scene of the data set; got: no row; to do"),
    ],
)
def test_a_list_that_cannot_be_used_says_why(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_class_list(write(tmp_path / "l.csv", text), {"s0", "s1"})


def test_a_missing_or_binary_list_is_named(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    for name in ("absent.csv", "b.csv"):
        with pytest.raises(DataError, match=rf"{name} cannot be read; got: .*; to do"):
            read_class_list(tmp_path / name, {"s0"})


def test_the_labels_decide_what_is_learned(tmp_path: Path) -> None:
    from v2ir.proof.labels import open_labels

    scenes = [ProofScene(n, 9, 9, {}, style="near") for n in ("s0", "s1", "a/s2")]

    def kind(place: Path | str) -> str:
        return open_labels(str(place), scenes, 0.4, tmp_path / "out").kind

    folder = tmp_path / "classes"
    write(folder / "day" / "s0.txt", "")
    Image.new("L", (9, 9)).save(folder / "day" / "s1.jpg")
    write(folder / "night" / "a" / "s2.txt", "1 seen by hand at the gate")
    write(folder / ".cache" / "s0.txt", "")
    found = open_labels(str(folder), scenes, 0.4, tmp_path / "out")
    assert [found.tell(s).label for s in scenes] == ["day", "day", "night"]
    assert kind(write(tmp_path / "l.csv", "name,label\ns0,day\n")) == kind("scenes:style")
    # Names with a folder are no classes, and boxes in subfolders are not either.
    write(tmp_path / "yolo" / "a" / "s2.txt", "0 0.5 0.5 0.2 0.2")
    assert kind(tmp_path / "yolo") == "detection"
    write(tmp_path / "sub" / "train" / "s0.txt", "")  # nothing to see there
    write(tmp_path / "sub" / "val" / "s1.txt", "0 0.5 0.5 0.2 0.2")
    with pytest.raises(DataError, match="holds no boxes of these images"):
        kind(tmp_path / "sub")
    write(folder / "night" / "s0.txt", "")
    with pytest.raises(DataError, match="the image s0 two classes"):
        kind(folder)


def test_a_field_of_the_scenes_is_a_label() -> None:
    scenes = [*labelled(None, style="msrs"), ProofScene("x", 9, 9, {})]
    labels = classes_of_field("style", scenes)
    assert labels.tell(scenes[0]).label == "msrs"
    with pytest.raises(DataError, match="do not name it"):
        labels.tell(scenes[1])
    with pytest.raises(UnknownNameError, match="did you mean style"):
        classes_of_field("styles", scenes)
    for field in FIELDS:
        with pytest.raises(DataError, match=f"no scene of the data set states its {field}"):
            classes_of_field(field, scenes[1:])


def test_a_classifier_needs_two_classes_with_ten_images() -> None:
    from v2ir.proof.classes import classes_of, with_classes
    from v2ir.proof.classification import CLASSIFICATION

    many = labelled(*["day"] * 12, *["night"] * 10, *["dusk"] * 3)
    few = labelled(*["day"] * 30, *["night"] * 10, *["dusk"] * 30)
    assert classes_of(CLASSIFICATION, many, few) == ("day", "night")
    assert classes_of(CLASSIFICATION, many, few, ("dusk", "day")) == ("dusk", "day")
    assert {s.label for s in with_classes(many, ("day", "night"))} == {"day", "night"}
    with pytest.raises(DataError, match=r"got: day 12 / 30, night 10 / 9, .*; to do: a classif"):
        classes_of(CLASSIFICATION, many, few[:39])
    with pytest.raises(DataError, match=r"no image of the class 'dawn' to train on; got: .*day"):
        classes_of(CLASSIFICATION, many, few, ("dawn", "day"))
    with pytest.raises(InputError, match="name at least 2"):
        classes_of(CLASSIFICATION, many, few, ("day", "day"))


# Scores


def test_scores_by_hand() -> None:
    scenes = labelled("a", "a", "a", "a", "b", "b", "c")
    told = dict(zip([s.name for s in scenes], "aaabbbb", strict=True))
    # a: 3 of 4 and never wrong; b: 2 of 2 among 4 told; c: never told.
    found = score(scenes, told, ("a", "b", "c"))
    assert found == {
        "accuracy": pytest.approx((3 / 4 + 1 + 0) / 3),
        "f1": pytest.approx((6 / 7 + 4 / 6 + 0) / 3),
        "recall a": pytest.approx(3 / 4),
        "recall b": 1.0,
        "recall c": 0.0,
    }


def test_chance_by_hand() -> None:
    # Of four a and two b, half of each is told a: 2 and 1 right, among 3 told each.
    found = chance(labelled(*"aaaabb"), ("a", "b"))
    f1 = (2 * 2 / (4 + 3) + 2 * 1 / (2 + 3)) / 2
    assert found == pytest.approx({"accuracy": 0.5, "f1": f1, "recall a": 0.5, "recall b": 0.5})


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcd")), min_size=1), st.data())
def test_scores_follow_the_definitions_in_any_order(
    pairs: list[tuple[str, str]], data: st.DataObject
) -> None:
    pairs = [*pairs, *((c, "a") for c in "abcd")]  # each class has a test image
    scenes = labelled(*(truth for truth, _ in pairs))
    told = {s.name: answer for s, (_, answer) in zip(scenes, pairs, strict=True)}
    classes = tuple(data.draw(st.permutations("abcd")))
    found = score(scenes, told, classes)
    recalls, f1 = [], []
    for c in classes:
        hits = pairs.count((c, c))
        told_c, true_c = sum(p == c for _, p in pairs), sum(t == c for t, _ in pairs)
        recalls.append(hits / true_c)
        f1.append(2 * hits / (told_c + true_c))
        assert found[f"recall {c}"] == pytest.approx(recalls[-1])
    assert found["accuracy"] == pytest.approx(np.mean(recalls))
    assert found["f1"] == pytest.approx(np.mean(f1))
    perfect = score(scenes, {s.name: str(s.label) for s in scenes}, classes)
    assert set(perfect.values()) == {1.0}
    assert chance(scenes, classes)["accuracy"] == pytest.approx(0.25)


# The classifier


def test_rare_classes_weigh_as_much_as_frequent_ones() -> None:
    import torch

    from v2ir.proof.classification import balanced_loss

    scenes = labelled("a", "a", "a", "b")
    loss = balanced_loss(scenes, ("a", "b"))
    logits = torch.tensor([[1.0, -1.0], [0.0, 0.0], [2.0, 0.5], [0.3, 0.1]], requires_grad=True)
    lessons = [0, 0, 0, 1]
    each = -torch.log_softmax(logits, 1)[range(4), lessons]
    expected = (each[:3].mean() + each[3]) / 2
    assert float(loss(logits, lessons).detach()) == pytest.approx(float(expected.detach()))


def test_the_classifier_shares_the_detector_s_stages_and_sees_the_whole_canvas() -> None:
    import torch

    from v2ir.proof.classification import Classifier
    from v2ir.proof.network import Detector

    networks = []
    for network in (Classifier, Detector):
        torch.manual_seed(0)
        networks.append(network(3).eval())
    classifier, detector = networks
    shared = {k: v for k, v in detector.state_dict().items() if k.startswith("stages.")}
    own = {k: v for k, v in classifier.state_dict().items() if not k.startswith("told.")}
    assert own.keys() == shared.keys()
    assert all(torch.equal(own[key], shared[key]) for key in own)
    # Wider than one cell of the last stage can see.
    images = torch.rand(1, 1, 64, 960, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits = classifier(images)
        assert logits.shape == (1, 3)
        for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
            changed = images.clone()
            changed[0, 0, corner[0], corner[1]] += 1.0
            assert not torch.equal(classifier(changed)[0], logits[0])


def test_truths_of_both_kinds_are_told_apart() -> None:
    box = Box("day", 0, 0, 5, 5)
    scenes = [ProofScene("x", 9, 9, {}, (box, box)), *labelled("day", None)]
    assert [s.labels for s in scenes] == [["day", "day"], ["day"], []]
    assert scenes[1].truth == "day" and scenes[2].truth == []
    assert scenes[0].truth[0]["right"] == 5


# The verb


@pytest.fixture(scope="module")
def warm_and_cold(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty-eight drawn pairs: warm machines and cold ones, which look alike to the eye."""
    data = tmp_path_factory.mktemp("machines")
    rows, labels = [], ["name,label"]
    for index in range(48):
        rng = np.random.default_rng([7, index // 2])  # a warm and a cold one look the same
        rgb = 120 + rng.normal(0, 15, (HEIGHT, WIDTH, 3)) + np.linspace(-30, 30, WIDTH)[:, None]
        left, top = int(rng.integers(4, WIDTH - 24)), int(rng.integers(4, HEIGHT - 22))
        machine = np.s_[top : top + 18, left : left + 20]
        rgb[machine] = rng.integers(60, 100, 3)
        infrared = 90 + np.random.default_rng([8, index]).normal(0, 6, (HEIGHT, WIDTH))
        is_warm = bool(index % 2)
        infrared[machine] = 215 if is_warm else 50
        name, split = f"m{index:02d}", "train" if index < 24 else "test"
        scene = {"name": name, "split": split, "group": name, "width": WIDTH, "height": HEIGHT}
        for key, folder, pixels in (("visible", "rgb", rgb), ("infrared", "ir", infrared)):
            (data / folder).mkdir(exist_ok=True)
            scene[key] = f"{folder}/{name}.png"
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(data / scene[key])
        rows.append(json.dumps({**scene, "style": "hall" if index % 3 else "yard"}))
        labels.append(f"{name},{'warm' if is_warm else 'cold'}")
    write(data / "scenes.jsonl", "\n".join(rows) + "\n")
    write(data / "labels.csv", "\n".join(labels) + "\n")
    return data


def call(data: Path, out: Path, labels: str, *more: str) -> list[str]:
    base = ["prove", str(data), str(out), "--labels", labels, "--device", "cpu"]
    return [*base, "--size", "32", "--batch-size", "8", *more]


def test_what_only_infrared_shows_is_learned_from_infrared_alone(
    warm_and_cold: Path, tmp_path: Path
) -> None:
    out, labels = tmp_path / "proof", str(warm_and_cold / "labels.csv")
    base = call(warm_and_cold, out, labels, "--budget", "40", "--seeds", "2")
    done = CliRunner().invoke(app, [*base, "--rows", "real"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    first = (out / "runs.jsonl").read_text(encoding="utf-8")
    done = CliRunner().invoke(app, [*base, "--rows", "real,grey"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    runs = (out / "runs.jsonl").read_text(encoding="utf-8")
    assert runs.startswith(first) and runs != first
    values = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    reached = {row: v["scores"]["accuracy"]["mean"] for row, v in values["rows"].items()}
    assert reached["real"] >= 0.9
    assert reached["grey"] <= 0.6
    assert values["images"] == {side: {"train": 12, "test": 12} for side in ("cold", "warm")}
    assert values["chance"]["accuracy"] == 0.5
    assert "| trained on | images | balanced accuracy | macro F1 | recall cold |" in done.output
    assert "| chance | | 0.500 | 0.500 | 0.500 | 0.500 |" in done.output
    assert "images to train / to test on: cold 12 / 12, warm 12 / 12" in done.output
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in out.iterdir()}
    CliRunner().invoke(app, [*base, "--rows", "real,grey"], catch_exceptions=False)
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in out.iterdir()} == before


def test_other_labels_are_another_claim_and_unlabelled_scenes_are_listed(
    warm_and_cold: Path, tmp_path: Path
) -> None:
    out = tmp_path / "proof"
    short = ("--budget", "1", "--seeds", "1", "--rows", "real", "--classes", "cold,warm")
    text = (warm_and_cold / "labels.csv").read_text(encoding="utf-8")
    own = write(tmp_path / "own.csv", text)
    assert CliRunner().invoke(app, call(warm_and_cold, out, str(own), *short)).exit_code == 0
    write(own, text.replace("m47,warm\n", "").replace("m00,cold", "m00,warm"))
    done = CliRunner().invoke(app, call(warm_and_cold, out, str(own), *short))
    assert done.exit_code == 1
    assert "m47: left out: the labels do not name it" in done.output
    runs = (out / "runs.jsonl").read_text(encoding="utf-8").splitlines()
    keys = [json.loads(line)["key"] for line in runs]
    assert len(keys) == len(set(keys)) == 2


def test_the_scenes_own_field_needs_no_file(warm_and_cold: Path, tmp_path: Path) -> None:
    short = ("--budget", "1", "--seeds", "1", "--rows", "grey", "--classes", "yard,hall")
    done = CliRunner().invoke(app, call(warm_and_cold, tmp_path, "scenes:style", *short))
    assert done.exit_code == 0, done.output
    assert "Labels: scenes:style" in done.output
    assert "| recall yard | recall hall |" in done.output
