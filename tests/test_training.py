from __future__ import annotations

import collections
import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from training_pieces import draws, make_caches
from v2ir.annotation import annotate
from v2ir.data import index
from v2ir.errors import DataError, InputError, RunError, UnknownNameError
from v2ir.files import read_jsonl
from v2ir.model import load_model
from v2ir.training import RECIPES, Stage, TrainSettings, load_recipe, train
from v2ir.training.average import averaged, start_averages, update_averages, warmed_decay
from v2ir.training.cache import LatentCache, draw_window
from v2ir.training.checkpoint import list_checkpoints
from v2ir.training.drops import SUBSETS, draw_drops
from v2ir.training.loop import learning_rate
from v2ir.training.objectives import FOR_AUTOENCODERS
from v2ir.training.objectives.denoising import draw_timestep
from v2ir.training.scenes import Deck, scenes_of, training_scenes
from v2ir.training.variants import Variant, draw_variants


@pytest.fixture
def data(make_pairs):
    """Return an annotated data set of street pairs and infrared images without a partner."""
    root = make_pairs(6)
    for number in range(3):
        source = root / "ir" / f"street_{number:02d}.png"
        Image.open(source).rotate(180).save(root / "ir" / f"alone_{number}.png")
    index(root, style=lambda name: "alone" if name.startswith("alone") else "street")
    annotate(root)
    return root


def only_train(root):
    path = root / "scenes.jsonl"
    rows = [{**row, "split": "train"} for row in read_jsonl(path)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def short(**stages):
    """Return the tiny recipe with other numbers of steps; 0 leaves a stage out."""
    recipe = RECIPES["tiny"]
    kept = [
        stage.model_copy(update={"steps": stages.get(stage.name, 2)})
        for stage in recipe.stages
        if stages.get(stage.name, 2)
    ]
    return recipe.model_copy(update={"stages": tuple(kept)})


def weights(folder):
    return {
        f"{part}/{name}": value
        for part, file in (
            ("unet", "diffusion_pytorch_model.safetensors"),
            ("vae", "diffusion_pytorch_model.safetensors"),
            ("text_encoder", "model.safetensors"),
        )
        for name, value in load_file(folder / part / file).items()
    }


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_seven_subsets_are_dropped_with_the_published_probabilities():
    number = 200_000
    drops = draw_drops(number, 0.02, np.random.default_rng(0))
    counted = collections.Counter(drops)
    assert len(SUBSETS) == 7
    for subset in SUBSETS:
        assert counted[subset] / number == pytest.approx(0.02, abs=0.0015)
    assert counted[frozenset()] / number == pytest.approx(0.86, abs=0.004)
    for name in ("text", "visible", "segmentation"):
        dropped = sum(name in subset for subset in drops)
        assert dropped / number == pytest.approx(0.08, abs=0.003)


def test_batches_see_the_drops_that_were_drawn(data):
    """The drops must reach the tensors: count them there, with each subset at 1 in 7."""
    only_train(data)
    from v2ir.model import architecture, build_model
    from v2ir.training.objectives.denoising import Denoising

    model = build_model(architecture("tiny"), name="x", styles=("street",))
    stage = Stage(name="s", steps=1, drop=1 / 7, drop_style=0.5, crop=32, variants=1)
    caches = make_caches(data, model, lambda x: model.encode(x) + 1)
    scenes = scenes_of(stage, training_scenes(data)) * 100
    batch = Denoising(model, stage, caches).batch(scenes, draws(1, len(scenes)))
    gone = collections.Counter(
        (
            prompt == "",
            bool(visible.abs().max() == 0),
            bool(segmentation.abs().max() == 0),
        )
        for prompt, visible, segmentation in zip(
            batch.prompts, batch.visible, batch.segmentation, strict=True
        )
    )
    assert gone[(False, False, False)] == 0
    assert len(gone) == 7
    assert all(abs(count / len(scenes) - 1 / 7) < 0.06 for count in gone.values())
    assert abs((batch.styles == 0).float().mean().item() - 0.5) < 0.08
    kept = next(i for i, prompt in enumerate(batch.prompts) if prompt)
    assert batch.prompts[kept].startswith("turn the visible image of")


def test_stage_of_infrared_images_sees_no_pairs_and_one_prompt(data):
    only_train(data)
    stage = RECIPES["tiny"].stages[1]
    scenes = scenes_of(stage, training_scenes(data))
    assert len(scenes) == 9
    assert stage.prompt == "an infrared image"
    assert stage.conditions == ()
    assert len(scenes_of(RECIPES["tiny"].stages[2], training_scenes(data))) == 6


def test_a_killed_run_ends_with_the_weights_of_an_undisturbed_one(data, tmp_path):
    only_train(data)
    recipe = short(autoencoder=8, infrared=4, pairs=12, style=4)
    path = tmp_path / "recipe.json"
    path.write_text(recipe.model_dump_json())
    undisturbed = tmp_path / "undisturbed"
    train(recipe, TrainSettings(data, undisturbed))

    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "v2ir.cli", "train", str(path), str(data), str(killed)]
    stops = 0
    for stage, step in (("autoencoder", 4), ("pairs", 4)):
        process = subprocess.Popen(
            command, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None:
            found = list_checkpoints(killed / "checkpoints", stage)
            if found and found[-1][0] >= step:
                process.send_signal(signal.SIGKILL)
                stops += 1
                break
            time.sleep(0.005)
        process.wait()
    assert stops == 2, "the run was over before it could be killed"
    assert not (killed / "models" / "style").exists()
    train(load_recipe(path), TrainSettings(data, killed))
    for stage in ("autoencoder", "infrared", "pairs", "style"):
        assert same(weights(undisturbed / "models" / stage), weights(killed / "models" / stage))


def test_a_run_folder_holds_what_it_should(data, tmp_path):
    only_train(data)
    run = tmp_path / "run"
    last = train(short(), TrainSettings(data, run))
    assert last == run / "models" / "style"
    card = load_model(last).card
    assert card.styles == ("alone", "street")
    assert card.recipe["finished"] == "style"
    assert json.loads((run / "recipe.json").read_text())["name"] == "tiny"
    rows = list(read_jsonl(run / "log.jsonl"))
    assert {row["stage"] for row in rows} == {"autoencoder", "infrared", "pairs", "style"}
    assert all(np.isfinite(row["loss"]) for row in rows)
    assert list((run / "events").glob("events.*"))
    assert sorted(path.name for path in (run / "samples").iterdir())
    assert len(list_checkpoints(run / "checkpoints", "pairs")) <= 2
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if "events" not in str(path)}
    train(short(), TrainSettings(data, run))
    after = {path: path.stat().st_mtime_ns for path in before if path.is_file()}
    assert after == {path: stamp for path, stamp in before.items() if path.is_file()}


