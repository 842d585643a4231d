"""Heads on bags of features: what is said of a slide, and which of its tiles say it.

All first project the features, ``ReLU(W x + b)``, and differ in how they pool. Rules that hold for all of them:

- What is not present changes nothing, whatever stands there.
- The order of the tiles changes nothing; for TransMIL only if it is told where they lie.
- A bag has at least one tile. Memory is linear in their number.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import isqrt
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from histill.core.config import Share, Strict
from histill.nets.attention import SelfAttention
from histill.nets.mil import GatedAttention


@dataclass(frozen=True)
class BagOutput:
    """What is said of bags.

    Attributes:
        logits: float32 [b, k].
        attention: how much each tile counts, float32 [b, n], of a bag in sum 1, of what is not present 0; None where a
            head has no such number.
    """

    logits: Tensor
    attention: Tensor | None


class MilHeadSettings(Strict):
    """A head by its name, and the sizes of its parts."""

    head: Literal["mean", "max", "abmil", "gated_abmil", "dsmil", "transmil"] = "gated_abmil"
    """how the tiles of a bag are pooled"""
    hidden: PositiveInt = 512
    """width that features are projected to"""
    dropout: Share = 0.25
    """share of the projected features that are dropped in training"""
    attention: PositiveInt = 128
    """abmil, gated_abmil, dsmil: width of the attention"""
    attention_heads: PositiveInt = 8
    """transmil: heads of the self-attention; they divide `hidden`"""
    landmarks: PositiveInt = 256
    """transmil: self-attention is exact up to so many tokens, and beyond approximated by so many"""


class MilHead(nn.Module, ABC):
    """A projection, and what the kinds of heads make of it.

    Args:
        width: d, numbers of a tile's features.
        hidden: what they are projected to.
        dropout: share that is dropped in training.
    """

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout))

    def forward(self, features: Tensor, present: Tensor, coords: Tensor | None = None) -> BagOutput:
        """What is said of bags.

        Args:
            features: float32 [b, n, d].
            present: bool [b, n], of each bag at least one True: False for padding.
            coords: x and y of the tiles in any unit, [b, n, 2]; only TransMIL looks at them.
        """
        # What a linear layer makes of padding has no weight later, but not finite times none is not none.
        features = features.masked_fill(~present[..., None], 0)
        return self.pool(self.project(features), present, coords)

    @abstractmethod
    def pool(self, instances: Tensor, present: Tensor, coords: Tensor | None) -> BagOutput:
        """As `forward`, of projected features [b, n, hidden]."""


class PlainPooling(MilHead):
    """``W pool_i h_i + b``, the pool of each feature by itself: the mean, or the maximum."""

    def __init__(self, width: int, classes: int, settings: MilHeadSettings) -> None:
        super().__init__(width, settings.hidden, settings.dropout)
        self.mean = settings.head == "mean"
        self.classify = nn.Linear(settings.hidden, classes)

    def pool(self, instances: Tensor, present: Tensor, coords: Tensor | None) -> BagOutput:
        """The mean or the maximum over what is present, classified."""
        count = present[..., None]  # [b, n, 1]
        if self.mean:
            pooled = instances.float().masked_fill(~count, 0).sum(dim=1) / count.sum(dim=1)  # [b, hidden]
        else:
            pooled = instances.masked_fill(~count, -torch.inf).amax(dim=1)  # [b, hidden]
        return BagOutput(self.classify(pooled).float(), None)


class PlainAttention(nn.Module):
    """How much each instance of a bag counts: ``a_i = softmax_i(u . tanh(V h_i))``, Ilse et al. 2018, formula 8.

    Args:
        channels: c, the width of an instance.
        hidden: the width of V.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.value, self.score = nn.Linear(channels, hidden), nn.Linear(hidden, 1)

    def forward(self, instances: Tensor, present: Tensor) -> Tensor:
        """Instances [b, n, c], of which those that are present (bool [b, n]) count -> weights float32 [b, n]."""
        scores: Tensor = self.score(self.value(instances).tanh())[..., 0]  # [b, n]
        return scores.float().masked_fill(~present, -torch.inf).softmax(dim=1)


class Abmil(MilHead):
    """``W sum_i a_i h_i + b``, a_i by attention. Ilse et al., "Attention-based deep MIL", ICML 2018, formula 7."""

    def __init__(self, width: int, classes: int, settings: MilHeadSettings) -> None:
        super().__init__(width, settings.hidden, settings.dropout)
        kind = GatedAttention if settings.head == "gated_abmil" else PlainAttention
        self.attention = kind(settings.hidden, settings.attention)
        self.classify = nn.Linear(settings.hidden, classes)

    def pool(self, instances: Tensor, present: Tensor, coords: Tensor | None) -> BagOutput:
        """The mean weighted by attention, classified."""
        weights: Tensor = self.attention(instances, present)  # [b, n]
        pooled = (weights[:, None] @ instances.float())[:, 0]  # [b, hidden]
        return BagOutput(self.classify(pooled).float(), weights)


