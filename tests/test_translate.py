from __future__ import annotations

import errno
import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import street
from v2ir.annotation import annotate
from v2ir.data import index
from v2ir.errors import InputError, OutputError, UnknownNameError
from v2ir.files import hash_file
from v2ir.images import image_size, read_visible, to_uint8
from v2ir.model import Guidance, Model, architecture, build_model, load_model
from v2ir.sampling import (
    Annotators,
    TranslateSettings,
    Translator,
    find_maps,
    pending,
    read_captions,
    sidecar,
    translate,
)


class Describer:
    """A captioner that says how bright an image is."""

    name, version = "describer", "1"

    def caption(self, images):
        return [f"a place of brightness {image.mean():.0f}" for image in images]


class Edges:
    """A segmenter whose borders are the steep places."""

    name, version = "edges", "1"

    def segment(self, images):
        steep = [abs(np.diff(i.astype(int).mean(2), axis=1, prepend=0)) for i in images]
        return [np.where(slope > 20, 0, 255).astype(np.uint8) for slope in steep]


ANNOTATORS = Annotators(captioner=Describer(), segmenter=Edges())


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = build_model(
        architecture("tiny"),
        name="tiny",
        styles=("north", "south"),
        default_style="north",
        resolution=64,
        multiple=16,
        solver="dpmpp",
        steps=2,
        guidance=Guidance(text=2.0, visible=1.5, segmentation=1.5),
        captioner="statistics",
        segmenter="regions",
        licence="for tests",
    )
    with torch.no_grad():  # so that the styles differ
        model.unet.class_embedding.weight.normal_(generator=torch.Generator().manual_seed(1))
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model.save(folder)
    return folder


@pytest.fixture(scope="session")
def model(model_folder: Path) -> Model:
    return load_model(model_folder)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    sizes = [(96, 80), (96, 80), (70, 101), (96, 80), (33, 40)]
    for number, (width, height) in enumerate(sizes):
        path = folder / ("night" if number % 2 else "") / f"street_{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(street(number, width, height)[0]).save(path)
    return folder


def run(source, out, model, annotators=ANNOTATORS, progress=None, **settings):
    extra = {} if progress is None else {"progress": progress}
    translator = Translator(model, TranslateSettings(**settings))
    return translate(source, out, translator, annotators, **extra)


