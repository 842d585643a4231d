"""Learned summaries of slides with a rare tissue against the baselines: fidelity, rare tiles, and what MIL learns.

    python benchmarks/rare_summaries.py --slides DIR --out DIR

--slides is what rare_slides.py filled. WSISum learns from the slides of train and val by recipes/wsisum-cpu.yaml, once
for each seed; it sees no label. Summaries are made of the slides of test, by seeds 0, 1, 2 each way, and of all slides
for what is learnt from them. A second autoencoder, of another seed and learnt from the val slides alone, says how well
it tells the rest of a slide from a summary. What is done is not done again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rare_slides import ROOT, RareBag, read_rare

from histill.core.bags import Bag
from histill.core.config import read_yaml, resolve
from histill.core.manifest import Manifest, read_manifest, write_manifest
from histill.core.report import Cell, Number, Report, Table
from histill.core.seeds import derive
from histill.core.storage import write_bytes
from histill.data.synthetic.rare import RARE
from histill.engine.run import Machine
from histill.engine.training import load, train
from histill.formats.trident import write_bag
from histill.methods import find as find_method
from histill.methods.wsisum import Telling
from histill.metrics.bootstrap import number, paired, resample
from histill.metrics.classification import measures
from histill.metrics.fidelity import fidelity, rare_recall
from histill.report.markdown import to_markdown
from histill.selection.baselines import find

RESULTS = ROOT / "benchmarks" / "results"
SEEDS = (0, 1, 2)
OTHER_SEED = 100
SHARE = 0.125
SHARES = (0.03125, 0.0625, 0.125, 0.25, 0.5)
OURS, FULL = "wsisum", "all tiles"
BASELINES = ("random", "cluster", "cluster-quota", "entropy", "location", "farthest")
ASKED = ("random", "cluster", "entropy", "location")
"""Those that the summary is asked to beat."""
LEARNT_FROM = (OURS, "random", "cluster")
"""Those of which MIL is shown at every budget."""
GATED, PROBE = "gated ABMIL", "linear probe"
AUC = f"AUC of {GATED}"
MEASURES = {
    "nearest_cosine": "cosine to the nearest kept tile",
    "mean_cosine": "cosine of the mean vectors",
    "reconstruction": "ridge reconstruction",
    "radius": "largest distance",
    "other model": "second autoencoder",
    "found": "a rare tile is kept",
    "enriched": "share of rare kept / in bag",
}
RARE_ONLY = ("found", "enriched")
MACHINE = Machine(accelerator="cpu", precision="float32", threads=1)

Kept = NDArray[np.int64]
Choose = Callable[[Bag, int, int], Kept]


@dataclass(frozen=True, eq=False)
class Slides:
    """The slides of a benchmark, by split, and where runs go."""

    of: dict[str, list[RareBag]]
    out: Path

    def table(self, name: str, splits: tuple[str, ...], bags: Path) -> Manifest:
        """A table of some splits' bags, its rows without a split where one alone is asked for."""
        path = self.out / "tables" / f"{name}.csv"
        rows = [
            replace(each.sample.without_truth(), path=bags / f"{each.sample.id}.h5", mpp=None)
            for split in splits
            for each in self.of[split]
        ]
        write_manifest(path, rows, RARE)
        return read_manifest(path)


def trained(slides: Slides, name: str, table: Manifest, recipe: str, seed: int, settings: dict[str, Any]) -> Any:
    """A method by its recipe, trained once."""
    method = recipe.partition("-")[0]
    kind = find_method(method)
    config = resolve(kind.Config, (recipe, read_yaml(ROOT / "recipes" / f"{recipe}.yaml")), ("settings", settings))
    folder = slides.out / "runs" / f"{name}-{seed}"
    train(kind, table, None, folder=folder, config=config, seed=seed, machine=MACHINE)
    return load(folder, find_method).method


