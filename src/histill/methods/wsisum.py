"""WSISum: a few dozen tiles that stand in for a slide.

"WSISum", Medical Image Analysis 110:103970, 2026. Tiles' features are sampled by cluster; a masked autoencoder learns
to tell the features of masked tiles from those of visible ones (low-level reconstruction) and, with its class token,
what slide-level foundation models say of the slide (high-level reconstruction, a distillation). The subset from which
the rest of a slide is told best is its summary.

Where we depart from the paper: places are those in the slide, not row numbers; a slide with fewer tiles is padded with
a mask, not by repetition; each teacher has a head of its own, so that a slide may lack some (the paper's principal
components are a setting); without teachers the low level stands alone. The search draws a fresh subset in each trial,
goes on by exchanging single tiles, needs no teacher, and takes bags of any size: masked tiles are decoded in chunks.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from histill.core.bags import Bag
from histill.core.config import Share, Strict
from histill.core.labels import Classes
from histill.core.manifest import Manifest, Sample
from histill.core.predictions import SummaryPrediction
from histill.core.seeds import derive
from histill.core.storage import safe_name, write_inside
from histill.data.bag_batches import BagBatch, Bags, checked, feature_moments, steps_of
from histill.data.bags import read_bag
from histill.data.slide_targets import JOINED, fit_targets, read_vectors
from histill.engine.bag_method import SlideSummariser
from histill.engine.method import Card
from histill.engine.optim import Schedule
from histill.engine.run import Run
from histill.engine.select import mean_over
from histill.engine.stage import Losses, Stage
from histill.losses.reconstruction import masked_mse, slide_mse, teacher_loss
from histill.nets.masked_autoencoder import (
    Latent,
    MaskedAutoencoderSettings,
    Reconstruction,
    build_masked_autoencoder,
)
from histill.selection.clusters import CLUSTERS, Clusters, check_budget, cluster, draw
from histill.selection.likeness import Likeness
from histill.selection.search import Scores, SearchSettings, search

CARD = Card(
    name="wsisum",
    title="a few dozen tiles that stand in for a slide",
    task="summarize",
    needs="bags",
    paper="WSISum, Medical Image Analysis 110:103970, 2026",
    ours=(
        "A head for each slide-level teacher (cosine and squared error) in place of principal components of all.",
        "Places in the slide in place of row numbers; padding with a mask; standardised features.",
        "A summary is chosen by likeness, of features and to the encoder; the paper's score is a setting.",
        "The search exchanges single tiles; of larger bags it looks among a sample of their tiles.",
    ),
)


class Config(Strict):
    """The numbers of the paper, in its order."""

    standardise: bool = True
    """features at mean 0 and deviation 1 over the training bags, each bag counting alike"""
    clusters: PositiveInt = CLUSTERS
    """of k-means over a slide's tiles"""
    tiles: PositiveInt = 500
    """of a slide in an epoch, drawn anew each time by the clusters' quotas"""
    teachers: dict[str, str] = Field(default_factory=dict)
    """slide-level teachers: name -> folder of their vectors, or 'bags' where the feature files hold them"""
    target: Literal["heads", "components"] = "heads"
    """each teacher by a head of its own, or the paper's: principal components of all teachers side by side"""
    components: PositiveInt = 768
    """of the paper's target, at most"""
    masked: Share = 0.875
    """share of the tiles that is masked"""
    autoencoder: MaskedAutoencoderSettings = MaskedAutoencoderSettings()
    """the network"""
    weight: NonNegativeFloat = 1.0
    """lambda, of the high-level loss"""
    learn: Schedule = Schedule(
        epochs=300,
        batch_size=256,
        optimizer="adamw",
        learning_rate=1.5e-4,
        floor=1e-5,
        head_factor=1.0,
        weight_decay=0.05,
        decay="cosine",
        warmup=1 / 3,
    )
    """how the autoencoder learns; the paper's rate is 1.5e-4 x batch / 256"""
    select: Literal["reconstruction", "last"] = "last"
    """what chooses the epoch: how well validation bags are told; last, nothing"""
    score: Literal["likeness", "reconstruction", "slide", "mixed"] = "likeness"
    """what a summary is chosen by: how like all tiles the kept ones are, one by one and as a whole, as features and to
    the encoder; or how well masked tiles are decoded, how near the slide's vectors come, or both of these alike"""
    search: SearchSettings = SearchSettings()
    """how long a summary is looked for"""
    probes: PositiveInt = 2048
    """tiles of a larger bag among which the search looks, or as many as are to be kept where that is more; those beyond
    cost nothing but one last look"""


