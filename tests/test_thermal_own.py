"""Thermal masks that are there already: what `check` says of them, and how they are taken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from v2ir.annotation import AnnotationStore, import_masks, make_masks, read_thermal_mask
from v2ir.cli import app
from v2ir.data import check, index, load_scenes
from v2ir.data.mask_checking import see_mask
from v2ir.errors import InputError
from v2ir.records import Finding


@pytest.fixture
def data(make_pairs) -> Path:
    root = make_pairs(4)
    index(root)
    return root


def blob(width: int = 96, height: int = 80) -> np.ndarray:
    """Return a mask with one hot rectangle, HW uint8."""
    mask = np.zeros((height, width), np.uint8)
    mask[20:60, 30:55] = 255
    return mask


def soft(width: int = 96, height: int = 80) -> np.ndarray:
    """Return a mask that passes from cold to hot over all greys, HW uint8."""
    return (np.linspace(0, 255, width)[None] * np.ones((height, 1))).astype(np.uint8)


def save(path: Path, pixels: np.ndarray, **options: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def jpeg_noise(tmp_path: Path) -> np.ndarray:
    """Return the mask after a JPEG of quality 40."""
    path = save(tmp_path / "noise.jpg", blob(), quality=40)
    return np.asarray(Image.open(path))


def of_masks(root: Path) -> list[Finding]:
    skip = ("alignment", "leakage", "duplicates")
    return [finding for finding in check(root, skip=skip) if "mask" in " ".join(finding.where)]


# --- check -------------------------------------------------------------------------------


def test_sound_masks_are_not_mentioned(data: Path) -> None:
    make_masks(data, "percentile,percent=90")
    save(data / "mask" / "street_01.png", soft())
    save(data / "mask" / "street_02.png", blob())
    assert of_masks(data) == []


@pytest.mark.parametrize(
    ("pixels", "kind", "severity", "told"),
    [
        (np.zeros((80, 96), np.uint8), "empty mask", "warning", "all cold"),
        (np.full((80, 96), 255, np.uint8), "empty mask", "warning", "hot in 100%"),
        (blob(48, 80), "size", "error", "is 48x80, its infrared image 96x80"),
    ],
)
def test_what_is_wrong_with_a_mask_is_told(
    data: Path, pixels: np.ndarray, kind: str, severity: str, told: str
) -> None:
    save(data / "mask" / "street_01.png", pixels)
    save(data / "mask" / "street_02.png", blob())
    (finding,) = of_masks(data)
    assert (finding.kind, finding.severity) == (kind, severity)
    assert finding.where == ("mask/street_01.png",) and told in finding.what


def test_unreadable_and_unused_files_are_told(data: Path) -> None:
    (data / "mask").mkdir()
    (data / "mask" / "street_00.png").write_bytes(b"no image")
    save(data / "mask" / "street_01_mask.jpg", blob())
    save(data / "mask" / "street_02.bmp", blob())
    kinds = {finding.kind: finding for finding in of_masks(data)}
    assert kinds.keys() == {"unreadable", "unused mask"}
    assert kinds["unused mask"].where == ("mask/street_01_mask.jpg", "mask/street_02.bmp")
    assert "--thermal-masks" in kinds["unused mask"].do


def test_a_jpeg_is_a_note_and_its_noise_in_a_lossless_file_a_warning(
    data: Path, tmp_path: Path
) -> None:
    save(data / "mask" / "street_00.jpg", blob(), quality=40)
    save(data / "mask" / "street_01.png", jpeg_noise(tmp_path))
    kinds = {finding.kind: finding for finding in of_masks(data)}
    assert kinds.keys() == {"jpeg mask", "noisy mask"}
    assert kinds["jpeg mask"].severity == "note"
    assert kinds["noisy mask"].where == ("mask/street_01.png",)


def test_an_empty_jpeg_is_empty_after_its_cut(data: Path) -> None:
    """Noise alone is above 0 everywhere, and hot nowhere."""
    save(data / "mask" / "street_00.jpg", np.full((80, 96), 9, np.uint8))
    assert {finding.kind for finding in of_masks(data)} == {"empty mask", "jpeg mask"}


@given(width=st.integers(4, 90), height=st.integers(3, 40))
@settings(max_examples=20)
def test_a_soft_passage_of_any_width_is_no_noise(width: int, height: int) -> None:
    import tempfile

    ramp = np.clip(np.linspace(-0.5, 1.5, 100) * 100 / width, 0, 1)
    pixels = (ramp[None] * 255 * np.ones((height, 1))).astype(np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = save(Path(folder) / "mask" / "a.png", pixels)
        assert not see_mask(Path(folder), path).is_noisy


def test_the_check_can_be_left_out(data: Path) -> None:
    save(data / "mask" / "street_01.png", blob(48, 80))
    assert CliRunner().invoke(app, ["check", str(data), "--skip", "alignment"]).exit_code == 1
    asked = ["check", str(data), "--skip", "alignment", "--skip", "masks"]
    assert CliRunner().invoke(app, asked).exit_code == 0


# --- taking ------------------------------------------------------------------------------


def test_masks_of_txt2ir_become_lossless(data: Path, tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / "theirs" / f"street_{number:02d}_mask.jpg", blob(), quality=40)
    report = import_masks(data, tmp_path / "theirs")
    assert (report.taken, report.kept, report.strangers, report.failures) == (3, 0, (), ())
    store = AnnotationStore(data)
    for scene in load_scenes(data)[:3]:
        path = store.mask_path(scene)
        assert path is not None and path.suffix == ".png"
        assert np.array_equal(np.asarray(Image.open(path)), blob())
        source = store.provenance("mask", scene)
        assert source is not None and source.is_user


def test_names_of_txt2ir_fit_infrared_images_called_ir(make_pairs, tmp_path: Path) -> None:
    root = make_pairs(2)
    for path in [*(root / "ir").iterdir(), *(root / "rgb").iterdir()]:
        path.rename(path.with_name(f"{path.stem}_ir.png"))
    index(root)
    save(tmp_path / "theirs" / "street_00_mask.jpg", blob())
    save(tmp_path / "theirs" / "street_01.png", soft())
    assert import_masks(root, tmp_path / "theirs").taken == 2
    assert np.array_equal(np.asarray(Image.open(root / "mask" / "street_01_ir.png")), soft())


def test_soft_masks_stay_as_they_are(data: Path, tmp_path: Path) -> None:
    noisy = np.random.default_rng(0).integers(0, 256, (80, 96)).astype(np.uint8)
    save(tmp_path / "theirs" / "deep" / "street_03.png", noisy)
    assert import_masks(data, tmp_path / "theirs").taken == 1
    kept = read_thermal_mask(data / "mask" / "street_03.png")
    assert np.array_equal((kept * 255).round().astype(np.uint8), noisy)


def test_a_lossless_file_goes_before_a_jpeg_of_the_same_name(data: Path, tmp_path: Path) -> None:
    save(tmp_path / "theirs" / "street_00.png", soft())
    save(tmp_path / "theirs" / "street_00_mask.jpg", blob())
    assert import_masks(data, tmp_path / "theirs").taken == 1
    assert np.array_equal(np.asarray(Image.open(data / "mask" / "street_00.png")), soft())


def test_again_is_no_work_and_own_masks_stay(data: Path, tmp_path: Path) -> None:
    save(tmp_path / "theirs" / "street_00_mask.jpg", blob())
    save(tmp_path / "theirs" / "street_01.png", soft())
    save(data / "mask" / "street_01.png", blob())
    assert import_masks(data, tmp_path / "theirs", dry_run=True).taken == 1
    assert not (data / "mask" / "street_00.png").exists()
    first = import_masks(data, tmp_path / "theirs")
    assert (first.taken, first.kept) == (1, 1)
    before = (data / "mask" / "street_00.png").stat().st_mtime_ns
    for force in (False, True):
        again = import_masks(data, tmp_path / "theirs", force=force)
        assert (again.taken, again.kept) == ((0, 2) if not force else (1, 1))
        assert (data / "mask" / "street_00.png").stat().st_mtime_ns == before
    assert np.array_equal(np.asarray(Image.open(data / "mask" / "street_01.png")), soft())


def test_made_masks_give_way_and_are_not_made_again(data: Path, tmp_path: Path) -> None:
    make_masks(data, "otsu")
    save(tmp_path / "theirs" / "street_00.png", soft())
    assert import_masks(data, tmp_path / "theirs").taken == 1
    report = make_masks(data, "percentile")
    assert (report.masks.own, report.masks.made) == (1, 3)


def test_bad_files_are_passed_over_and_told(data: Path, tmp_path: Path) -> None:
    save(tmp_path / "theirs" / "street_00.png", blob(48, 80))
    (tmp_path / "theirs" / "street_01.jpg").write_bytes(b"no image")
    save(tmp_path / "theirs" / "street_02.png", blob())
    save(tmp_path / "theirs" / "elsewhere.png", blob())
    report = import_masks(data, tmp_path / "theirs")
    assert report.taken == 1 and report.strangers == ("elsewhere",)
    reasons = [reason for _, reason in report.failures]
    assert len(reasons) == 2 and "48x80" in reasons[0] and "not an image" in reasons[1]


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_without_masks_is_refused(data: Path, tmp_path: Path, there: bool) -> None:
    if there:
        save(tmp_path / "theirs" / "elsewhere.png", blob())
    with pytest.raises(InputError, match="no mask of a scene"):
        import_masks(data, tmp_path / "theirs")


def test_the_verb_takes_them(data: Path, tmp_path: Path) -> None:
    save(tmp_path / "theirs" / "street_00_mask.jpg", blob())
    save(tmp_path / "theirs" / "street_01.png", blob(48, 80))
    asked = ["annotate", str(data), "--captioner", "none", "--segmenter", "none"]
    asked += ["--thermal-masks", str(tmp_path / "theirs")]
    dry = CliRunner().invoke(app, [*asked, "--dry-run"])
    assert "1 to take" in dry.output and not (data / "mask").exists()
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 1, done.output  # One of them is of another size, and is listed.
    assert "1 taken" in done.output and "street_01" in done.output
    assert (data / "mask" / "street_00.png").is_file()