def pictures(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.png")}


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


# ---- what comes out -------------------------------------------------------------------


def test_a_folder_keeps_its_structure_and_its_sizes(photos, tmp_path, model):
    told = []
    report = run(
        photos, tmp_path / "out", model, progress=lambda done, total: told.append((done, total))
    )
    assert (report.made, report.kept, report.failures) == (5, 0, ())
    assert told == [(done, 5) for done in range(1, 6)]
    for path in photos.rglob("*.png"):
        with Image.open(tmp_path / "out" / path.relative_to(photos)) as made:
            assert made.mode == "L"
            assert made.size == image_size(path)
            assert np.asarray(made).std() > 1


def test_the_sidecar_says_how_it_came_to_be(photos, tmp_path, model):
    run(photos, tmp_path / "out", model, seed=5, style="south")
    facts = json.loads((tmp_path / "out" / "night" / "street_1.json").read_text())
    source = photos / "night" / "street_1.png"
    assert facts["input"] == "night/street_1.png"
    assert facts["input_hash"] == hash_file(source)
    assert (facts["model"], facts["model_hash"]) == ("tiny", model.hash)
    assert (facts["seed"], facts["steps"], facts["solver"]) == (5, 2, "dpmpp")
    assert facts["style"] == "south"
    assert facts["guidance"]["text"] == 2.0
    assert (facts["captioner"], facts["segmenter"]) == ("describer 1", "edges 1")
    assert facts["caption"].startswith("a place of brightness")
    assert facts["synthetic"] is True
    geometry = facts["geometry"]
    assert (geometry["width"], geometry["height"]) == (96, 80)
    assert (geometry["scaled_width"], geometry["scaled_height"]) == (77, 64)


@pytest.mark.parametrize("size", [(1, 1), (1, 37), (500, 1), (37, 31), (63, 65), (700, 40)])
def test_any_size_comes_out_as_it_went_in(size, tmp_path, model):
    photo = tmp_path / "photo.png"
    Image.effect_noise(size, 60).convert("RGB").save(photo)
    assert run(photo, tmp_path / "out", model).made == 1
    with Image.open(tmp_path / "out" / "photo.png") as made:
        assert made.size == size


def test_a_single_photo_may_name_its_output(tmp_path, model, photos):
    run(photos / "street_0.png", tmp_path / "x" / "mine.png", model)
    assert sorted(p.name for p in (tmp_path / "x").iterdir()) == ["mine.json", "mine.png"]


def test_a_data_set_is_translated_from_its_visible_images(make_pairs, tmp_path, model):
    data = make_pairs(3)
    run(data, tmp_path / "out", model)
    assert sorted(pictures(tmp_path / "out")) == [f"street_{i:02d}.png" for i in range(3)]


def test_pixels_in_memory_give_the_same_picture(photos, tmp_path, model):
    path = photos / "street_0.png"
    run(path, tmp_path / "out", model, Annotators())
    infrared = Translator(model).translate_pixels(read_visible(path), key=hash_file(path))
    made = np.asarray(Image.open(tmp_path / "out" / "street_0.png"))
    np.testing.assert_array_equal(to_uint8(infrared), made)
    assert 0 <= infrared.min() <= infrared.max() <= 1


@pytest.mark.parametrize(
    "settings",
    [
        {"style": "south"},
        {"style": "none"},
        {"seed": 1},
        {"steps": 3},
        {"solver": "euler_ancestral"},
        {"guidance": Guidance(text=0.0, visible=2.5, segmentation=1.0)},
        {"guidance": Guidance(text=2.0, visible=1.5, segmentation=1.5, interval=(0.0, 0.6))},
        {"resolution": 48},
        {"resolution": "native"},
        {"without": ("caption",)},
        {"without": ("segmentation",)},
    ],
    ids=str,
)
def test_every_setting_has_an_effect_and_is_written_down(settings, photos, tmp_path, model):
    photo = photos / "street_0.png"
    run(photo, tmp_path / "plain", model)
    report = run(photo, tmp_path / "plain", model, **settings)
    assert report.made == 1, "another setting must not keep the old image"
    changed = pictures(tmp_path / "plain")
    run(photo, tmp_path / "default", model)
    assert changed != pictures(tmp_path / "default")
    (name,) = settings
    facts = [json.loads((tmp_path / x / "street_0.json").read_text()) for x in ("plain", "default")]
    assert facts[0].get(name) != facts[1].get(name)


# ---- the same seed gives the same picture ---------------------------------------------


def test_the_same_picture_in_any_order_folder_and_run(photos, tmp_path, model):
    run(photos, tmp_path / "out", model, seed=3)
    reference = pictures(tmp_path / "out")
    for path in sorted(photos.rglob("*.png"), reverse=True):
        name = path.relative_to(photos).as_posix()
        moved = tmp_path / "moved" / f"z{path.name}"
        moved.parent.mkdir(exist_ok=True)
        moved.write_bytes(path.read_bytes())
        run(moved, tmp_path / "alone" / "x.png", model, seed=3)
        assert (tmp_path / "alone" / "x.png").read_bytes() == reference[name]


def test_a_batch_gives_the_same_pictures_in_any_order(tmp_path, model):
    translator = Translator(model, TranslateSettings(batch_size=4))
    batch = [translator.prepare(street(i)[0], key=str(i), caption=f"place {i}") for i in range(4)]
    forward, backward = translator.run(batch), translator.run(batch[::-1])
    for one, other in zip(forward, backward[::-1], strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_batch_size_changes_at_most_the_last_bits(photos, tmp_path, model):
    """A matrix product adds in another order when it has more rows; nothing else differs."""
    for size in (1, 2, 3):
        run(photos, tmp_path / str(size), model, batch_size=size)
    for path in (tmp_path / "1").rglob("*.png"):
        one = np.asarray(Image.open(path)).astype(int)
        for size in ("2", "3"):
            other = np.asarray(Image.open(tmp_path / size / path.relative_to(tmp_path / "1")))
            assert abs(one - other).max() <= 1
            assert (one != other).mean() < 0.01


def test_in_double_precision_the_batch_size_changes_nothing(model_folder):
    double = load_model(model_folder)
    for part in (double.unet, double.autoencoder, double.text_encoder):
        part.double()
    translator = Translator(double)
    for name in ("encode", "encode_visible"):
        encode = getattr(translator.model, name)
        setattr(translator.model, name, lambda images, encode=encode: encode(images.double()))
    items = [translator.prepare(street(i)[0], key=str(i)) for i in range(3)]
    together = translator.run(items)
    for item, pixels in zip(items, together, strict=True):
        np.testing.assert_array_equal(to_uint8(pixels), to_uint8(translator.run([item])[0]))


def test_two_photographs_never_share_their_noise(model):
    translator = Translator(model)
    visible = street(0)[0]
    one, other = (translator.translate_pixels(visible, key=key) for key in "ab")
    assert abs(one - other).max() > 0.01


# ---- continue, keep, make again -------------------------------------------------------


def test_nothing_left_to_do_changes_no_file(photos, tmp_path, model):
    run(photos, tmp_path / "out", model)
    before = state(tmp_path)
    report = run(photos, tmp_path / "out", model)
    assert (report.made, report.kept) == (0, 5)
    assert state(tmp_path) == before


def test_only_what_is_missing_is_made(photos, tmp_path, model):
    out = tmp_path / "out"
    run(photos, out, model)
    reference = pictures(out)
    (out / "street_0.png").unlink()
    (out / "street_2.json").unlink()
    (out / "night" / "street_1.json").write_text("{ torn")
    Image.fromarray(street(9)[0]).save(photos / "street_4.png")
    assert [
        job.name for job, wanted in pending(photos, out, Translator(model), ANNOTATORS) if wanted
    ]
    report = run(photos, out, model)
    assert (report.made, report.kept) == (4, 1)
    again = pictures(out)
    assert again.pop("street_4.png") != reference.pop("street_4.png")
    assert again == reference


def test_a_newer_annotator_makes_images_again(photos, tmp_path, model):
    run(photos, tmp_path / "out", model)
    newer = Edges()
    newer.version = "2"
    report = run(photos, tmp_path / "out", model, Annotators(Describer(), newer))
    assert (report.made, report.kept) == (5, 0)


def test_an_interrupt_leaves_a_state_that_continues(photos, tmp_path, model):
    run(photos, tmp_path / "whole", model)

    def interrupt(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(photos, tmp_path / "out", model, progress=interrupt)
    assert len(pictures(tmp_path / "out")) < 5
    report = run(photos, tmp_path / "out", model)
    assert report.kept >= 1
    assert pictures(tmp_path / "out") == pictures(tmp_path / "whole")


@pytest.mark.parametrize("step", ["write_bytes", "write_json"])
def test_a_kill_between_image_and_sidecar_never_counts_as_done(
    step, photos, tmp_path, model, monkeypatch
):
    photo, out = photos / "street_0.png", tmp_path / "out"
    run(photo, out, model, seed=1)
    first = pictures(out)

    def die(*arguments):
        raise SystemExit("killed")

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(sidecar, step, die)
        run(photo, out, model, seed=2)
    # Whichever image lies there now, it must not pass for one made with seed 1.
    assert run(photo, out, model, seed=1).made == 1
    assert pictures(out) == first


# ---- things that go wrong -------------------------------------------------------------


def full_after(number, monkeypatch):
    """Let the disk be full after `number` written files."""
    calls, fsync = itertools.count(), os.fsync

    def refuse(descriptor):
        if next(calls) >= number:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)


def test_a_full_disk_stops_with_an_error_and_keeps_what_is_written(
    photos, tmp_path, model, monkeypatch
):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        full_after(4, patch)
        with pytest.raises(OutputError, match="No space left"):
            run(photos, out, model)
    assert not list(out.rglob("*.part"))
    report = run(photos, out, model)
    assert (report.made, report.kept) == (3, 2)


def odd_files(folder: Path) -> dict[str, Image.Image]:
    """Write one image of each odd kind; return the names with the image seen upright."""
    visible, infrared = street(0)
    rgb = Image.fromarray(visible)
    turned = Image.Exif()
    turned[0x0112] = 6
    folder.mkdir()
    rgb.convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    Image.fromarray(infrared.astype(np.uint16) * 200).save(folder / "sixteen.png")
    rgb.quantize(64).save(folder / "palette.png")
    rgb.convert("RGBA").save(folder / "alpha.png")
    rgb.convert("L").save(folder / "grey.tif")
    rgb.convert("1").save(folder / "bits.bmp")
    rgb.save(folder / "turned.jpg", exif=turned)
    return {path.name: path for path in folder.iterdir()}


def test_odd_kinds_of_images_are_translated(tmp_path, model):
    names = odd_files(tmp_path / "odd")
    report = run(tmp_path / "odd", tmp_path / "out", model)
    assert (report.made, report.failures) == (len(names), ())
    for name in names:
        with Image.open(tmp_path / "out" / Path(name).with_suffix(".png")) as made:
            assert made.size == ((80, 96) if name == "turned.jpg" else (96, 80))


def test_broken_files_are_listed_and_the_rest_is_translated(photos, tmp_path, model):
    (photos / "notes.png").write_text("this is no image")
    (photos / "empty.jpg").write_bytes(b"")
    whole = tmp_path / "whole.jpg"
    Image.fromarray(street(1)[0]).save(whole)
    (photos / "cut.jpg").write_bytes(whole.read_bytes()[:700])
    report = run(photos, tmp_path / "out", model)
    assert report.made == 5
    assert [name for name, _ in report.failures] == ["cut.jpg", "empty.jpg", "notes.png"]
    assert all(name in reason for name, reason in report.failures)
    assert len(pictures(tmp_path / "out")) == 5


def test_an_annotator_that_trips_fails_one_image(photos, tmp_path, model):
    class Clumsy(Describer):
        def caption(self, images):
            if images[0].shape[0] > images[0].shape[1]:
                raise ZeroDivisionError("tall image")
            return super().caption(images)

    report = run(photos, tmp_path / "out", model, Annotators(Clumsy(), Edges()))
    assert report.made == 3
    assert {reason for _, reason in report.failures} == {"ZeroDivisionError: tall image"}


def test_a_batch_too_large_is_tried_one_at_a_time(photos, tmp_path, model, monkeypatch):
    sizes, plain = [], Translator.run

    def limited(self, batch):
        sizes.append(len(batch))
        if len(batch) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return plain(self, batch)

    monkeypatch.setattr(Translator, "run", limited)
    report = run(photos, tmp_path / "out", model, batch_size=3)
    assert (report.made, report.failures) == (5, ())
    assert sizes.count(3) == 1

    def hopeless(self, batch):
        raise torch.OutOfMemoryError("out of memory\nand a long story")

    monkeypatch.setattr(Translator, "run", hopeless)
    report = run(photos, tmp_path / "other", model, batch_size=3)
    assert report.made == 0
    assert [reason for _, reason in report.failures] == ["out of memory"] * 5


def test_equal_stems_do_not_overwrite_one_another(tmp_path, model):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, name in enumerate(["a.jpg", "a.png", "b.png"]):
        Image.fromarray(street(number)[0]).save(folder / name)
    assert run(folder, tmp_path / "out", model).made == 3
    assert sorted(pictures(tmp_path / "out")) == ["a.jpg.png", "a.png.png", "b.png"]
    facts = json.loads((tmp_path / "out" / "a.jpg.json").read_text())
    assert facts["input"] == "a.jpg"


def test_results_inside_the_input_folder_are_not_translated_again(photos, model):
    run(photos, photos / "infrared", model)
    report = run(photos, photos / "infrared", model)
    assert (report.made, report.kept) == (0, 5)


def test_inputs_are_never_overwritten(photos, model):
    with pytest.raises(InputError, match="between the visible ones"):
        run(photos, photos, model)
    with pytest.raises(InputError, match="overwrite an input"):
        run(photos / "street_0.png", photos, model)


def test_folders_without_images_and_files_for_folders_are_refused(photos, tmp_path, model):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no images"):
        run(tmp_path / "empty", tmp_path / "out", model)
    with pytest.raises(InputError, match="does not exist"):
        run(tmp_path / "absent", tmp_path / "out", model)
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="is a file"):
        run(photos, tmp_path / "taken", model)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "error", "part"),
    [
        ({"style": "nort"}, UnknownNameError, "did you mean north"),
        ({"solver": "dpmp"}, UnknownNameError, "did you mean dpmpp"),
        ({"without": ("captions",)}, UnknownNameError, "did you mean caption"),
        ({"steps": 0}, InputError, "steps"),
        ({"batch_size": -1}, InputError, "batch size"),
        ({"resolution": 3}, InputError, "at least 16"),
    ],
    ids=str,
)
def test_wrong_settings_say_what_to_do(settings, error, part, model):
    with pytest.raises(error, match=part):
        Translator(model, TranslateSettings(**settings))