class Dsmil(MilHead):
    """Two streams of which the first tells the second where to look; what is said is the mean of both.

    The first, for class c: ``max_i w_c . h_i``; the tile m where it stands is the critical one. The second: every tile
    counts as far as it resembles that one, ``U_ic = softmax_i(<q_i, q_m>)`` with ``q = W_q h``; for each class the bag
    is ``sum_i U_ic v_i`` with ``v = W_v h``, and a linear layer over the vectors of all classes says the logits.
    Li et al., "Dual-stream multiple instance learning network", CVPR 2021.

    The attention that comes back is that of the class which the bag is said to be of.
    """

    def __init__(self, width: int, classes: int, settings: MilHeadSettings) -> None:
        super().__init__(width, settings.hidden, settings.dropout)
        self.score = nn.Linear(settings.hidden, classes)
        self.query = nn.Linear(settings.hidden, settings.attention)
        self.value = nn.Linear(settings.hidden, settings.hidden)
        self.classify = nn.Linear(classes * settings.hidden, classes)

    def pool(self, instances: Tensor, present: Tensor, coords: Tensor | None) -> BagOutput:
        """The mean of the critical tiles' logits and of the logits of what resembles them."""
        scores = self.score(instances).float().masked_fill(~present[..., None], -torch.inf)  # [b, n, k]
        highest, critical = scores.max(dim=1)  # [b, k]
        queries = self.query(instances).float()  # [b, n, a]
        asked = queries.gather(1, critical[..., None].expand(-1, -1, queries.shape[2]))  # [b, k, a]
        # Not in the paper's formula: without the root a softmax over thousands of tiles starts at 0 and 1.
        alike = asked @ queries.transpose(1, 2) * queries.shape[2] ** -0.5  # [b, k, n]
        weights = alike.masked_fill(~present[:, None], -torch.inf).softmax(dim=2)  # [b, k, n]
        bags = weights @ self.value(instances).float()  # [b, k, hidden]
        logits = (highest + self.classify(bags.flatten(1)).float()) / 2  # [b, k]
        return BagOutput(logits, weights[torch.arange(len(logits), device=logits.device), logits.argmax(dim=1)])


class TransMil(MilHead):
    """Self-attention among tiles, twice, and between them what their places tell; a class token says the logits.

    The n tiles, filled up to a square by the first of them, follow a class token. Each layer is ``x + A(LN(x))``, A
    Nystrom's approximation of self-attention; between the two the square is an image, to which depthwise convolutions
    of 7, 5 and 3 px are added (PPEG). Shao et al., "TransMIL", NeurIPS 2021.

    The paper's square is in the file's order. Here tiles are sorted by row and column first, where coordinates are
    given: then neighbours in the square are more often neighbours on the glass, and the file's order changes nothing.
    """

    def __init__(self, width: int, classes: int, settings: MilHeadSettings) -> None:
        super().__init__(width, settings.hidden, settings.dropout)
        hidden = settings.hidden
        self.token = nn.Parameter(torch.randn(hidden) * 0.02)
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(3))
        self.layers = nn.ModuleList(
            SelfAttention(hidden, settings.attention_heads, settings.landmarks) for _ in range(2)
        )
        self.drop = nn.Dropout(settings.dropout)
        self.places = nn.ModuleList(
            nn.Conv2d(hidden, hidden, side, padding=side // 2, groups=hidden) for side in (7, 5, 3)
        )
        self.classify = nn.Linear(hidden, classes)

    def pool(self, instances: Tensor, present: Tensor, coords: Tensor | None) -> BagOutput:
        """Each bag by itself: the square, the landmarks and the cost are those of its own tiles."""
        found = []
        for i, here in enumerate(present):
            tiles = instances[i, here]  # [n, hidden]
            found.append(self._look(tiles if coords is None else tiles[reading_order(coords[i, here])]))
        return BagOutput(torch.stack(found), None)

    def _look(self, tiles: Tensor) -> Tensor:
        """Tiles [n, hidden] -> logits float32 [k]."""
        side = isqrt(len(tiles) - 1) + 1
        square = torch.cat([tiles, tiles[: side**2 - len(tiles)]])  # [side^2, hidden]
        tokens = torch.cat([self.token.to(tiles.dtype)[None], square])[None]  # [1, 1 + side^2, hidden]
        tokens = self._attend(0, tokens)
        image = tokens[:, 1:].transpose(1, 2).reshape(1, -1, side, side)  # [1, hidden, side, side]
        image = sum((convolve(image) for convolve in self.places), start=image)
        tokens = torch.cat([tokens[:, :1], image.flatten(2).transpose(1, 2)], dim=1)  # [1, 1 + side^2, hidden]
        tokens = self._attend(1, tokens)
        logits: Tensor = self.classify(self.norms[2](tokens[0, 0]))
        return logits.float()

    def _attend(self, layer: int, tokens: Tensor) -> Tensor:
        attended: Tensor = tokens + self.drop(self.layers[layer](self.norms[layer](tokens)))
        return attended


def reading_order(coords: Tensor) -> Tensor:
    """Indices that sort places x, y [n, 2] by row, and in a row by column, int64 [n]."""
    by_column = coords[:, 0].argsort(stable=True)
    return by_column[coords[by_column, 1].argsort(stable=True)]


KINDS: dict[str, type[PlainPooling | Abmil | Dsmil | TransMil]] = {
    "mean": PlainPooling,
    "max": PlainPooling,
    "abmil": Abmil,
    "gated_abmil": Abmil,
    "dsmil": Dsmil,
    "transmil": TransMil,
}


def build_mil_head(settings: MilHeadSettings, width: int, classes: int) -> MilHead:
    """A head on features of so many numbers for so many classes.

    Raises:
        HistillError: usage (2) if a TransMIL's heads do not divide its width.
    """
    return KINDS[settings.head](width, classes, settings)
