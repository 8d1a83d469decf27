"""Captioners with weights: tiny random models, loaded by the code that loads real ones."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from conftest import street
from tiny_annotators import change_config, save_blip, save_llava
from v2ir.annotation import (
    ALIASES,
    AnnotationStore,
    SceneDescription,
    annotate,
    make_captioner,
    make_segmenter,
    parse_description,
    render,
)
from v2ir.annotation.drawing import NucleusDraw
from v2ir.annotation.spec import parse_spec
from v2ir.annotators import describe
from v2ir.data import index, load_scenes
from v2ir.errors import InputError, MissingExtraError, ModelError, UnknownNameError

IMAGES = [street(seed, 96 + 16 * seed, 80)[0] for seed in range(3)]
TEMPLATE = (
    "USER: {% for part in messages[0]['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %} [SEP]"
)


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
    return save_blip(tmp_path_factory.mktemp("weights") / "tiny-blip")


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    return save_llava(tmp_path_factory.mktemp("weights") / "tiny-llava")


@pytest.mark.parametrize("options", ["", ",sampling=nucleus", ",sampling=nucleus,number=3"])
def test_blip_says_the_same_alone_in_a_batch_and_in_another_order(blip, options):
    captioner = make_captioner(f"blip:{blip}{options}")
    together = describe(captioner, IMAGES)
    assert together == [describe(captioner, [image])[0] for image in IMAGES]
    assert together[::-1] == describe(captioner, IMAGES[::-1])
    assert len({found.captions for found in together}) == 3
    for found in together:
        assert len(set(found.captions)) == (3 if "number" in options else 1)
        for text in found.captions:
            assert 5 <= len(text.split()) <= 20


def test_greedy_is_what_transformers_generates(blip):
    from transformers import AutoProcessor, BlipForConditionalGeneration

    network = BlipForConditionalGeneration.from_pretrained(blip).eval()
    processor = AutoProcessor.from_pretrained(blip)
    pixels = processor.image_processor(images=IMAGES, return_tensors="pt")["pixel_values"]
    tokens = network.generate(
        pixel_values=pixels, do_sample=False, num_beams=1, max_new_tokens=20, min_new_tokens=5
    )
    expected = processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
    assert make_captioner(f"blip:{blip}").caption(IMAGES) == [text.strip() for text in expected]


def test_seeds_give_other_draws(blip):
    texts = [
        make_captioner(f"blip:{blip},sampling=nucleus,seed={s}").caption(IMAGES) for s in "012"
    ]
    assert len({tuple(text) for text in texts}) == 3


def test_draws_follow_the_nucleus():
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    number = 4000
    generators = [torch.Generator().manual_seed(seed) for seed in range(number)]
    drawn = NucleusDraw(generators, 0.9)(None, logits.repeat(number, 1)).argmax(dim=-1)
    shares = torch.bincount(drawn, minlength=4) / number
    # 0.5 + 0.3 is below 0.9, so the third still belongs to the nucleus; the fourth does not.
    expected = torch.tensor([0.5, 0.3, 0.15, 0.0]) / 0.95
    assert shares[3] == 0
    assert (shares - expected).abs().max() < 4 * (0.25 / number) ** 0.5
    one = NucleusDraw(generators[:5], 1e-9)(None, logits.repeat(5, 1)).argmax(dim=-1)
    assert one.tolist() == [0] * 5


def test_versions_tell_weights_and_options_apart_but_not_places(blip, tmp_path):
    first = make_captioner(f"blip:{blip}")
    moved = save_blip(tmp_path / "elsewhere" / "tiny-blip")
    assert (first.name, first.version) == (
        "blip:tiny-blip",
        make_captioner(f"blip:{moved}").version,
    )
    assert first.version != make_captioner(f"blip:{blip},max_tokens=9").version
    assert first.version != make_captioner(f"blip:{blip},sampling=nucleus").version
    file = moved / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    file.write_bytes(data)
    assert first.version != make_captioner(f"blip:{moved}").version


def test_released_weights_are_loaded_again(blip):
    captioner = make_captioner(f"blip:{blip}")
    before = captioner.caption(IMAGES)
    captioner.release()
    assert captioner._parts is None
    assert captioner.caption(IMAGES) == before


@pytest.mark.parametrize("template", [None, TEMPLATE])
def test_a_vision_language_model_says_the_same_alone_and_in_a_batch(tmp_path, template):
    folder = save_llava(tmp_path / "tiny-llava", template)
    captioner = make_captioner(f"vlm:{folder},max_tokens=8")
    together = captioner.caption(IMAGES)
    assert together == [captioner.caption([image])[0] for image in IMAGES]
    assert len(set(together)) > 1, "the image has no effect"
    assert all("draw its thermal" not in text for text in together), "the prompt is in the answer"
    other = make_captioner(f"vlm:{folder},max_tokens=8,prompt=warm car, hot road")
    assert other.given_prompt == "warm car, hot road"
    assert other.version != captioner.version


def test_what_cannot_be_loaded_says_why(blip, tmp_path):
    with pytest.raises(ModelError, match="local copy"):
        make_captioner("blip-base").version  # noqa: B018
    with pytest.raises(ModelError, match=r"no config\.json"):
        make_captioner(f"blip:{tmp_path}").version  # noqa: B018
    with pytest.raises(ModelError):
        make_segmenter(f"sam:{blip}").segment(IMAGES)
    folder = save_llava(tmp_path / "broken")
    (folder / "processor_config.json").unlink()
    with pytest.raises((ModelError, MissingExtraError)):
        make_captioner(f"vlm:{folder}").caption(IMAGES)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no weights"):
        make_captioner(f"vlm:{folder}").caption(IMAGES)


@pytest.mark.parametrize(
    "name, error, words",
    [
        ("blip", InputError, "needs weights"),
        ("blip-bas", UnknownNameError, "blip-base"),
        ("blip-base,top=1", UnknownNameError, "top_p"),
        ("blip-base,top_p=x", InputError, "cannot be"),
        ("blip-base,top_p=0", InputError, "above 0"),
        ("blip-base,number=2", InputError, "nucleus"),
        ("blip-base,sampling=beam", InputError, "greedy or nucleus"),
        ("blip-base,min_tokens=30", InputError, "at most max_tokens"),
        ("statistics:x", InputError, "no weights"),
        ("statistics,seed=1", UnknownNameError, "option"),
        ("vlm:x,style=long", InputError, "structured=true"),
        ("vlm:x,structured=true,style={place}", InputError, "scene"),
        ("sam-base", UnknownNameError, "statistics"),
    ],
)
def test_wrong_names_and_options(name, error, words):
    with pytest.raises(error, match=words):
        make_captioner(name)


def test_aliases_are_annotators_and_constructed_without_a_look_at_weights():
    for name, whole in ALIASES.items():
        make = make_segmenter if whole.startswith("sam:") else make_captioner
        assert make(name).name == whole
    assert parse_spec("vlm:a/b,prompt=one, two,number=3").options == {
        "prompt": "one, two",
        "number": "3",
    }


FULL = {
    "scene": "a nighttime street intersection",
    "weather": "clear",
    "time_of_day": "night",
    "light": "street lamps",
    "objects": [
        {"name": "a parked car", "material": "steel", "heat": "engine running"},
        {"name": "a dense tree"},
    ],
    "band": "LWIR",
}


@pytest.mark.parametrize(
    "answer",
    [
        json.dumps(FULL),
        f"Sure! Here it is:\n```json\n{json.dumps(FULL, indent=1)}\n```\nAnything else?",
        json.dumps(FULL).replace('"}]', '",}, ]'),
        json.dumps(FULL).replace("time_of_day", "Time of Day").replace('"scene"', '"Place"'),
        "{not this} " + json.dumps(FULL).replace('"heat"', '"heat state"'),
    ],
)
def test_answers_are_read_leniently(answer):
    assert parse_description(answer) == SceneDescription.model_validate(FULL)


@pytest.mark.parametrize("answer", ["a street", "{}", '{"weather": "rain"}', '{"scene": ""}', "{"])
def test_answers_without_fields_are_none(answer):
    assert parse_description(answer) is None


def test_objects_may_be_bare_names_and_fields_empty():
    found = parse_description(
        '{"scene": "a yard", "objects": ["a dog", {"type": "a wall"}], "light": null}'
    )
    assert [item.name for item in found.objects] == ["a dog", "a wall"]
    assert render(found) == "a yard, with a dog and a wall"


def test_wordings():
    found = SceneDescription.model_validate(FULL)
    assert render(found) == (
        "a nighttime street intersection, clear, night, street lamps, with a parked car of "
        "steel (engine running) and a dense tree"
    )
    assert render(found, "long") == (
        "This is a long-wave infrared image. A nighttime street intersection. A parked car of "
        "steel (engine running). A dense tree. Night, clear, street lamps."
    )
    assert render(found, "{objects}; {weather}, {scene}") == (
        "a parked car of steel (engine running), a dense tree; clear, a nighttime street "
        "intersection"
    )
    bare = SceneDescription(scene="a yard")
    assert render(bare, "long") == "This is a long-wave infrared image. A yard."
    assert render(bare, "{weather}, {scene}, {light}") == "a yard"
    for wrong in ("pretty", "{colour}", "{scene"):
        with pytest.raises(InputError):
            render(found, wrong)


def test_fields_are_kept_and_worded_anew_without_the_network(llava, make_pairs, monkeypatch):
    from v2ir.annotation.vision_language import VisionLanguageCaptioner

    asked = []

    def answers(self, images):
        asked.append(len(images))
        return [
            json.dumps({**FULL, "scene": f"a street {i.shape[1]} wide"}) for i in images[:-1]
        ] + ["just a street"]

    monkeypatch.setattr(VisionLanguageCaptioner, "_answers", answers)
    root = make_pairs(3)
    index(root)
    spec = f"vlm:{llava},structured=true"
    report = annotate(root, captioner=spec, segmenter=None)
    assert (report.captions.made, report.captions.notes) == (3, 1)
    store, scenes = AnnotationStore(root), load_scenes(root)
    first = store.description(scenes[0])
    assert first.structure == SceneDescription.model_validate(
        {**FULL, "scene": "a street 96 wide"}
    ).model_dump(mode="json")
    assert store.captions(scenes[2]) == ["just a street"]
    assert "no fields" in store.description(scenes[2]).note

    again = annotate(root, captioner=f"{spec},style=long", segmenter=None)
    assert again.captions.made == 3
    assert asked == [3, 1], "more than the plain answer was asked for again"
    assert store.caption(scenes[0]).startswith("This is a long-wave infrared image. A street 96")
    assert annotate(root, captioner=f"{spec},style=long", segmenter=None).captions.kept == 3


def test_several_captions_reach_the_store(blip, make_pairs):
    root = make_pairs(2)
    index(root)
    annotate(root, captioner=f"blip:{blip},sampling=nucleus,number=3", segmenter=None)
    store = AnnotationStore(root, with_faulty=True)
    for scene in load_scenes(root):
        assert len(store.captions(scene)) == 3
        assert store.provenance("caption", scene).annotator == "blip:tiny-blip"


def test_a_batch_that_fails_goes_one_at_a_time(make_pairs):
    class Small:
        name, version = "small", "1"

        def caption(self, images):
            if len(images) > 1 or np.array_equal(images[0], street(1)[0]):
                raise RuntimeError("out of memory")
            return ["a street"]

    root = make_pairs(3)
    index(root)
    report = annotate(root, captioner=Small(), segmenter=None)
    assert report.captions.made == 2
    assert report.failures == (("rgb/street_01.png", "out of memory"),)


def test_florence_is_asked_in_its_own_words(llava, tmp_path):
    folder = save_llava(tmp_path / "tiny")
    change_config(folder, model_type="florence2")
    assert make_captioner(f"vlm:{folder}").prompt == "<MORE_DETAILED_CAPTION>"