def test_each_stage_changes_only_its_parts(data, tmp_path):
    only_train(data)
    run = tmp_path / "run"
    train(short(), TrainSettings(data, run))
    order = ["autoencoder", "infrared", "pairs", "style"]
    saved = [weights(run / "models" / stage) for stage in order]
    for before, after, stage in zip(saved[:-1], saved[1:], order[1:], strict=True):
        changed = {key.split("/")[0] for key in before if not torch.equal(before[key], after[key])}
        assert changed == {"unet", "text_encoder"}, stage


def test_a_new_camera_gets_a_style_of_its_own(data, tmp_path):
    only_train(data)
    train(short(style=0), TrainSettings(data, tmp_path / "first"))
    (camera,) = RECIPES["camera"].stages
    shorter = camera.model_copy(update={"steps": 2, "crop": 32, "batch_size": 2, "variants": 1})
    recipe = RECIPES["camera"].model_copy(update={"stages": (shorter,)})
    rows = [
        {**row, "style": "newcam"} for row in read_jsonl(data / "scenes.jsonl") if "visible" in row
    ]
    (data / "scenes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    start = str(tmp_path / "first" / "models" / "pairs")
    model = load_model(train(recipe, TrainSettings(data, tmp_path / "second", (), start)))
    assert model.card.styles == ("alone", "street", "newcam")
    assert model.style_number("newcam") == 3
    rows_of = model.unet.class_embedding.weight
    assert rows_of.shape[0] == 4
    assert not torch.equal(rows_of[3], rows_of[0])


def test_another_recipe_in_the_same_folder_is_refused(data, tmp_path):
    only_train(data)
    run = tmp_path / "run"
    train(short(infrared=0, pairs=0, style=0), TrainSettings(data, run))
    with pytest.raises(RunError, match="steps: 2 -> 3"):
        train(short(autoencoder=3, infrared=0, pairs=0, style=0), TrainSettings(data, run))


def test_data_without_what_a_stage_needs_is_an_error(data, tmp_path):
    only_train(data)
    recipe = short()
    stages = [stage.model_copy(update={"styles": ("mars",)}) for stage in recipe.stages]
    with pytest.raises(DataError, match="mars"):
        train(
            recipe.model_copy(update={"stages": tuple(stages)}),
            TrainSettings(data, tmp_path / "run"),
        )
    with pytest.raises(UnknownNameError, match="pairs"):
        train(recipe, TrainSettings(data, tmp_path / "other", ("pair",)))


def test_latents_are_computed_once(data, tmp_path):
    only_train(data)
    calls = []

    def encode(images):
        calls.append(images.shape)
        return images[:, :, ::8, ::8]

    cache = LatentCache(tmp_path / "cache", encode, "one")
    variant = Variant(40, False, 8)
    pixels = np.random.default_rng(0).integers(0, 255, (80, 96, 3), dtype=np.uint8)
    first = cache.get("a", variant, lambda: pixels)
    again = cache.get("a", variant, lambda: pytest.fail("read although it was cached"))
    assert torch.equal(first, again)
    assert len(calls) == 1
    cache.get("b", variant, lambda: pixels)
    cache.get("a", Variant(48, False, 8), lambda: pixels)
    LatentCache(tmp_path / "cache", encode, "other").get("a", variant, lambda: pixels)
    assert len(calls) == 4
    cache.store.flush()
    later = LatentCache(tmp_path / "cache", encode, "one")
    assert torch.equal(later.get("a", variant, lambda: pytest.fail("it is on disk")), first)
    for shard in (tmp_path / "cache").glob("*.safetensors"):
        shard.write_bytes(shard.read_bytes()[:-20])
    torn = LatentCache(tmp_path / "cache", encode, "one")
    assert torch.equal(torn.get("a", variant, lambda: pixels), first)
    assert len(calls) == 5


def test_prompts_are_embedded_once_while_the_text_encoder_rests(data, tmp_path):
    only_train(data)
    settings = TrainSettings(data, tmp_path / "run", cache_dir=tmp_path / "cache")
    recipe = short(infrared=0, style=0)
    stages = [stage.model_copy(update={"trains": ("unet",)}) for stage in recipe.stages[1:]]
    recipe = recipe.model_copy(update={"stages": (recipe.stages[0], *stages)})
    train(recipe, settings)
    entries = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "text").rglob("*.s*")
    }
    assert entries
    train(recipe, dataclasses.replace(settings, run_dir=tmp_path / "again"))
    assert entries == {path: path.stat().st_mtime_ns for path in entries}
    again = (tmp_path / "cache" / "text").rglob("*.s*")
    assert set(again) == set(entries)


