"""The task "fields": how is the land used, seen from above?

The classes are the ten of EuroSAT. Season, light, haze, direction, parcels and scale vary within every class. All
classes use the same greens and browns, so only the fine pattern and the layout of the land distinguish them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from paretune.drawn.drawing import SIZE, finish, uniform
from paretune.drawn.noise import cell_values, lattice_noise
from paretune.drawn.outline import averaged, over, pixels, turned
from paretune.drawn.task import painted

FINE = 2
SIDE = SIZE * FINE
GREENS = [[0.22, 0.34, 0.16], [0.36, 0.46, 0.22], [0.48, 0.52, 0.28], [0.58, 0.52, 0.34], [0.46, 0.37, 0.26]]


class Land:
    """The land of n pictures, with its coordinates and its random generator.

    Coordinates are in pixels, (n, SIDE, SIDE). `along` and `across` start in the middle of the picture; `u` and `v` are
    the same but start at a random position.
    """

    def __init__(self, rng: torch.Generator, count: int) -> None:
        self.rng, self.count = rng, count
        x, y = (p - SIZE / 2 for p in pixels(FINE))
        u, v = turned(x, y, uniform(rng, 0, math.pi, count))
        self.along, self.across = u, v
        self.u, self.v = u + uniform(rng, 0, 200, count, 1, 1), v + uniform(rng, 0, 200, count, 1, 1)

    def value(self, low: float, high: float) -> Tensor:
        """One number per picture (n, 1, 1)."""
        return uniform(self.rng, low, high, self.count, 1, 1)

    def noise(self, size: float) -> Tensor:
        """Smooth noise in [-1, 1] with a random value every `size` pixels."""
        return lattice_noise(self.rng, self.u / size, self.v / size)

    def greenery(self) -> Tensor:
        """A colour of soil or plants per picture (n, 3), between two neighbours of GREENS."""
        return _between(torch.tensor(GREENS), uniform(self.rng, 0, 3.99, self.count))

    def plain(self, colour: Tensor) -> Tensor:
        """One colour (n, 3) everywhere."""
        return colour[:, :, None, None].expand(-1, 3, SIDE, SIDE)

    def parcels(self) -> tuple[Tensor, Tensor]:
        """Adjacent fields: their colours (n, 3, H, W), and a random number in [0, 1) for each field (n, H, W)."""
        wide, tall = self.value(9, 20), self.value(9, 20)
        column = torch.floor(self.u / wide)
        row = torch.floor((self.v + 7 * cell_values(self.rng, column, column * 0)) / tall)
        shade = cell_values(self.rng, column, row)
        colours = _between(torch.tensor(GREENS), (shade * 3.99).flatten()).view(self.count, SIDE, SIDE, 3)
        return colours.permute(0, 3, 1, 2), cell_values(self.rng, column, row)


def annual_crop(land: Land) -> Tensor:
    """Parcels with fine plough lines, each parcel in one of two directions."""
    image, chance = land.parcels()
    w = torch.where(chance < 0.5, land.u, land.v)
    return image * (1 + 0.16 * torch.sin(2 * math.pi * w / land.value(2.2, 3.4))).unsqueeze(1)


def permanent_crop(land: Land) -> Tensor:
    """Parcels with trees on a square grid."""
    image, _ = land.parcels()
    period = land.value(3.0, 4.2)
    trees = torch.sin(math.pi * land.u / period) ** 2 * torch.sin(math.pi * land.v / period) ** 2
    return image * (1.12 - 0.6 * trees).unsqueeze(1)


def pasture(land: Land) -> Tensor:
    """Even grass in large parcels, sometimes with hedges between them."""
    image = land.plain(land.greenery()) * (1 + 0.07 * land.noise(9)).unsqueeze(1)
    hedge = ((land.u % land.value(17, 30)) < 1.3) | ((land.v % land.value(17, 30)) < 1.3)
    return image * (1 - 0.35 * hedge * (land.value(0, 1) < 0.6)).unsqueeze(1)


def herbaceous(land: Land) -> Tensor:
    """Scrub: patches of different plants, and single bushes."""
    image = land.plain(land.greenery()) * (1 + 0.22 * land.noise(6) + 0.14 * land.noise(2.5)).unsqueeze(1)
    return image * (1 - 0.35 * (land.noise(1.6) > 0.5)).unsqueeze(1)


def forest(land: Land) -> Tensor:
    """Crowns of trees, close together."""
    crowns = land.noise(2.2) + 0.6 * land.noise(1.3)
    colour = land.greenery() * torch.tensor([0.75, 0.85, 0.75])
    return land.plain(colour) * (1 + 0.3 * crowns).unsqueeze(1)


def highway(land: Land) -> Tensor:
    """A grey road with lighter edges through parcels or scrub."""
    off = (land.across - land.value(-7, 7) - land.along**2 * land.value(-0.012, 0.012)).abs()
    half = land.value(1.1, 1.9)
    image = over(_country(land), torch.full((land.count, 3), 0.62), (off < half + 0.6).double())
    return over(image, _grey(land, 0.34, 0.5), (off < half).double())


def river(land: Land) -> Tensor:
    """A winding river, as wide as the highway or wider."""
    bend = land.value(1, 4) * torch.sin(land.along / land.value(4, 7) + land.value(0, 6))
    off = (land.across - land.value(-7, 7) - bend).abs()
    half = land.value(1.2, 3.6) * (1 + 0.25 * land.noise(6))
    return over(_country(land), _water(land), (off < half).double())


def residential(land: Land) -> Tensor:
    """Small roofs of many colours in gardens, along streets."""
    pitch = land.value(4.2, 5.6)
    street = (land.v % (2 * pitch)) < 1.4
    column, row = torch.floor(land.u / pitch), torch.floor(land.v / pitch)
    roof = (((land.u % pitch) > 1.6) & ((land.v % pitch) > 1.8) & (cell_values(land.rng, column, row) > 0.12)).double()
    tone = 0.45 + 0.5 * cell_values(land.rng, column, row)
    image = over(_growth(land), _grey(land, 0.5, 0.6), street.double())
    roofs = torch.stack([tone, tone * 0.8, tone * 0.74], dim=1)
    return image + roof.unsqueeze(1) * (roofs - image)


def industrial(land: Land) -> Tensor:
    """Few large bright roofs on paved ground."""
    wide, tall = land.value(8, 13), land.value(7, 11)
    column, row = torch.floor(land.u / wide), torch.floor(land.v / tall)
    yard = 1.2 + 2 * cell_values(land.rng, column, row)
    roof = ((land.u % wide) > yard) & ((land.v % tall) > yard) & (cell_values(land.rng, column, row) > 0.15)
    tone = (0.55 + 0.45 * cell_values(land.rng, column, row)) * (1 + 0.05 * torch.sin(land.u * 3))
    ground = land.plain(_grey(land, 0.4, 0.58)) * (1 + 0.1 * land.noise(3)).unsqueeze(1)
    return ground + roof.unsqueeze(1) * (tone.unsqueeze(1) - ground)


def lake(land: Land) -> Tensor:
    """Water with small waves, sometimes with a shore."""
    water = land.plain(_water(land))
    swell = 0.05 * torch.sin(land.v * land.value(0.8, 2)) + 0.05 * land.noise(5)
    shore = (land.across + 2 * land.noise(7) > land.value(6, 26)).unsqueeze(1)
    return torch.where(shore, _country(land), water * (1 + swell).unsqueeze(1))


def _country(land: Land) -> Tensor:
    """The land beside a road or a river: parcels in some pictures, scrub in others."""
    rough = (land.value(0, 1) < 0.5).unsqueeze(1)
    return torch.where(rough, _growth(land), land.parcels()[0])


def _growth(land: Land) -> Tensor:
    """Uneven plants of one colour."""
    return land.plain(land.greenery()) * (1 + 0.15 * land.noise(4) + 0.12 * land.noise(1.8)).unsqueeze(1)


def _grey(land: Land, low: float, high: float) -> Tensor:
    """A grey per picture (n, 3)."""
    return uniform(land.rng, low, high, land.count, 1).expand(-1, 3)


def _water(land: Land) -> Tensor:
    """A colour of water per picture (n, 3), from blue over green to brown."""
    shades = torch.tensor([[0.13, 0.24, 0.40], [0.20, 0.34, 0.36], [0.36, 0.36, 0.28]])
    return _between(shades, uniform(land.rng, 0, 1.99, land.count))


def _between(colours: Tensor, place: Tensor) -> Tensor:
    """Colours (n, 3) at fractional positions (n,) in a list (m, 3): mixtures of two neighbours."""
    low = torch.floor(place).long().clamp(0, len(colours) - 2)
    share = (place - low).unsqueeze(1)
    return colours[low] * (1 - share) + colours[low + 1] * share


USES = {
    "annual crop": annual_crop, "forest": forest, "herbaceous vegetation": herbaceous, "highway": highway,
    "industrial": industrial, "pasture": pasture, "permanent crop": permanent_crop, "residential": residential,
    "river": river, "sea or lake": lake,
}  # fmt: skip


def paint(rng: torch.Generator, labels: Tensor) -> Tensor:
    """Draw one piece of land per picture."""
    count = len(labels)
    image = torch.empty(count, 3, SIZE, SIZE)
    for label, use in enumerate(USES.values()):
        rows = (labels == label).nonzero()[:, 0]
        if len(rows):
            image[rows] = averaged(use(Land(rng, len(rows))), FINE)
    season = torch.exp(uniform(rng, -0.15, 0.15, count, 3, 1, 1) + uniform(rng, -0.25, 0.3, count, 1, 1, 1))
    haze = uniform(rng, 0, 0.3, count, 1, 1, 1)
    return finish(rng, image * season * (1 - haze) + 0.75 * haze, noise=0.06)


FIELDS = painted("fields", "specialized", "how the land is used, seen from above", tuple(USES), paint)