# ---- captions and maps of the user ----------------------------------------------------


def test_captions_of_the_user_go_first(photos, tmp_path, model):
    lines = [
        {"name": "street_0.png", "caption": "a hot street"},
        {"name": "night/street_1", "caption": "a cold street"},
    ]
    table = tmp_path / "captions.jsonl"
    table.write_text("\n".join(map(json.dumps, lines)))
    annotators = Annotators(Describer(), Edges(), captions=read_captions(table))
    run(photos, tmp_path / "out", model, annotators)
    facts = {
        name: json.loads((tmp_path / "out" / f"{name}.json").read_text())
        for name in ("street_0", "night/street_1", "street_2")
    }
    assert [f["caption"][:7] for f in facts.values()] == ["a hot s", "a cold ", "a place"]
    assert [f["captioner"] for f in facts.values()] == ["user", "user", "describer 1"]
    lines[0]["caption"] = "a very hot street"
    table.write_text("\n".join(map(json.dumps, lines)))
    changed = Annotators(Describer(), Edges(), captions=read_captions(table))
    assert run(photos, tmp_path / "out", model, changed).made == 1


def test_captions_that_annotate_wrote_can_be_given(make_pairs, tmp_path):
    data = make_pairs(2)
    index(data)
    annotate(data, segmenter=None)
    captions = read_captions(data / "captions.jsonl")
    assert sorted(captions) == ["street_00", "street_01"]
    assert Annotators(captions=captions).given_caption("street_01.png") == captions["street_01"]