def ways(slides: Slides, bags: Path) -> dict[str, dict[int, Choose]]:
    """How tiles are chosen, by name and seed: bag, budget, seed -> tiles."""
    everything = slides.table("learnt", ("train", "val"), bags)
    unsplit = replace(everything, samples=tuple(replace(each, split="") for each in everything.samples))
    found: dict[str, dict[int, Choose]] = {OURS: {}}
    for seed in SEEDS:
        method = trained(slides, OURS, unsplit, "wsisum-cpu", seed, {})
        found[OURS][seed] = partial(_summary, method)
    for name in BASELINES:
        found[name] = dict.fromkeys(SEEDS, partial(_baseline, name))
    return found


def _summary(method: Any, bag: Bag, budget: int, seed: int) -> Kept:
    kept: Kept = method.summarise(bag, budget, seed=seed).kept
    return kept


def _baseline(name: str, bag: Bag, budget: int, seed: int) -> Kept:
    assert bag.coords is not None
    return find(name)(bag.features, bag.coords, budget, seed)


def scored(slides: Slides, choose: dict[int, Choose], judge: Any, share: float) -> dict[str, NDArray[np.float64]]:
    """Every measure of every test slide, the mean over seeds: [slides]; nan where a slide has no rare tile."""
    rows = []
    for each in slides.of["test"]:
        values = []
        for seed, way in choose.items():
            kept = way(each.bag, budget_of(each, share), derive(seed, each.sample.id))
            told = asdict(fidelity(each.bag.features, kept))
            with torch.inference_mode():
                told["other model"] = Telling(judge, each.bag, np.arange(len(each.bag))).reconstruction(kept)
            recall = rare_recall(each.rare, kept) if each.rare.any() else None
            told["found"] = float(recall.found) if recall else np.nan
            told["enriched"] = recall.in_summary / recall.in_bag if recall else np.nan
            values.append([told[name] for name in MEASURES])
        rows.append(np.mean(values, axis=0))
    return dict(zip(MEASURES, np.transpose(rows), strict=True))


def budget_of(each: RareBag, share: float) -> int:
    """Tiles of a summary."""
    return max(1, round(share * len(each.bag)))


def fidelity_table(slides: Slides, scores: dict[str, dict[str, NDArray[np.float64]]]) -> tuple[Table, Table]:
    """Means over slides, and what the learned summary beats."""
    ids = [each.sample.id for each in slides.of["test"]]
    rows: list[tuple[Cell, ...]] = [
        (name, *(Number(float(np.nanmean(values)), int((~np.isnan(values)).sum())) for values in each.values()))
        for name, each in scores.items()
    ]
    against: list[tuple[Cell, ...]] = []
    for name in BASELINES:
        cells: list[Cell] = [name]
        for measure in MEASURES:
            mine, theirs = scores[OURS][measure], scores[name][measure]
            here = ~np.isnan(mine)
            resampling = resample([ids[i] for i in np.flatnonzero(here)])
            better = "lower" if measure == "radius" else "higher"
            means = [resampling.means(values[here]) for values in (mine, theirs)]
            found = paired(*means, int(here.sum()), names=(OURS, name), better=better)
            cells += [found.number, found.verdict]
        against.append(tuple(cells))
    titles = [title for each in MEASURES.values() for title in (f"{each}: difference", "verdict")]
    note = f"Test slides; mean over {len(SEEDS)} seeds, then over slides. Brackets: 95 % interval over slides."
    return (
        Table(f"Summaries of {SHARE:.1%} of the tiles", ("tiles chosen by", *MEASURES.values()), tuple(rows), note),
        Table(f"{OURS} against", ("baseline", *titles), tuple(against), "Distances are better small."),
    )


