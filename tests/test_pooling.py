"""Pooled text: the prompt's words beside the time embedding."""

from __future__ import annotations

import pytest
import torch

from training_pieces import tiny_text_model
from v2ir.hub.folders import pipeline_of
from v2ir.model import Conditions, architecture, load_model
from v2ir.model.networks import build_unet
from v2ir.model.pooling import pooled_text, pools_text
from v2ir.sampling.network import KeepingDenoiser

WORDS = ("a", "street", "with", "person", "car")


def tiny(**facts):
    return tiny_text_model(WORDS, **facts)


def noisy(model):
    generator = torch.Generator().manual_seed(0)
    return torch.randn((1, model.card.channels, 8, 8), generator=generator)


@torch.no_grad()
def said(model, *prompts, denoiser=None, timestep=700):
    denoiser = denoiser or model.denoiser
    latents = noisy(model).expand(len(prompts), -1, -1, -1)
    return denoiser(latents, torch.tensor(timestep), Conditions(text=model.embed_prompts(prompts)))


def test_only_words_are_pooled():
    model = tiny()
    text = model.embed_prompts(["a street", ""])
    told = pooled_text(model.unet, text)
    # The first token, two words and the last token; the first and the last alone.
    torch.testing.assert_close(told["text_embeds"][0], text[0, :4].sum(0) / 4)
    torch.testing.assert_close(told["text_embeds"][1], text[1, :2].sum(0) / 4)
    assert text[0, :4].abs().amin(1).min() > 0 and not text[0, 4:].any() and not text[1, 2:].any()
    model.embed_tokens(model.token_ids(["a street"]))[..., 0].sum().backward()
    assert model.text_encoder.get_input_embeddings().weight.grad.any()


def test_words_are_told_apart_before_anything_is_learned():
    model = tiny()
    ids = model.token_ids(["a street with a person", "a street with a car"])
    told = pooled_text(model.unet, model.embed_tokens(ids))["text_embeds"]
    assert (told[0] - told[1]).norm() > 0.3 * told[0].norm()
    street, person = torch.nn.functional.normalize(model.embed_tokens(ids)[0, [2, 5]], dim=1)
    assert abs(street @ person) < 0.7


def test_a_word_reaches_the_prediction_before_anything_is_learned():
    model = tiny()
    person, car = said(model, "a street with a person", "a street with a car")
    pooled = (person - car).norm() / car.norm()
    torch.nn.init.zeros_(model.unet.add_embedding.linear_2.weight)
    person, car = said(model, "a street with a person", "a street with a car")
    attended = (person - car).norm() / car.norm()
    assert pooled > 2 * attended > 0


@pytest.mark.parametrize("reuse", [1, 2])
def test_a_kept_network_says_the_same(reuse):
    model = tiny()
    kept = KeepingDenoiser(model.denoiser, reuse=reuse)
    prompts = ("a street", "a car", "")
    torch.testing.assert_close(said(model, *prompts, denoiser=kept), said(model, *prompts))
    assert kept.full == 1 and kept.partial == 0
    if reuse == 2:
        said(model, *prompts, denoiser=kept, timestep=600)
        assert kept.partial == 1


def test_styles_stand_beside_the_pooled_text(tmp_path):
    model = tiny(styles=("day", "night"))
    torch.nn.init.normal_(model.unet.class_embedding.weight)
    model.save(tmp_path / "m")
    again = load_model(tmp_path / "m")
    assert pools_text(again.unet) and again.card.styles == ("day", "night")
    text = again.embed_prompts(["a street"])
    with torch.no_grad():
        found = [
            again.denoiser(
                noisy(again), torch.tensor(700), Conditions(text=text, style=torch.tensor([style]))
            )
            for style in (0, 1, 2)
        ]
    assert not torch.allclose(found[0], found[1]) and not torch.allclose(found[1], found[2])
    torch.testing.assert_close(said(again, "a street"), said(model, "a street"))


def test_networks_that_are_told_sizes_or_nothing_pool_no_text():
    plain = build_unet(architecture("tiny").unet)
    assert not pools_text(plain) and pooled_text(plain, torch.ones(1, 3, 16)) is None
    sized = {"addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 64}
    other = build_unet({**architecture("txt2ir-tiny").unet, **sized})
    assert not pools_text(other)


def test_no_pipeline_that_pools_nothing_is_said_to_open_it():
    assert pipeline_of(tiny()) is None
    sampled = tiny()
    sampled.unet.register_to_config(addition_embed_type=None)
    assert pipeline_of(sampled) == "StableDiffusionPipeline"