def test_of_several_captions_the_first_and_of_several_lines_the_last_count(tmp_path):
    lines = [{"name": "a", "caption": "old"}, {"name": "a", "captions": ["new", "other"]}]
    table = tmp_path / "captions.jsonl"
    table.write_text("\n".join(map(json.dumps, lines)) + '\n{"name": "b", "capt')
    assert read_captions(table) == {"a": "new"}


def test_captions_from_text_files(tmp_path):
    (tmp_path / "night").mkdir()
    (tmp_path / "night" / "a.txt").write_text("dark\nand cold\n")
    (tmp_path / "empty.txt").write_text("\n")
    assert read_captions(tmp_path) == {"night/a": "dark"}
    with pytest.raises(InputError, match="no captions"):
        read_captions(tmp_path / "absent.jsonl")


def test_maps_of_the_user_go_first(photos, tmp_path, model):
    maps = tmp_path / "maps"
    maps.mkdir()
    Image.new("L", (96, 80), 255).save(maps / "street_0.png")
    annotators = Annotators(Describer(), Edges(), maps=find_maps(maps))
    run(photos, tmp_path / "out", model, annotators)
    run(photos, tmp_path / "own", model)
    mine, own = pictures(tmp_path / "out"), pictures(tmp_path / "own")
    assert [name for name in own if mine[name] != own[name]] == ["street_0.png"]
    Image.new("L", (96, 80), 0).save(maps / "street_0.png")
    assert run(photos, tmp_path / "out", model, annotators).made == 1
    Image.new("L", (9, 8), 0).save(maps / "street_0.png")
    report = run(photos, tmp_path / "out", model, annotators)
    assert "another size" in dict(report.failures)["street_0.png"]


def test_a_model_of_text_alone_is_refused():
    alone = build_model(architecture("txt2ir-tiny"), name="alone", conditions=("text",))
    with pytest.raises(InputError, match="v2ir generate"):
        Translator(alone)