def downstream(
    slides: Slides, choices: dict[str, dict[int, Choose]], bags: Path, share: float
) -> Iterator[tuple[Cell, ...]]:
    """What gated ABMIL and a linear probe say of test slides, learnt from and told by full bags or by summaries."""
    reference: dict[str, NDArray[np.float64]] = {}
    n = len(slides.of["test"])
    for name in (FULL, *choices):
        for head in (GATED, PROBE):
            found, cost = learnt(slides, name, choices.get(name), bags, share, head)
            reference.setdefault(head, found["AUC"])
            cells = [number(found[each], n) for each in ("AUC", "balanced accuracy", "macro F1")]
            difference = paired(found["AUC"], reference[head], n, names=(name, FULL))
            yield (name, head, *cells, None if name == FULL else difference.number, *(f"{value:.1f}" for value in cost))


def learnt(
    slides: Slides, name: str, choose: dict[int, Choose] | None, bags: Path, share: float, head: str
) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.float64]]:
    """Measures of a model on test slides, seeds pooled; and ms a slide and MB in all, medians of seeds."""
    truth = np.array([RARE.classes.index(each.sample.labels[0]) for each in slides.of["test"]])
    said, costs = [], []
    for seed in SEEDS:
        folder = bags if choose is None else summaries(slides, name, choose[seed], share, seed)
        told, seconds = (_mil if head == GATED else _probe)(slides, f"{name} {share:g}", folder, seed)
        said.append(told)
        costs.append((1e3 * seconds / len(truth), sum(path.stat().st_size for path in folder.glob("*.h5")) / 1e6))
    # Seeds are pooled: their probabilities' mean is what is scored.
    found = measures(truth, np.mean(said, axis=0), resample([each.sample.id for each in slides.of["test"]]))
    return found, np.median(costs, axis=0)


def by_budget(slides: Slides, choices: dict[str, dict[int, Choose]], bags: Path) -> dict[str, list[Number]]:
    """The AUC of gated ABMIL by what share of the tiles is kept."""
    n = len(slides.of["test"])
    return {
        name: [number(learnt(slides, name, choices[name], bags, share, GATED)[0]["AUC"], n) for share in SHARES]
        for name in LEARNT_FROM
    }


def summaries(slides: Slides, name: str, choose: Choose, share: float, seed: int) -> Path:
    """A folder of summaries of all slides, made once."""
    folder = slides.out / "summaries" / f"{name} {share:g} {seed}"
    for each in (one for split in slides.of.values() for one in split):
        path = folder / f"{each.sample.id}.h5"
        if not path.is_file():
            kept = choose(each.bag, budget_of(each, share), derive(seed, each.sample.id))
            write_bag(path, replace(each.bag.take(kept), slide=each.sample.id))
    return folder


def _mil(slides: Slides, name: str, bags: Path, seed: int) -> tuple[NDArray[np.float64], float]:
    from histill.data.bags import read_bag

    table = slides.table("mil", ("train", "val"), bags)
    method = trained(slides, f"mil {name}", table, "mil-cpu", seed, {"head": {"head": "gated_abmil"}})
    began = time.process_time()
    said = [method.predict(read_bag(bags / f"{each.sample.id}.h5")).probabilities for each in slides.of["test"]]
    return np.array(said, np.float64), time.process_time() - began


def _probe(slides: Slides, name: str, bags: Path, seed: int) -> tuple[NDArray[np.float64], float]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from histill.data.bags import read_bag

    def means(splits: tuple[str, ...]) -> NDArray[np.float64]:
        found = [read_bag(bags / f"{e.sample.id}.h5").features.mean(0) for split in splits for e in slides.of[split]]
        return np.array(found, np.float64)

    truth = [RARE.classes.index(e.sample.labels[0]) for split in ("train", "val") for e in slides.of[split]]
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000)).fit(
        means(("train", "val")), truth
    )
    began = time.process_time()
    said: NDArray[np.float64] = model.predict_proba(means(("test",)))
    return said, time.process_time() - began