class WsiSum(SlideSummariser):
    """An autoencoder of bags, and the search that asks it."""

    card = CARD
    Config = Config

    def __init__(self, config: Strict, classes: Classes, seen: dict[str, Any]) -> None:
        super().__init__(config, classes, seen)
        assert isinstance(config, Config)
        self.config = config
        self.autoencoder = build_masked_autoencoder(config.autoencoder, self.width, seen["teachers"])
        self.mean, self.deviation = (nn.Buffer(torch.full((self.width,), value)) for value in (0.0, 1.0))

    @classmethod
    def look(cls, config: Strict, learn: Manifest) -> dict[str, Any]:
        """Width and encoder of the features; the length of what each teacher says."""
        assert isinstance(config, Config)
        targets = fit_targets(read_vectors(learn, config.teachers), config.target, config.components)
        return {**super().look(config, learn), "teachers": targets.sizes, "vectors": targets.digest}

    def fit(self, train: Manifest, val: Manifest | None, run: Run) -> None:
        """Cluster each slide's tiles; then learn to tell masked tiles, and the slide, from visible ones."""
        if self.config.standardise:
            mean, deviation = feature_moments(train, self.width)
            self.mean.copy_(torch.from_numpy(mean))
            self.deviation.copy_(torch.from_numpy(deviation))
        both = (*train.samples, *(val.samples if val else ()))
        clusters = run.once("clusters", lambda to: self.make_clusters(both, to, run))
        raw = read_vectors(train, self.config.teachers)
        targets = fit_targets(raw, self.config.target, self.config.components)
        drawn = ClusterDraw(clusters, self.config.tiles)

        def bags(table: Manifest, vectors: dict[str, Any], *, shuffle: bool) -> Bags:
            size, workers = self.config.learn.batch_size, run.workers
            return Bags(table, size, self.width, draw=drawn, vectors=vectors, shuffle=shuffle, workers=workers)

        select: Callable[[], float] | None = None
        if val is not None and self.config.select != "last":
            judged = bags(val, {}, shuffle=False)
            select = lambda: -mean_over(judged, lambda batch: self._low(batch, run), run)  # noqa: E731
        learnt = bags(train, targets.of(raw), shuffle=True)
        net = self.autoencoder
        run.train(Stage("reconstruct", net, net, learnt, self.loss, self.config.learn, select=select))

    def make_clusters(self, samples: Sequence[Sample], to: Path, run: Run) -> None:
        """Write each slide's clusters, ``<id>.npy``, int32 [n]."""
        for done, sample in enumerate(samples):
            bag = checked(read_bag(sample.path), self.width)
            labels = cluster(bag.features, derive(run.seed, "clusters", sample.id), self.config.clusters).labels
            buffer = io.BytesIO()
            np.save(buffer, labels.astype(np.int32))
            write_inside(to, f"{safe_name(sample.id)}.npy", buffer.getvalue())
            run.journal.show("made", what="clusters", done=done + 1, of=len(samples))

    def loss(self, batch: BagBatch) -> Losses:
        """``L = MSE(masked features) + lambda (1 - cos + MSE)(class token, each teacher)``.

        The first tiles of a bag, drawn in no order, are the visible ones.
        """
        told, low = self._reconstructed(batch)
        losses = {"low": low}
        if told.teachers and self.config.weight:
            joined = JOINED in told.teachers and self.config.target == "components"
            high = (
                slide_mse(told.teachers[JOINED], batch.vectors[JOINED], batch.known[JOINED])
                if joined
                else teacher_loss(told.teachers, batch.vectors, batch.known)
            )
            losses["high"] = self.config.weight * high
        return losses

    def summarise(
        self, bag: Bag, budget: int, *, seed: int = 0, search_settings: SearchSettings | None = None
    ) -> SummaryPrediction:
        """The tiles that stand in for a bag; all of them, where there are no more than the budget.

        Args:
            bag: of the width learnt from; of any number of tiles.
            budget: tiles to keep.
            seed: of clusters and search.
            search_settings: how long; None for the config's.
        """
        budget = min(budget, len(checked(bag, self.width)))
        check_budget(budget, len(bag))
        clusters = cluster(bag.features, derive(seed, "clusters"), self.config.clusters)
        with torch.inference_mode():
            # Whoever asks for more tiles than are looked at is given as many to look among.
            most = max(self.config.probes, budget)
            random = np.random.default_rng(derive(seed, "probes"))
            probes = draw(clusters, most, random) if len(bag) > most else np.arange(len(bag))
            told, settings = Telling(self, bag, probes), search_settings or self.config.search
            if self.config.score == "likeness":
                likeness = Likeness([told.tokens(), told.features[probes].cpu().numpy()])
                kept = likeness.best(budget, settings.swaps)
                value = likeness.score(kept)
            else:
                found = search(clusters.take(probes), budget, told.scores, settings, seed)
                kept, value = found.kept, found.value
            return SummaryPrediction(probes[kept], value, told.reconstruction(probes[kept]), clusters.labels)

    def standardised(self, features: Tensor) -> Tensor:
        """Features [..., d] at mean 0 and deviation 1."""
        return (features.float() - self.mean) / self.deviation

    def _reconstructed(self, batch: BagBatch) -> tuple[Reconstruction, Tensor]:
        """A batch as its visible tiles tell it, and the low-level loss."""
        present = batch.present
        # A half is one more, as in the paper's 63 of 500.
        shown = ((1 - self.config.masked) * present.sum(dim=1, keepdim=True) + 0.5).floor().clamp(min=1)  # [b, 1]
        visible = present & (torch.arange(present.shape[1], device=present.device) < shown)  # [b, n]
        features = self.standardised(batch.features)
        told = self.autoencoder(features, batch.places, present, visible)
        return told, masked_mse(told.features, features, present & ~visible)

    @torch.no_grad()
    def _low(self, batch: BagBatch, run: Run) -> float:
        with run.fabric.autocast():
            return float(self._reconstructed(batch.to(run.fabric.device))[1])