def test_variants_cover_the_scales_and_both_sides():
    variants = draw_variants(6, 256, (1.0, 1.5), 8, "scene")
    assert variants == draw_variants(6, 256, (1.0, 1.5), 8, "scene")
    assert variants != draw_variants(6, 256, (1.0, 1.5), 8, "other scene")
    assert [variant.mirrored for variant in variants] == [False, True] * 3
    assert all(256 <= v.short_side <= 384 and v.short_side % 8 == 0 for v in variants)
    assert variants[0].short_side < 304 and variants[4].short_side > 336
    image = np.zeros((100, 300, 3), np.uint8)
    image[:, :100] = 255
    view = Variant(50, True, 8).apply(image)
    assert view.shape == (48, 144, 3)
    assert view[:, -40:].min() > 200 and view[:, :80].max() < 50


def test_windows_lie_within_a_latent_and_reach_its_corners():
    latent, generator = torch.zeros(1, 5, 6), np.random.default_rng(3)
    drawn = {draw_window(latent, 4, generator) for _ in range(100)}
    assert drawn == {(top, left) for top in range(2) for left in range(3)}


def test_the_deck_shows_every_scene_once_an_epoch_wherever_it_starts():
    deck = Deck(["a"] * 7, 0.0, (0, 1))
    whole = deck.draw(0, 21)
    assert [sorted(whole[i : i + 7]) for i in (0, 7, 14)] == [list(range(7))] * 3
    assert whole[:7] != whole[7:14]
    assert Deck(["a"] * 7, 0.0, (0, 1)).draw(5, 9) == whole[5:14]
    assert Deck(["a"] * 7, 0.0, (0, 2)).draw(0, 21) != whole


def test_balance_draws_styles_alike():
    styles = ["many"] * 90 + ["few"] * 10
    drawn = Deck(styles, 1.0, (0,)).draw(0, 20_000)
    share = np.mean([styles[i] == "few" for i in drawn])
    assert share == pytest.approx(0.5, abs=0.03)
    share = np.mean([styles[i] == "few" for i in Deck(styles, 0.0, (0,)).draw(0, 20_000)])
    assert share == pytest.approx(0.1, abs=1e-9)


