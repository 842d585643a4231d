"""Summaries without a learned model on slides with a rare tissue, and whether their features show that tissue at all.

    python benchmarks/rare_baselines.py [--out DIR] [--share 0.125]

DIR is what rare_slides.py filled. Only slides of train and val are looked at.
"""

from __future__ import annotations

import argparse
from dataclasses import astuple
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rare_slides import RARE_FROM, ROOT, RareBag, read_rare
from summaries import MEASURES, measured

from histill.core.report import Cell, Report, Table
from histill.core.storage import write_bytes
from histill.data.synthetic.dataset import LESION
from histill.metrics.fidelity import fidelity, rare_recall
from histill.report.markdown import to_markdown
from histill.selection.baselines import ATTENTION, find, names

SEEDS = range(5)


def shown(train: list[RareBag], other: list[RareBag]) -> Table:
    """How well a linear model of single tiles, fitted on some slides, tells rare ones on others."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import average_precision_score, roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced", max_iter=2000))
    model.fit(np.concatenate([each.bag.features for each in train]), np.concatenate([each.rare for each in train]))
    scores = [model.decision_function(each.bag.features) for each in other]
    truth, found = np.concatenate([each.rare for each in other]), np.concatenate(scores)
    own = [roc_auc_score(each.rare, each_s) for each, each_s in zip(other, scores, strict=True) if each.rare.any()]
    highest = [np.max(each) for each in scores]
    rows: list[tuple[Cell, ...]] = [
        ("AUC of tiles, all slides together", f"{roc_auc_score(truth, found):.4f}"),
        ("AUC of tiles within a slide with rare ones, mean and least", f"{np.mean(own):.4f}, {np.min(own):.4f}"),
        ("average precision of tiles, all slides together", f"{average_precision_score(truth, found):.4f}"),
        ("AUC of slides by their highest tile", f"{roc_auc_score([_ill(each) for each in other], highest):.4f}"),
    ]
    note = (
        f"Logistic regression on the truth of tiles: {sum(len(each.bag) for each in train)} of {len(train)} slides of "
        f"train to fit, {len(truth)} of {len(other)} slides of val, {truth.sum()} rare, to score. No method sees that."
    )
    return Table("Whether features show the rare tissue", ("val", "value"), tuple(rows), note)


def counted(bags: list[RareBag]) -> Table:
    """Tiles, and how many of them are rare."""
    ill = [each for each in bags if _ill(each)]
    rows: list[tuple[Cell, ...]] = [
        ("tiles of a slide", *_spread(np.array([len(each.bag) for each in bags]), "d")),
        (f"tiles with {RARE_FROM:.0%} tumour or more, of a slide with tumour", *_spread(_of(ill), "d")),
        ("their share of the bag", *_spread(np.array([each.rare.mean() for each in ill]), ".2%")),
        ("tiles with any tumour, share of the bag", *_spread(np.array([(e.share > 0).mean() for e in ill]), ".2%")),
    ]
    note = f"{len(bags)} slides of train and val, {len(ill)} of them with tumour."
    return Table("What there is", ("", "least", "median", "mean", "most"), tuple(rows), note)


def baselines(bags: list[RareBag], share: float) -> Table:
    """Fidelity over all slides, and recall of rare tiles over the slides that have some."""
    holding = [each for each in bags if each.rare.any()]
    rows: list[tuple[Cell, ...]] = []
    for name in names():
        if name == ATTENTION:
            continue
        measures, found, enriched = [], [], []
        for seed in SEEDS:
            kept = [_choose(name, each, share, seed) for each in bags]
            scores = [astuple(fidelity(each.bag.features, one)) for each, one in zip(bags, kept, strict=True)]
            measures.append(np.mean(scores, axis=0))
            recalls = [rare_recall(each.rare, one) for each, one in zip(bags, kept, strict=True) if each.rare.any()]
            found.append(np.mean([recall.found for recall in recalls]))
            enriched.append(np.mean([recall.in_summary / recall.in_bag for recall in recalls]))
        columns = (*np.transpose(measures), np.array(found), np.array(enriched))
        rows.append((name, *(measured(values) for values in columns)))
    note = (
        f"Train alone: fidelity is the mean over {len(bags)} slides, the last two over the {len(holding)} that have a "
        f"rare tile; mean ± standard deviation over {len(SEEDS)} seeds. Distances are better small. A share of "
        "1 is what chance gives. Attention is left out: it needs a trained bag model."
    )
    titles = ("tiles chosen by", *MEASURES.values(), "slides of which a rare tile is kept", "share kept / share in bag")
    return Table(f"Summaries of {share:.1%} of the tiles", titles, tuple(rows), note)


def _choose(name: str, each: RareBag, share: float, seed: int) -> NDArray[np.integer]:
    assert each.bag.coords is not None
    return find(name)(each.bag.features, each.bag.coords, max(1, round(share * len(each.bag))), seed)


def _of(bags: list[RareBag]) -> NDArray[np.integer]:
    return np.array([np.count_nonzero(each.rare) for each in bags])


def _ill(each: RareBag) -> bool:
    return LESION in each.sample.labels


def _spread(values: NDArray[np.number], form: str) -> tuple[str, str, str, str]:
    mean = f"{values.mean():{'.1f' if form == 'd' else form}}"
    low, middle, high = (values.dtype.type(each) for each in (values.min(), np.median(values), values.max()))
    return f"{low:{form}}", f"{middle:{form}}", mean, f"{high:{form}}"


def main() -> None:
    """Measure, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "out" / "rare")
    parser.add_argument("--share", type=float, default=0.125, help="of the tiles that a summary keeps")
    given = parser.parse_args()
    train, val = list(read_rare(given.out, "train")), list(read_rare(given.out, "val"))
    tables = (counted(train + val), shown(train, val), baselines(train, given.share))
    warnings = ("Made-up slides: figures compare ways to choose, they say nothing of patients",)
    settings = {"slides": len(train) + len(val), "share": given.share, "seeds": len(SEEDS)}
    made = Report("Summaries of slides with a rare tissue", {}, tables, warnings, settings)
    write_bytes(given.out / "baselines.md", to_markdown(made).encode())
    print(f"tables: {given.out / 'baselines.md'}")


if __name__ == "__main__":
    main()
