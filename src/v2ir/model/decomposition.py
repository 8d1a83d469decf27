"""What an infrared picture is made of: temperature, emissivity and what it reflects.

A surface radiates by its temperature as much as its emissivity e lets it, and for the rest
reflects its environment: S = e T + (1 - e) X. The environment X of a pixel is a mixture V of
the mean radiations of the picture's own patches. T stands for the grey value that a black
body of this temperature would have, so Planck's law and the camera's curve are within it.

Source: Mao et al. 2024, "PID: physics-informed diffusion model for infrared image generation";
its released code gives S, the four patches, the sigmoid of e and the squared error. That the
network looks at the picture without its brightness and contrast is ours: 8-bit grey values
have no zero and no unit of heat, and so a camera's gain changes T alone, exactly.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from v2ir.model.own_network import OwnNetwork

_LEAST_DEVIATION = 1e-3


@dataclasses.dataclass(frozen=True)
class Decomposition:
    """The parts of N pictures.

    Attributes:
        emissivity: e in (0, 1), (N, 1, H, W).
        temperature: T in the picture's grey values, (N, 1, H, W); 0..1 is the picture's own
            range, and a surface may be colder or hotter than anything that is seen.
        mixture: V, the share of each patch in a pixel's environment, (N, P, H, W); the
            shares of a pixel sum to 1.
    """

    emissivity: Tensor
    temperature: Tensor
    mixture: Tensor

    def environment(self, pictures: Tensor) -> Tensor:
        """Return the radiation X that reaches each pixel, (N, 1, H, W).

        Args:
            pictures: The pictures S, (N, 1, H, W).
        """
        side = round(self.mixture.shape[1] ** 0.5)
        patches = F.adaptive_avg_pool2d(pictures, side).flatten(1)
        return torch.einsum("npyx,np->nyx", self.mixture, patches)[:, None]

    def rebuild(self, pictures: Tensor) -> Tensor:
        """Return e T + (1 - e) X, (N, 1, H, W): the pictures again if the parts are right."""
        reflected = (1 - self.emissivity) * self.environment(pictures)
        return self.emissivity * self.temperature + reflected

    @property
    def planes(self) -> Tensor:
        """All parts as channels, (N, 2 + P, H, W): e, T, V."""
        return torch.cat([self.emissivity, self.temperature, self.mixture], dim=1)


class DecompositionNetwork(OwnNetwork):
    """A small U-Net that tells the parts of a picture.

    Args:
        patches: Patches of the environment along each side of the picture.
        widths: Channels at full size, at half, at a quarter, ...; multiples of 8.
    """

    objective = "decomposition"

    def __init__(self, patches: int = 2, widths: Sequence[int] = (16, 24, 32)) -> None:
        super().__init__()
        self.config = {"patches": patches, "widths": list(widths)}
        self.first = nn.Conv2d(1, widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            _block(before, after, stride=2) for before, after in itertools.pairwise(widths)
        )
        self.middle = _block(widths[-1], widths[-1])
        self.up = nn.ModuleList(
            _block(widths[level + 1] + widths[level], widths[level])
            for level in reversed(range(len(widths) - 1))
        )
        self.last = nn.Conv2d(widths[0], 2 + patches**2, 1)

    def forward(self, pictures: Tensor) -> Decomposition:
        """Tell the parts of pictures (N, 1, H, W) in [0, 1].

        For a picture g S + o with g > 0 the emissivity and the mixture are those of S, and the
        temperature is g T + o, as long as the picture is not one grey value.
        """
        mean = pictures.mean(dim=(2, 3), keepdim=True)
        deviation = (pictures - mean).square().mean(dim=(2, 3), keepdim=True).sqrt()
        deviation = deviation.clamp_min(_LEAST_DEVIATION)
        seen = self._see((pictures - mean) / deviation)
        return Decomposition(
            emissivity=seen[:, :1].sigmoid(),
            temperature=mean + deviation * seen[:, 1:2],
            mixture=seen[:, 2:].softmax(dim=1),
        )

    def _see(self, x: Tensor) -> Tensor:
        kept = [self.first(x)]
        for down in self.down:
            kept.append(down(kept[-1]))
        x = self.middle(kept.pop())
        for up in self.up:
            beside = kept.pop()
            x = F.interpolate(x, size=beside.shape[-2:], mode="nearest")
            x = up(torch.cat([x, beside], dim=1))
        return self.last(x)


def _block(before: int, after: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride=stride, padding=1),
        nn.GroupNorm(8, after),
        nn.SiLU(),
        nn.Conv2d(after, after, 3, padding=1),
        nn.GroupNorm(8, after),
        nn.SiLU(),
    )
