"""An autoencoder of bags: what a few tiles of a slide let one say of its other tiles, and of the slide.

He et al., "Masked autoencoders are scalable vision learners", CVPR 2022, over tiles' features instead of pixels, as
WSISum has it (Medical Image Analysis 110:103970, 2026).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from histill.core.config import Share, Strict
from histill.core.errors import Exit, HistillError
from histill.nets.attention import SelfAttention

SLOWEST = 10_000.0
"""Of a position's waves the longest is 2 pi times as many steps."""


class MaskedAutoencoderSettings(Strict):
    """The sizes of a masked autoencoder; the defaults are the paper's."""

    width: PositiveInt = 768
    """of the encoder's tokens; a multiple of 4"""
    depth: PositiveInt = 12
    """blocks of the encoder"""
    heads: PositiveInt = 12
    """of the encoder's attention"""
    decoder_width: PositiveInt = 384
    """of the decoder's tokens; a multiple of 4"""
    decoder_depth: PositiveInt = 4
    """blocks of the decoder"""
    decoder_heads: PositiveInt = 6
    """of the decoder's attention"""
    drop_path: Share = 0.1
    """share of samples for which the encoder's last block is skipped in training; rising from 0 at the first"""


@dataclass(frozen=True)
class Latent:
    """What the encoder makes of visible tiles.

    Attributes:
        tokens: [b, 1 + v, w], the class token first.
        places: of the tiles, [b, v, 2].
        present: which of them are no padding, bool [b, v].
    """

    tokens: Tensor
    places: Tensor
    present: Tensor


@dataclass(frozen=True)
class Reconstruction:
    """Bags as the visible tiles tell them.

    Attributes:
        features: float32 [b, n, d]: predicted where masked, as given where visible, 0 where not present.
        teachers: what each slide-level teacher would say, float32 [b, k], by its name.
    """

    features: Tensor
    teachers: dict[str, Tensor]