class ClusterDraw:
    """Tiles of a slide by the clusters' quotas, in no order; all of them, where there are no more than asked for."""

    def __init__(self, clusters: Path, tiles: int) -> None:
        self.clusters, self.tiles = clusters, tiles

    def __call__(self, sample: Sample, n: int, random: np.random.Generator) -> NDArray[np.integer[Any]]:
        """Their indices."""
        if n <= self.tiles:
            return random.permutation(n)
        clusters = _read_clusters(self.clusters / f"{safe_name(sample.id)}.npy")
        return random.permutation(draw(clusters, self.tiles, random))


def _read_clusters(path: Path) -> Clusters:
    labels = np.load(path).astype(np.int64)
    return Clusters(labels, np.zeros((labels.max() + 1, 0), np.float32))


class Telling:
    """What a trained autoencoder says of one bag, and of how well some of its tiles stand in for it.

    Args:
        method: trained.
        bag: whole.
        probes: its tiles among which is looked, and on which is scored, int64 [m].
    """

    def __init__(self, method: WsiSum, bag: Bag, probes: NDArray[np.int64]) -> None:
        self.config, self.net, self.probes = method.config, method.autoencoder, probes
        self.features = method.standardised(torch.from_numpy(bag.features).to(method.mean.device))  # [n, d]
        self.places = torch.from_numpy(steps_of(bag)).to(method.mean.device)  # [n, 2]
        some = probes[scattered(len(probes), self.config.tiles)[0]]
        self.slide = self._said(self._encode([some]))  # [1, k]

    def scores(self, subsets: Sequence[NDArray[np.int64]]) -> Scores:
        """Of subsets of the probes, all of one size: see `selection.search`."""
        latent = self._encode([self.probes[subset] for subset in subsets])
        told = self._cosines(latent, self.probes)  # [b, m]
        kept = np.stack([np.isin(np.arange(len(self.probes)), subset) for subset in subsets])  # [b, m]
        near = F.cosine_similarity(self._said(latent), self.slide, dim=1).cpu().numpy().astype(np.float64)  # [b]
        low = _mean(told, ~kept)  # [b]
        values = {"slide": near, "mixed": (low + near) / 2}.get(self.config.score, low)
        return Scores(values, np.where(kept, 0, 1 - told))

    def reconstruction(self, kept: NDArray[np.int64]) -> float:
        """The mean cosine of all tiles that are not kept to what is decoded for them; 1 where none are left."""
        others = np.setdiff1d(np.arange(len(self.features)), kept)
        told = self._cosines(self._encode([kept]), others)
        return float(_mean(told, np.ones_like(told, bool))[0])

    def tokens(self) -> NDArray[np.float32]:
        """What the encoder makes of each probe, among as many others as in training, float32 [m, w]."""
        parts = scattered(len(self.probes), self.config.tiles)
        found = [self._encode([self.probes[part]]).tokens[0, 1:].float() for part in parts]
        return torch.cat(found).cpu().numpy()[np.argsort(np.concatenate(parts))]

    def _encode(self, subsets: Sequence[NDArray[np.int64]]) -> Latent:
        rows = torch.from_numpy(np.stack(subsets)).to(self.features.device)  # [b, v]
        return self.net.encode(self.features[rows], self.places[rows], torch.ones_like(rows, dtype=torch.bool))

    def _said(self, latent: Latent) -> Tensor:
        """What is said of slides: the teachers' vectors side by side, or the class token, float [b, k]."""
        vectors = self.net.slide_vectors(latent)
        return torch.cat([*vectors.values()] or [latent.tokens[:, 0]], dim=1).float()

    def _cosines(self, latent: Latent, tiles: NDArray[np.int64]) -> NDArray[np.float64]:
        """How near what is decoded for tiles comes to what they are, [b, m]: at most as many at once as in training."""
        parts, found = scattered(len(tiles), max(1, round(self.config.masked * self.config.tiles))), []
        for part in parts:
            rows = torch.from_numpy(tiles[part]).to(self.features.device)  # [c]
            places = self.places[rows].expand(len(latent.tokens), -1, -1)  # [b, c, 2]
            told = self.net.decode(latent, places, torch.ones(places.shape[:2], dtype=torch.bool, device=places.device))
            found.append(F.cosine_similarity(told, self.features[rows][None], dim=2))
        whole = torch.cat(found, dim=1)[:, np.argsort(np.concatenate(parts))]  # [b, m]
        return whole.cpu().numpy().astype(np.float64)


def scattered(n: int, most: int) -> list[NDArray[np.int64]]:
    """The numbers 0 to n - 1 in at least one part of at most so many, all alike in size and each from all over.

    So a part's tiles lie all over the slide, as in training, and none is left with a few alone.
    """
    return np.array_split(np.random.default_rng(0).permutation(n), max(1, -(-n // most)))


def _mean(values: NDArray[np.float64], counted: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The mean of what counts of each row; 1 where nothing does."""
    count = counted.sum(1)
    mean: NDArray[np.float64] = np.where(counted, values, 0).sum(1) / np.maximum(count, 1)
    return np.where(count > 0, mean, 1.0)