def test_averages_follow_the_published_warm_up():
    assert warmed_decay(0.9999, 0) == pytest.approx(0.1)
    assert warmed_decay(0.9999, 90) == pytest.approx(0.91)
    assert warmed_decay(0.9999, 10**6) == 0.9999
    module = torch.nn.Linear(2, 2)
    modules = {"m": module}
    averages = start_averages(modules)
    expected = module.weight.detach().clone()
    for step in range(1, 30):
        with torch.no_grad():
            module.weight += torch.randn(2, 2)
        update_averages(averages, modules, 0.9, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * module.weight.detach()
    torch.testing.assert_close(averages["m"]["weight"], expected)
    raw = module.weight.detach().clone()
    with averaged(averages, modules):
        torch.testing.assert_close(module.weight.detach(), expected)
    assert torch.equal(module.weight.detach(), raw)


def test_learning_rate_warms_up_and_decays():
    stage = Stage(name="s", steps=100, learning_rate=1.0, warmup_steps=10, decay_steps=100)
    rates = [learning_rate(stage, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == 1.0
    assert rates[-1] == pytest.approx(1 / 90)
    assert all(a >= b for a, b in itertools.pairwise(rates[9:]))


def test_shifted_timesteps_are_noisier():
    def drawn(shift):
        generator = np.random.default_rng(0)
        return np.array([draw_timestep(1000, shift, generator) for _ in range(50_000)])

    plain = drawn(1.0)
    assert np.array_equal(plain, np.random.default_rng(0).integers(1000, size=50_000))
    shifted = drawn(4.0)
    assert shifted.min() >= 0 and shifted.max() == 999
    # Half of u = 4 v / (1 + 3 v) lies above 4 * 0.5 / 2.5 = 0.8.
    assert (shifted > 800).mean() == pytest.approx(0.5, abs=0.01)


def test_a_sample_does_not_depend_on_its_batch(data):
    only_train(data)
    from v2ir.model import architecture, build_model
    from v2ir.training.objectives.denoising import Denoising

    model = build_model(architecture("tiny"), name="x", styles=("street",))
    stage = Stage(name="s", steps=1, drop=1 / 7, crop=32, variants=4)
    caches = make_caches(data, model, model.encode)
    scenes = scenes_of(stage, training_scenes(data))
    objective = Denoising(model, stage, caches)
    whole, last = objective.batch(scenes, draws(1, 6)), objective.batch(scenes[4:], draws(1, 6)[4:])
    for name in ("clean", "noise", "timesteps", "styles"):
        assert torch.equal(getattr(whole, name)[4:], getattr(last, name))
    assert whole.prompts[4:] == last.prompts


def test_recipes_from_files(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"from": "mini", "seed": 3, "stages": {"pairs": {"steps": 7}}}')
    recipe = load_recipe(path)
    assert recipe.seed == 3
    assert {s.name: s.steps for s in recipe.stages}["pairs"] == 7
    path.write_text('{"from": "mini", "card": {"resolution": 192}}')
    assert load_recipe(path).card == {**RECIPES["mini"].card, "resolution": 192}
    path.write_text('{"from": "mini", "stages": {"pears": {"steps": 7}}}')
    with pytest.raises(UnknownNameError, match="did you mean pairs"):
        load_recipe(path)
    path.write_text('{"from": "mini", "stages": {"pairs": {"steps": 0}}}')
    with pytest.raises(InputError, match="steps"):
        load_recipe(path)
    with pytest.raises(UnknownNameError, match="mini"):
        load_recipe("minni")


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_resolves(name):
    recipe = RECIPES[name]
    again = type(recipe).model_validate_json(recipe.model_dump_json())
    assert again == recipe
    phases = [stage.scenes for stage in recipe.stages if stage.objective == "denoising"]
    from_text = recipe.card.get("conditions") == ["text"]
    if not from_text and recipe.stages[-1].objective not in FOR_AUTOENCODERS:
        assert "pairs" in {stage.scenes for stage in recipe.stages}
    # Phase 1, if there is one, comes before every phase that sees pairs.
    assert from_text or "infrared" not in phases[1:]


def test_checkpoints_are_safetensors_of_every_kind_of_number(tmp_path):
    from v2ir.training.checkpoint import TrainingState, load_checkpoint, save_checkpoint

    def state(fill):
        module = torch.nn.Linear(3, 2)
        module.register_buffer("count", torch.tensor(fill))
        module.register_buffer("small", torch.full((3, 1), fill, dtype=torch.bfloat16))
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
        module(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        return TrainingState({"m": module}, start_averages({"m": module}), optimizer, step=fill)

    kept, other = state(7), state(3)
    path = save_checkpoint(tmp_path, "s", kept, {"a": 1})
    plain = load_file(path)
    assert plain.keys() == kept.tensors().keys()
    assert all(torch.equal(plain[name], value) for name, value in kept.tensors().items())
    load_checkpoint(path, other, {"a": 1})
    assert other.step == 7
    assert all(torch.equal(value, kept.tensors()[n]) for n, value in other.tensors().items())