class Block(nn.Module):
    """``x + A(LN(x))``, then ``x + M(LN(x))``: attention, and two layers four times as wide with a GELU between.

    Args:
        width: w of a token.
        heads: of the attention.
        drop_path: share of samples for which a branch is skipped in training.
    """

    def __init__(self, width: int, heads: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.attention = SelfAttention(width, heads)
        self.layers = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.drop_path = drop_path

    def forward(self, tokens: Tensor, present: Tensor | None) -> Tensor:
        """Tokens [b, n, w], of which those that are present (bool [b, n]; None: all) are looked at -> [b, n, w]."""
        tokens = tokens + self._dropped(self.attention(self.norms[0](tokens), present))
        return tokens + self._dropped(self.layers(self.norms[1](tokens)))

    def _dropped(self, branch: Tensor) -> Tensor:
        """A branch of samples at random, the others' so much greater that the mean stays. Huang et al., ECCV 2016."""
        if not self.training or self.drop_path == 0:
            return branch
        # Where several processes train, `engine.whole_batch` makes the draws of a dropout those of the whole batch.
        return branch * F.dropout(branch.new_ones(len(branch), 1, 1), self.drop_path)


class MaskedAutoencoder(nn.Module):
    """An encoder of visible tiles with a class token, a smaller decoder of masked ones, and heads for teachers.

    A token is a projected feature plus its tile's place. What is not present changes nothing, whatever stands there;
    nor does the order of tiles. The class token is never masked, so a bag may have no visible tile at all.

    Args:
        channels: d, numbers of a tile's features.
        teachers: k, the length of what each slide-level teacher says, by its name; may be empty.
        settings: sizes.

    Raises:
        HistillError: usage (2) if a width is no multiple of 4 and of its heads.
    """

    def __init__(self, channels: int, teachers: Mapping[str, int], settings: MaskedAutoencoderSettings) -> None:
        super().__init__()
        width, narrow = settings.width, settings.decoder_width
        for name, given in (("width", width), ("decoder_width", narrow)):
            if given % 4:
                mend = "Sine and cosine of two coordinates share it: give a multiple of 4"
                raise HistillError(f"{given} is no multiple of 4", code=Exit.USAGE, subject=name, mend=mend)
        self.project, self.token = nn.Linear(channels, width), nn.Parameter(torch.zeros(width))
        rates = torch.linspace(0, settings.drop_path, settings.depth).tolist()
        self.encoder = nn.ModuleList(Block(width, settings.heads, rate) for rate in rates)
        self.encoder_norm = nn.LayerNorm(width)
        self.narrow, self.masked = nn.Linear(width, narrow), nn.Parameter(torch.zeros(narrow))
        self.decoder = nn.ModuleList(Block(narrow, settings.decoder_heads) for _ in range(settings.decoder_depth))
        self.decoder_norm, self.predict = nn.LayerNorm(narrow), nn.Linear(narrow, channels)
        # By number, because a module's name has no dot in it and that of a teacher may, such as conch_v1.5.
        self.names = tuple(sorted(teachers))
        self.heads = nn.ModuleList(nn.Linear(width, teachers[name]) for name in self.names)
        self.apply(_start)
        for token in (self.token, self.masked):
            nn.init.normal_(token, std=0.02)

    def forward(self, features: Tensor, places: Tensor, present: Tensor, visible: Tensor) -> Reconstruction:
        """Bags from their visible tiles.

        Args:
            features: float32 [b, n, d].
            places: where the tiles lie, in steps of a tile along x and y, float32 [b, n, 2].
            present: bool [b, n], False for padding.
            visible: bool [b, n], what the encoder sees; what is not present is not seen either.
        """
        visible, masked = visible & present, ~visible & present
        seen, hidden = _places_of(visible), _places_of(masked)  # [b, v], [b, m]
        latent = self.encode(_rows(features, seen), _rows(places, seen), visible.gather(1, seen))
        predicted = self.decode(latent, _rows(places, hidden), masked.gather(1, hidden))  # [b, m, d]
        spread = torch.zeros_like(features, dtype=torch.float32)  # [b, n, d]
        spread = spread.scatter(1, hidden[..., None].expand_as(predicted), predicted)
        shown = features.float().masked_fill(~visible[..., None], 0)
        return Reconstruction(torch.where(masked[..., None], spread, shown), self.slide_vectors(latent))

    def encode(self, features: Tensor, places: Tensor, present: Tensor) -> Latent:
        """What the encoder makes of visible tiles: features [b, v, d], places [b, v, 2], present bool [b, v]."""
        features, places = (x.masked_fill(~present[..., None], 0) for x in (features, places))
        tiles = self.project(features) + waves(places, len(self.token))  # [b, v, w]
        tokens = torch.cat([self.token.to(tiles.dtype).expand(len(tiles), 1, -1), tiles], dim=1)  # [b, 1 + v, w]
        counted = _counted(_with_class_token(present))
        for block in self.encoder:
            tokens = block(tokens, counted)
        return Latent(self.encoder_norm(tokens), places, present)

    def decode(self, latent: Latent, places: Tensor, present: Tensor) -> Tensor:
        """The features of masked tiles: their places [b, m, 2], which are present, bool [b, m] -> float32 [b, m, d].

        Masked tiles look at each other too, so what is said of one depends a little on what is decoded beside it.
        """
        width = len(self.masked)
        places = places.masked_fill(~present[..., None], 0)
        seen = self.narrow(latent.tokens)  # [b, 1 + v, w']
        seen = torch.cat([seen[:, :1], seen[:, 1:] + waves(latent.places, width)], dim=1)  # [b, 1 + v, w']
        tokens = torch.cat([seen, (self.masked + waves(places, width)).to(seen.dtype)], dim=1)  # [b, 1 + v + m, w']
        counted = _counted(torch.cat([_with_class_token(latent.present), present], dim=1))
        for block in self.decoder:
            tokens = block(tokens, counted)
        predicted: Tensor = self.predict(self.decoder_norm(tokens[:, seen.shape[1] :]))
        return predicted.float()

    def slide_vectors(self, latent: Latent) -> dict[str, Tensor]:
        """What each teacher would say of the slides, float32 [b, k] by its name."""
        return {name: head(latent.tokens[:, 0]).float() for name, head in zip(self.names, self.heads, strict=True)}


def build_masked_autoencoder(
    settings: MaskedAutoencoderSettings, channels: int, teachers: Mapping[str, int]
) -> MaskedAutoencoder:
    """An autoencoder that has learned nothing yet; see `MaskedAutoencoder`."""
    return MaskedAutoencoder(channels, teachers, settings)


def waves(places: Tensor, width: int) -> Tensor:
    """Places as sines and cosines of `width` / 4 frequencies, from one radian a step down to 1 / 10,000 of it.

    Vaswani et al., "Attention is all you need", 2017, each coordinate in a half of its own.

    Args:
        places: x, y [..., 2].
        width: of a token; a multiple of 4.

    Returns:
        float32 [..., width]: sin x, cos x, sin y, cos y, each of all frequencies.
    """
    powers = torch.arange(width // 4, device=places.device) / (width // 4)
    angles = places.float()[..., None] * SLOWEST**-powers  # [..., 2, width / 4]
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)  # [..., width]


def _start(module: nn.Module) -> None:
    """As masked autoencoders start: Glorot's uniform weights, and biases of 0."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


def _places_of(chosen: Tensor) -> Tensor:
    """Indices of what is chosen (bool [b, n]), int64 [b, most in a bag]: a bag's own first, then others to fill up."""
    most = int(chosen.sum(dim=1).max())
    return (~chosen).to(torch.uint8).argsort(dim=1, stable=True)[:, :most]


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """Rows [b, m, d] of values [b, n, d] by their indices [b, m]."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))


def _with_class_token(present: Tensor) -> Tensor:
    """What is present of tokens behind a class token, bool [b, n] -> [b, 1 + n]."""
    return torch.cat([present.new_ones(len(present), 1), present], dim=1)


def _counted(present: Tensor) -> Tensor | None:
    """None where nothing is padding: attention without a mask is the fastest there is."""
    return None if bool(present.all()) else present
