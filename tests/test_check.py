"""Every check finds what was spoilt, and nothing in a sound data set."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from v2ir.cli import app
from v2ir.data import CHECKS, SplitRule, check, index, load_scenes
from v2ir.data.alignment import TOLERANCE, measure
from v2ir.data.alignment_trial import trial
from v2ir.errors import DataError, UnknownNameError
from v2ir.files import write_jsonl
from v2ir.records import Finding, Scene


def scenery(seed: int, width: int = 320, height: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Return (visible, infrared), HW float32 in [0, 1], of one scene of many rectangles.

    Each rectangle has an own tone in both, so edges agree in place and often differ in
    sign; both have noise of their own.
    """
    rng = np.random.default_rng(seed)
    tones = rng.random((2, 41))
    label = np.zeros((height, width), dtype=int)
    for part in range(1, 41):
        top, left = int(rng.integers(0, height - 20)), int(rng.integers(0, width - 20))
        tall, wide = rng.integers(12, 90, 2)
        label[top : top + tall, left : left + wide] = part
    noise = rng.normal(0, 0.02, (2, height, width))
    visible, infrared = (np.clip(tones[i][label] + noise[i], 0, 1) for i in (0, 1))
    return visible.astype(np.float32), infrared.astype(np.float32)


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((pixels * 255).round().astype(np.uint8)).save(path)
    return path


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """Return an indexed data set of six different pairs, four in train, one in val and test."""
    for number in range(6):
        for kind, pixels in zip(("rgb", "ir"), scenery(number), strict=True):
            save(tmp_path / kind / f"{'abcdef'[number]}.png", pixels)
    index(tmp_path, split=SplitRule(val=0.15, test=0.15))
    return tmp_path


def found(root: Path, kind: str, **options: object) -> list[Finding]:
    return [f for f in check(root, **options) if f.kind == kind]  # type: ignore[arg-type]


def of_split(root: Path, split: str) -> list[Scene]:
    return [scene for scene in load_scenes(root) if scene.split == split]


def test_a_sound_data_set_has_no_findings(sound: Path) -> None:
    assert check(sound) == []


def test_no_index_is_an_error_with_a_cure(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="v2ir index"):
        check(tmp_path)


def test_unreadable_and_missing_files(sound: Path) -> None:
    cut = sound / "rgb" / "a.png"
    cut.write_bytes(cut.read_bytes()[:1000])
    (sound / "ir" / "b.png").unlink()
    (sound / "ir" / "c.png").unlink()
    (sound / "ir" / "c.png").symlink_to(sound / "nowhere.png")
    (one,) = found(sound, "unreadable")
    assert one.where == ("rgb/a.png",)
    missing = found(sound, "missing")
    assert [f.where for f in missing] == [("ir/b.png",), ("ir/c.png",)]
    assert "nowhere.png" in missing[1].what


def test_changed_and_new_files(sound: Path) -> None:
    save(sound / "rgb" / "a.png", scenery(0)[0] * 0.9)
    save(sound / "ir" / "new.png", scenery(9)[1])
    (changed,) = found(sound, "stale")
    assert changed.where == ("rgb/a.png",)
    (new,) = found(sound, "unindexed")
    assert new.where == ("ir/new.png",)


def test_an_unreadable_file_is_found_though_the_index_passed_it_over(sound: Path) -> None:
    (sound / "rgb" / "a.png").write_bytes(b"text")
    assert index(sound).failures
    (one,) = found(sound, "unreadable")
    assert one.where == ("rgb/a.png",)
    assert found(sound, "unindexed") == []


def test_pairs_of_two_sizes(sound: Path) -> None:
    save(sound / "ir" / "a.png", scenery(0)[1][:200])
    index(sound)
    (size,) = found(sound, "size")
    assert "320x256" in size.what
    assert "320x200" in size.what


def test_near_duplicates_across_splits(sound: Path) -> None:
    tested, trained = of_split(sound, "test")[0], of_split(sound, "train")[0]
    copy = scenery("abcdef".index(tested.name))[0] * 0.8 + 0.1
    save(sound / str(trained.visible), copy)
    (leak,) = found(sound, "leakage")
    assert leak.severity == "error"
    assert set(leak.where) == {tested.name, trained.name}
    assert "(visible)" in leak.what