def curve(
    slides: Slides, choices: dict[str, dict[int, Choose]], judge: Any, aucs: dict[str, list[Number]]
) -> tuple[Table, bytes]:
    """Fidelity, rare tissue and what MIL learns by budget, as a table and a plot."""
    from io import BytesIO

    from matplotlib.figure import Figure

    shown = {"nearest_cosine": "nearest kept tile", "mean_cosine": "mean vectors", "enriched": "rare share, kept / bag"}
    figure = Figure((16, 4), layout="constrained")
    axes = figure.subplots(1, len(shown) + 1)
    rows: list[tuple[Cell, ...]] = []
    x = [100 * share for share in SHARES]
    for place, (name, choose) in enumerate(choices.items()):
        found = [scored(slides, choose, judge, share) for share in SHARES]
        style = {"marker": "o", "label": name, "lw": 2.5 if name == OURS else 1, "color": f"C{place}"}
        for axis, measure in zip(axes, shown, strict=False):
            means = [float(np.nanmean(each[measure])) for each in found]
            axis.plot(x, means, **style)
            rows.append((name, shown[measure], *(f"{value:.4f}" for value in means)))
        if name in aucs:
            axes[-1].plot(x, [each.value for each in aucs[name]], **style)
            rows.append((name, AUC, *aucs[name]))
    for axis, title in zip(axes, (*shown.values(), AUC), strict=True):
        axis.set(xlabel="tiles kept, %", title=title, xscale="log")
        axis.set_xticks([100 * share for share in SHARES], [f"{100 * share:.3g}" for share in SHARES], minor=False)
        axis.set_xticks([], minor=True)
    axes[0].legend()
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    return Table(
        "By budget", ("tiles chosen by", "measure", *(f"{s:.1%}" for s in SHARES)), tuple(rows)
    ), picture.getvalue()


def main() -> None:
    """Train what is missing, summarise, score, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=Path, required=True, help="folder of rare_slides.py")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    given = parser.parse_args()
    slides = Slides({split: list(read_rare(given.slides, split)) for split in ("train", "val", "test")}, given.out)
    bags = given.out / "bags"
    for each in (one for split in slides.of.values() for one in split):
        if not (bags / f"{each.sample.id}.h5").is_file():
            write_bag(bags / f"{each.sample.id}.h5", each.bag)
    choices = ways(slides, bags)
    alone = slides.table("judge", ("val",), bags)
    unsplit = replace(alone, samples=tuple(replace(each, split="") for each in alone.samples))
    judge = trained(slides, "judge", unsplit, "wsisum-cpu", OTHER_SEED, {})
    scores = {name: scored(slides, choose, judge, SHARE) for name, choose in choices.items()}
    numbers = {
        f"{name}/{measure}": Number(float(np.nanmean(values)), int((~np.isnan(values)).sum()))
        for name, each in scores.items()
        for measure, values in each.items()
    }
    budgets, picture = curve(slides, choices, judge, by_budget(slides, choices, bags))
    write_bytes(given.out / "budgets.png", picture)
    learnt = tuple(downstream(slides, {name: choices[name] for name in (OURS, *ASKED)}, bags, SHARE))
    measured = ("AUC", "balanced accuracy", "macro F1", "AUC less that of all tiles", "ms a slide", "MB in all")
    columns = ("tiles", "model", *measured)
    note = (
        "Learnt from train and val, told of test; probabilities' mean over seeds. Brackets: 95 % interval over slides. "
        "ms: of the processor, to read and predict; MB: feature files of all slides."
    )
    tables = (*fidelity_table(slides, scores), budgets, Table("Downstream", columns, learnt, note))
    warnings = (
        "The slides are made up (synthetic): figures say how ways to choose compare, not how they do on tissue",
    )
    made = Report(
        "Summaries of slides with a rare tissue", numbers, tables, warnings, {"seeds": list(SEEDS), "share": SHARE}
    )
    write_bytes(RESULTS / "rare_summaries.json", made.to_json().encode())
    write_bytes(RESULTS / "rare_summaries.md", to_markdown(made).encode())
    print(f"tables: {RESULTS / 'rare_summaries.md'}\nplot:   {given.out / 'budgets.png'}")


if __name__ == "__main__":
    main()
