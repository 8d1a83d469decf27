"""Translation with annotators that have weights: in turn, kept, left out with a note."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from conftest import street
from v2ir.cli import _sources
from v2ir.cli._sources import Wanted, annotate_ahead, kept_folder, make_sources
from v2ir.errors import InputError, ModelError
from v2ir.model import ARCHITECTURES, build_model
from v2ir.sampling import Annotators, TranslateSettings, Translator, translate
from v2ir.sampling.ahead import caption_ahead, segment_ahead
from v2ir.sampling.jobs import find_jobs
from v2ir.sampling.kept import KEPT_FOLDER, KeptAnnotations


class Heavy:
    """An annotator with weights that logs when it works and when it is let go."""

    def __init__(self, name, log, version="1"):
        self.name, self.log, self.version = name, log, version

    def caption(self, images):
        self.log.append((self.name, len(images)))
        return [f"a street of {image.shape[1]} pixels" for image in images]

    def segment(self, images):
        self.log.append((self.name, len(images)))
        return [np.where(image.mean(axis=-1) > 99, 255, 0).astype(np.uint8) for image in images]

    def release(self):
        self.log.append((self.name, "released"))


def model_with(captioner=None, segmenter=None):
    return build_model(
        ARCHITECTURES["tiny"],
        name="tiny",
        seed=0,
        words=["street"],
        captioner=captioner,
        segmenter=segmenter,
        steps=1,
        solver="ddim",
    )


@pytest.fixture(scope="module")
def model():
    return model_with()


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.png", "deep/c.png")):
        Image.fromarray(street(number)[0]).save(folder / name)
    (folder / "broken.png").write_text("no image")
    return folder


def sources_with(log, out, **fields):
    return Annotators(
        captioner=Heavy("words", log),
        segmenter=Heavy("areas", log),
        keep=KeptAnnotations(out / KEPT_FOLDER),
        **fields,
    )


def test_each_runs_over_all_and_is_released_before_the_next(photos, tmp_path, model):
    log, out = [], tmp_path / "out"
    translator = Translator(model, TranslateSettings(steps=1))
    annotators = sources_with(log, out, captions={"b": "my street"})
    jobs = find_jobs(photos, out)
    caption_ahead(jobs, translator, annotators, batch_size=2)
    segment_ahead(jobs, translator, annotators, batch_size=2)
    # a and b go together, of which b has the user's caption; broken.png is passed over.
    expected = [("words", 1), ("words", 1), ("words", "released")]
    assert log == [*expected, ("areas", 2), ("areas", 1), ("areas", "released")]
    report = translate(photos, out, translator, annotators)
    assert log[6:] == [], "an annotator was asked again beside the denoiser"
    assert (report.made, [name for name, _ in report.failures]) == (3, ["broken.png"])
    facts = json.loads((out / "deep" / "c.json").read_text())
    assert (facts["captioner"], facts["segmenter"]) == ("words 1", "areas 1")
    assert facts["caption"].startswith("a street of")
    assert json.loads((out / "b.json").read_text())["caption"] == "my street"
    kept = {
        path.relative_to(out / KEPT_FOLDER).as_posix() for path in (out / KEPT_FOLDER).rglob("*.*")
    }
    assert kept == {
        "captions/a.png.json",
        "captions/deep/c.png.json",
        *(f"seg/{name}.png" for name in ("a.png", "b.png", "deep/c.png")),
    }


def test_what_is_kept_counts_for_its_annotator_version_and_image_alone(tmp_path):
    keep, image, log = KeptAnnotations(tmp_path), street(0)[0], []
    first = Heavy("words", log)
    assert keep.caption("a.png", image, first) is None
    keep.put_caption("a.png", image, first, "a street")
    keep.put_segmentation("a.png", image, first, image)
    assert keep.caption("a.png", image, first) == "a street"
    assert np.array_equal(keep.segmentation("a.png", image, first), image)
    for other_image, other in (
        (image, Heavy("words", log, "2")),
        (image, Heavy("other", log)),
        (street(1)[0], first),
    ):
        assert keep.caption("a.png", other_image, other) is None
        assert keep.segmentation("a.png", other_image, other) is None
    (tmp_path / "captions" / "a.png.json").write_text("[")
    (tmp_path / "seg" / "a.png.png").write_bytes(b"torn")
    assert keep.caption("a.png", image, first) is None
    assert keep.segmentation("a.png", image, first) is None


def test_an_empty_caption_is_the_null_condition(tmp_path):
    class Silent(Heavy):
        def caption(self, images):
            return [" " for _ in images]

    assert Annotators(captioner=Silent("words", [])).caption("a.png", street(0)[0]) is None


@pytest.mark.parametrize(
    "name", ["blip-base", "blip:nowhere/at-all", "vlm:/no/such/folder", "of-a-later-version"]
)
def test_what_the_model_names_and_is_not_there_is_left_out_with_a_note(name, capsys):
    translator = Translator(model_with(captioner=name, segmenter="regions"))
    sources = make_sources(translator)
    assert sources.annotators.captioner is None
    assert sources.annotators.segmenter.name == "regions"
    assert f"note: {name} is not available" in " ".join(capsys.readouterr().err.split())


def test_what_the_user_asks_for_must_be_there(model):
    translator = Translator(model)
    with pytest.raises(ModelError, match="not available"):
        make_sources(translator, Wanted(captioner="blip-base"))
    with pytest.raises(ModelError, match="not available"):
        make_sources(translator, Wanted(segmenter="sam-huge"))


def test_weights_that_do_not_load_are_left_out_unless_asked_for(
    photos, tmp_path, model, monkeypatch, capsys
):
    class Broken(Heavy):
        def caption(self, images):
            raise ModelError("the weights are torn")

    log, out = [], tmp_path / "out"
    annotators = Annotators(Broken("torn", log), Heavy("areas", log), keep=KeptAnnotations(out))
    translator = Translator(model)
    left = annotate_ahead(photos, out, translator, _sources.Sources(annotators), None)
    assert left.annotators.captioner is None
    assert left.annotators.segmenter is not None
    assert "note: torn is not available" in capsys.readouterr().err
    asked = _sources.Sources(annotators, frozenset({"captioner"}))
    with pytest.raises(ModelError, match="torn"):
        annotate_ahead(photos, out, translator, asked, None)


def test_folders_of_single_masks_are_refused_with_the_cure(tmp_path, model):
    (tmp_path / "a").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a" / "0.png")
    with pytest.raises(InputError, match="merge them"):
        make_sources(Translator(model), Wanted(maps=tmp_path))


def test_kept_results_lie_beside_the_outputs_and_out_of_sight(photos, tmp_path):
    from v2ir.files import image_paths

    assert kept_folder(photos, tmp_path / "out") == tmp_path / "out" / KEPT_FOLDER
    assert kept_folder(photos / "a.png", tmp_path / "b.png") == tmp_path / KEPT_FOLDER
    keep = KeptAnnotations(tmp_path / "out" / KEPT_FOLDER)
    keep.put_segmentation("a", street(0)[0], Heavy("areas", []), street(0)[0])
    assert image_paths(tmp_path / "out") == []
