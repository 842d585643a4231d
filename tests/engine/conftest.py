"""A small stage whose every number can be worked out by hand, and a table of images; makes `finder` importable."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from histill.core.card import DatasetCard
from histill.core.manifest import Manifest, Sample
from histill.data.batches import Share
from histill.data.tiles import TileBatch
from histill.engine.optim import Schedule
from histill.engine.stage import Stage

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "methods")]

NO_TABLE = Manifest((), DatasetCard(classes=("a", "b")), Path("t.csv"), "")


class Fixed:
    """The same batches every epoch, in the place of `Tiles`."""

    def __init__(self, images: Tensor, size: int) -> None:
        self.parts, self.count = images.split(size), len(images)

    def __len__(self) -> int:
        return len(self.parts)

    def epoch(self, epoch: int, seed: int, *, begin: int = 0, share: Share | None = None) -> Iterator[TileBatch]:
        for number, part in list(enumerate(self.parts))[begin:]:
            b, _, h, w = part.shape
            yield TileBatch(
                images=part,
                valid=torch.ones(b, h, w, dtype=torch.bool),
                labels=torch.zeros(b, 2),
                masks=torch.zeros(b, 0, h, w).long(),
                ids=tuple(f"{number}.{i}" for i in range(b)),
            )


class Net(nn.Module):
    """A trunk and a head, with a BatchNorm and dropout if asked for."""

    def __init__(self, *, norm: bool, dropout: float) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.trunk = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4) if norm else nn.Identity(), nn.Tanh())
        self.dropout, self.head = nn.Dropout(dropout), nn.Conv2d(4, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.dropout(self.trunk(images)))


@pytest.fixture
def make_stage() -> Callable[..., Stage]:
    """A stage of (schedule, size of a batch, number of images, norm, dropout, whatever else a `Stage` has)."""

    def make(
        schedule: Schedule, *, images: int = 8, size: int = 2, norm: bool = False, dropout: float = 0.0, **more: Any
    ) -> Stage:
        net = Net(norm=norm, dropout=dropout)
        pixels = torch.rand(images, 3, 6, 6, generator=torch.Generator().manual_seed(0))
        batches: Any = Fixed(pixels, size)
        standard: dict[str, Any] = {
            "name": "stage",
            "learns": net,
            "trunk": net.trunk,
            "batches": batches,
            "loss": lambda batch: {"square": (net(batch.images) - 1).square().mean()},
            "schedule": schedule,
        }
        return Stage(**{**standard, **more})

    return make


@pytest.fixture
def table(tmp_path: Path) -> Manifest:
    """Six images of three sizes, two classes, a mask each."""
    folder = tmp_path / "table"
    folder.mkdir()
    random = np.random.default_rng(0)
    samples = []
    for i in range(6):
        h, w = ((32, 32), (33, 47), (20, 48))[i % 3]
        path, mask = folder / f"{i}.png", folder / f"{i}.mask.png"
        Image.fromarray(random.integers(0, 256, (h, w, 3), np.uint8)).save(path)
        Image.fromarray(random.integers(0, 2, (h, w), np.uint8)).save(mask)
        samples.append(Sample(f"s{i}", path, None, ("a", "b")[: 1 + i % 2], f"p{i // 2}", mask=mask, line=i + 2))
    return Manifest(tuple(samples), DatasetCard(classes=("a", "b")), folder / "t.csv", "digest of the table")
