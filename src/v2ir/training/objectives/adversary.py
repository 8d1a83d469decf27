"""A patch discriminator: it asks whether an infrared picture fits its visible one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from v2ir.seeding import own_seed
from v2ir.training.stage import Stage


class PatchDiscriminator(nn.Module):
    """Judges patches of an infrared picture, given the visible one and the style.

    Three halvings, so a verdict sees about 70 px.
    Source: Isola et al. 2017, Sec. 3.2.2, with spectral normalisation (Miyato et al. 2018).

    Args:
        channels: Channels of the picture with everything that it is judged beside.
        num_styles: Number of styles; 0 judges without one.
        width: Channels after the first layer.
    """

    def __init__(self, channels: int, num_styles: int = 0, width: int = 32) -> None:
        super().__init__()
        widths = (channels, width, 2 * width, 4 * width, 4 * width)
        self.layers = nn.ModuleList(
            nn.utils.parametrizations.spectral_norm(
                nn.Conv2d(before, after, 4, stride=2 if place < 3 else 1, padding=1)
            )
            for place, (before, after) in enumerate(itertools.pairwise(widths))
        )
        self.verdict = nn.utils.parametrizations.spectral_norm(
            nn.Conv2d(widths[-1], 1, 3, padding=1)
        )
        self.styles = nn.Embedding(num_styles + 1, widths[-1])
        nn.init.zeros_(self.styles.weight)

    def forward(self, pictures: Tensor, styles: Tensor) -> list[Tensor]:
        """Return the features of each layer and, last, the verdicts.

        Args:
            pictures: (N, channels, H, W) in [-1, 1].
            styles: Style numbers, (N,).
        """
        found = []
        x = pictures
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            found.append(x)
        told = self.styles(styles)[:, :, None, None]
        found.append(self.verdict(x) + (told * x).mean(dim=1, keepdim=True))
        return found


def discriminator_loss(true: Tensor, made: Tensor) -> Tensor:
    """Return the hinge loss of the verdicts on true and generated pictures."""
    return 0.5 * (F.relu(1.0 - true).mean() + F.relu(1.0 + made).mean())


def feature_distance(made: Sequence[Tensor], true: Sequence[Tensor]) -> Tensor:
    """Return the mean absolute difference of the features, layer by layer.

    Source: Wang et al. 2018 (pix2pixHD), Eq. 4.
    """
    terms = [F.l1_loss(a, b.detach()) for a, b in zip(made[:-1], true[:-1], strict=True)]
    return torch.stack(terms).mean()


def adaptive_weight(
    reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor, largest: float = 1e3
) -> Tensor:
    """Return the ratio of the gradients of both losses at the last layer's weights.

    Source: Esser et al. 2021 (VQGAN), Eq. 7.
    """
    pulls = [
        torch.autograd.grad(loss, last_layer, retain_graph=True)[0].norm()
        for loss in (reconstruction, adversarial)
    ]
    return (pulls[0] / (pulls[1] + 1e-4)).clamp(0.0, largest).detach()


def make_judge(device: torch.device, beside: int = 0, num_styles: int = 0) -> PatchDiscriminator:
    """Return a discriminator of infrared pictures with the same first weights every time.

    Args:
        device: Where it runs.
        beside: Channels of what a picture is judged beside.
        num_styles: Number of styles that it is told.
    """
    with own_seed():
        return PatchDiscriminator(1 + beside, num_styles).to(device)


def contest(
    judge: PatchDiscriminator,
    made: Tensor,
    true: Tensor,
    loss: Tensor,
    last_layer: Tensor,
    stage: Stage,
    *,
    beside: Tensor | None = None,
    styles: Tensor | None = None,
) -> Tensor:
    """Return the losses of both players; each one's reaches its own weights alone.

    Args:
        judge: The discriminator.
        made: Generated pictures, (N, 1, H, W) in [-1, 1].
        true: True ones.
        loss: What the maker is pulled by otherwise.
        last_layer: Weights of the maker's last layer, where both pulls are compared; where
            they rest, the pictures take their place.
        stage: Its `adversarial` and `features` are the weights.
        beside: What the discriminator sees beside the pictures, (N, C, H, W).
        styles: Style numbers that it is told, (N,).
    """
    if styles is None:
        styles = torch.zeros(len(made), dtype=torch.long, device=made.device)

    def shown(pictures: Tensor) -> Tensor:
        return pictures if beside is None else torch.cat([pictures, beside], dim=1)

    for parameter in judge.parameters():
        parameter.requires_grad_(False)
    verdicts = judge(shown(made), styles)
    fooled = -verdicts[-1].mean()
    if stage.features:
        with torch.no_grad():
            wanted = judge(shown(true), styles)
        fooled = fooled + stage.features * feature_distance(verdicts, wanted)
    # One pass through the judge serves both the weight and the loss.
    pull = torch.autograd.grad(fooled, made)[0]
    fooled = fooled.detach() + (pull * (made - made.detach())).sum()
    layer = last_layer if last_layer.requires_grad else made
    weight = stage.adversarial * adaptive_weight(loss, fooled, layer)
    for parameter in judge.parameters():
        parameter.requires_grad_(True)
    both = torch.cat([shown(true), shown(made.detach())])
    seen = judge(both, styles.repeat(2))[-1]
    return weight * fooled + discriminator_loss(*seen.chunk(2))