def test_near_duplicates_within_a_split_are_no_leakage(sound: Path) -> None:
    one, other = of_split(sound, "train")[:2]
    save(sound / str(one.visible), scenery("abcdef".index(other.name))[0] * 0.9)
    assert found(sound, "leakage") == []


def test_almost_uniform_images_are_blank_and_no_leakage(sound: Path) -> None:
    for split in ("train", "test"):
        scene = of_split(sound, split)[0]
        save(sound / str(scene.infrared), np.full((256, 320), 0.02, dtype=np.float32))
    assert found(sound, "leakage") == []
    assert len(found(sound, "blank")) == 2


def test_a_torn_group(sound: Path) -> None:
    rows = [scene.to_json() | {"group": "one"} for scene in load_scenes(sound)]
    write_jsonl(sound / "scenes.jsonl", rows)
    (leak,) = found(sound, "leakage")
    assert "scene group one" in leak.what
    assert len(leak.where) == 6


def test_the_cure_for_leakage_works(sound: Path) -> None:
    tested, trained = of_split(sound, "test")[0], of_split(sound, "train")[0]
    pixels = scenery("abcdef".index(tested.name))[0] * 0.8
    save(sound / str(trained.visible), pixels)
    assert found(sound, "leakage")
    index(sound, split=SplitRule(by="cluster", val=0.15, test=0.15, redraw=True))
    assert found(sound, "leakage") == []


def test_exact_duplicates(sound: Path) -> None:
    tested, trained = of_split(sound, "test")[0], of_split(sound, "train")
    (sound / str(trained[1].infrared)).write_bytes((sound / str(trained[0].infrared)).read_bytes())
    (within,) = found(sound, "duplicate")
    assert within.severity == "warning"
    (sound / str(tested.infrared)).write_bytes((sound / str(trained[0].infrared)).read_bytes())
    (across,) = found(sound, "duplicate")
    assert across.severity == "error"
    assert len(across.where) == 3


def test_the_same_file_on_both_sides(sound: Path) -> None:
    (sound / "ir" / "a.png").write_bytes((sound / "rgb" / "a.png").read_bytes())
    (both,) = found(sound, "duplicate")
    assert "both sides" in both.what


def test_one_sided_scenes(sound: Path) -> None:
    save(sound / "ir" / "x_ir.png", scenery(20)[1])
    index(sound)
    (alone,) = found(sound, "one-sided")
    assert (alone.severity, alone.where) == ("note", ("x_ir",))
    save(sound / "rgb" / "x_rgb.png", scenery(20)[0])
    index(sound)
    assert {f.severity for f in found(sound, "one-sided")} == {"warning"}


def test_infrared_alone_is_no_finding(tmp_path: Path) -> None:
    save(tmp_path / "ir" / "a.png", scenery(1)[1])
    index(tmp_path)
    assert check(tmp_path) == []


def test_shifted_and_mismatched_pairs(sound: Path) -> None:
    save(sound / "ir" / "a.png", np.roll(scenery(0)[1], (0, 20), axis=(0, 1)))
    save(sound / "ir" / "b.png", scenery(50)[1])
    index(sound)
    (shifted,) = found(sound, "misaligned")
    assert shifted.where == ("rgb/a.png", "ir/a.png")
    assert "+20 px right and +0 px down" in shifted.what
    (doubtful,) = found(sound, "doubtful")
    assert doubtful.where == ("rgb/b.png", "ir/b.png")
    assert found(sound, "doubtful", skip=["alignment"]) == []


def test_segmentation_maps(sound: Path) -> None:
    white = np.ones((256, 320), dtype=np.float32)
    good = white.copy()
    good[::16] = 0
    save(sound / "seg" / "a.png", white)
    save(sound / "seg" / "b.png", 0 * white)
    save(sound / "seg" / "c.png", good)
    save(sound / "seg" / "d.png", good[:, :64])
    (sound / "seg" / "e.png").write_text("none")
    assert [f.where for f in found(sound, "empty map")] == [("seg/a.png",), ("seg/b.png",)]
    assert [f.where for f in found(sound, "size")] == [("seg/d.png",)]
    assert [f.where for f in found(sound, "unreadable")] == [("seg/e.png",)]


def test_an_unknown_check_cannot_be_skipped(sound: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean alignment"):
        check(sound, skip=["alignmet"])


class TestMeasure:
    @settings(max_examples=25)
    @given(seed=st.integers(0, 500), right=st.integers(-20, 20), down=st.integers(-20, 20))
    def test_a_shift_is_found_exactly(self, seed: int, right: int, down: int) -> None:
        visible, infrared = scenery(seed, 280, 240)
        one = visible[20:-20, 20:-20]
        other = infrared[20 - down : 220 - down, 20 - right : 260 - right]
        result = measure(one, other)
        assert (result.right, result.down) == (right, down)
        expected = "aligned" if max(abs(right), abs(down)) <= TOLERANCE else "shifted"
        if max(abs(right), abs(down)) != TOLERANCE + 1:  # its flank is within the tolerance
            assert result.verdict == expected

    @pytest.mark.parametrize("seed", range(5))
    def test_reversed_contrast_does_not_count(self, seed: int) -> None:
        visible, infrared = scenery(seed, 256, 200)
        one, other = measure(visible, infrared), measure(visible, 1 - infrared)
        assert (one.right, one.down) == (other.right, other.down) == (0, 0)
        assert other.strength == pytest.approx(one.strength, rel=1e-3)

    @pytest.mark.parametrize("size", [(1, 1), (1, 50), (7, 5), (256, 3)])
    def test_flat_and_tiny_images_are_doubtful(self, size: tuple[int, int]) -> None:
        flat = np.full(size, 0.3, dtype=np.float32)
        assert measure(flat, flat).verdict == "doubtful"


def test_the_trial_tells_true_pairs_from_spoilt_ones(sound: Path) -> None:
    rows = {row.pairs: row for row in trial(sound)}
    assert rows.keys() == {
        "alignment not stated",
        "mismatched",
        "shifted by 4 px",
        "shifted by 8 px",
        "shifted by 16 px",
    }
    assert rows["alignment not stated"].aligned == 1.0
    assert rows["alignment not stated"].auc == 1.0
    assert rows["mismatched"].aligned == 0.0
    assert rows["shifted by 4 px"].aligned == 1.0
    assert rows["shifted by 16 px"].shifted == rows["shifted by 16 px"].exact == 1.0


class TestVerb:
    def test_exit_status_and_cure(self, sound: Path) -> None:
        result = CliRunner().invoke(app, ["check", str(sound)])
        assert result.exit_code == 0
        assert "all is well" in result.output
        (sound / "ir" / "b.png").unlink()
        result = CliRunner().invoke(app, ["check", str(sound), "--skip", "alignment"])
        assert result.exit_code == 1
        assert "to do: bring it back" in result.output

    def test_json_lines_are_findings(self, sound: Path) -> None:
        (sound / "ir" / "b.png").unlink()
        result = CliRunner().invoke(app, ["check", str(sound), "--json", "--skip", "alignment"])
        (row,) = [json.loads(line) for line in result.stdout.splitlines()]
        assert row["kind"] == "missing"
        assert row["where"] == ["ir/b.png"]

    def test_a_warning_alone_exits_0(self, sound: Path) -> None:
        save(sound / "seg" / "a.png", np.ones((256, 320), dtype=np.float32))
        result = CliRunner().invoke(app, ["check", str(sound)])
        assert result.exit_code == 0
        assert "empty map" in result.output

    def test_the_trial_prints_a_table(self, sound: Path) -> None:
        result = CliRunner().invoke(app, ["check", str(sound), "--alignment-trial"])
        assert "| mismatched | 6 | 0.000 |" in result.stdout

    def test_help_names_every_check(self) -> None:
        help_ = CliRunner().invoke(app, ["check", "--help"]).output
        assert all(name in help_ for name in CHECKS)
