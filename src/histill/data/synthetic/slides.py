"""Made-up slides on disk, with their truth: whole slides of any size, data sets of them, and patches cut from them.

All of it is synthetic. A slide is drawn band by band and never held whole; its bytes follow from the seed, its name,
its size and its spacing, whatever the number of threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histill.core.errors import Exit, HistillError
from histill.core.manifest import Sample, write_manifest
from histill.core.seeds import generator
from histill.core.storage import new_folder
from histill.data.synthetic.anatomy import Anatomy
from histill.data.synthetic.dataset import LESION, NORMAL, TISSUES, dataset_card
from histill.data.synthetic.marks import Marks
from histill.data.synthetic.patches import draw_slide
from histill.data.synthetic.rare import RARE, tumour_share
from histill.data.synthetic.scene import CLASSES
from histill.data.synthetic.section import Section
from histill.data.synthetic.stain import SlideLook, draw_look
from histill.data.synthetic.stained import Image, SlideBank, render_slide_bank
from histill.formats.pyramid import new_labels, new_slide

Labels = NDArray[np.uint8]

BLOCK = 1024
"""Side of the squares that threads draw, in px; half of it where a pixel holds more than `FINE` um of tissue."""

FINE = 0.75

WORKERS = 2
DESCRIPTION = "histill synthetic slide: made up, no pixel comes from a patient"
FINEST, COARSEST = 0.2, 2.0
"""um/px that slides are made at."""

DEAL = ("train", "test", "val", "train", "train")
"""The split that each slide of a data set goes to, over and over."""

MOST_IN_FOCI = 0.1
"""Share of a slide's tissue that small foci of tumour may hold."""

LEAST_OF_SLIDE = 0.01
"""Share of a slide's tissue from which on a tissue is named in the table."""


@dataclass(frozen=True)
class SlidePlan:
    """What a made-up slide is.

    Attributes:
        name: it, the seed, the size in micrometres, and `tumour` say all about the tissue.
        width: in px.
        height: in px.
        mpp: um/px.
        seed: of the data set.
        look: staining and scanning; None draws it from seed and name.
        pen: whether somebody marked the glass.
        dust: whether the glass is dirty.
        empty: whether there is no tissue at all.
        tumour: the share of the tissue's area in small foci, 0 for none; None for tumour as it grows. See `Anatomy`.
    """

    name: str
    width: int
    height: int
    mpp: float = 0.5
    seed: int = 0
    look: SlideLook | None = None
    pen: bool = False
    dust: bool = False
    empty: bool = False
    tumour: float | None = None


def open_section(plan: SlidePlan, bank: SlideBank | None = None) -> Section:
    """A made-up slide, ready to be photographed anywhere; takes some seconds.

    Args:
        plan: the slide.
        bank: tissue to make it of; None draws that of the plan's seed.

    Raises:
        HistillError: usage (2) if a number is out of range.
    """
    if plan.width < 1 or plan.height < 1:
        raise HistillError(
            f"a slide of {plan.width} x {plan.height} px has no pixels",
            code=Exit.USAGE,
            subject="size",
            mend="Choose 1 px at least",
        )
    if not FINEST <= plan.mpp <= COARSEST:
        raise HistillError(
            f"synthetic slides are made at {FINEST} to {COARSEST} um/px, not {plan.mpp}",
            code=Exit.USAGE,
            subject="mpp",
            mend="Choose 0.25 for the usual 40x, 0.5 for 20x",
        )
    if plan.tumour is not None and not 0 <= plan.tumour <= MOST_IN_FOCI:
        raise HistillError(
            f"small foci hold 0 to {MOST_IN_FOCI} of the tissue, not {plan.tumour}",
            code=Exit.USAGE,
            subject="tumour",
            mend="Choose 0.02, or leave it out for tumour as it grows",
        )
    width, height = plan.width * plan.mpp, plan.height * plan.mpp
    look = plan.look or draw_look(plan.seed, plan.name)
    return Section(
        {} if plan.empty else (bank or _bank(plan.seed)).stained(look, plan.mpp),
        Anatomy(plan.seed, plan.name, width, height, tumour=plan.tumour, empty=plan.empty),
        look,
        draw_slide(plan.seed, plan.name).variants,
        Marks(plan.seed, plan.name, width, height, pen=plan.pen, dust=plan.dust),
        mpp=plan.mpp,
        seed=plan.seed,
        name=plan.name,
    )


def write_slide(
    path: Path,
    *,
    width: int,
    height: int,
    mpp: float = 0.5,
    seed: int = 0,
    name: str = "slide",
    look: SlideLook | None = None,
    pen: bool = False,
    dust: bool = False,
    empty: bool = False,
    tumour: float | None = None,
    truth: Path | None = None,
    bank: SlideBank | None = None,
    workers: int = WORKERS,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.int64]:
    """Write a made-up slide as a pyramidal TIFF that OpenSlide opens, and its truth as a label map.

    Args:
        path: of the slide, ending in .tif.
        width: in px.
        height: in px.
        mpp: um/px, 0.2 to 2. The same tissue at another spacing: as many micrometres, the same seed and name.
        seed: of the data set.
        name: of the slide; it, the seed and the size in micrometres say all about the tissue.
        look: staining and scanning; None draws it from seed and name.
        pen: whether somebody marked the glass.
        dust: whether the glass is dirty.
        empty: whether there is no tissue at all.
        tumour: see `SlidePlan`.
        truth: where the label map goes, usually ending in .ome.tif: indices into `scene.CLASSES`.
        bank: tissue to make it of; None draws that of the seed.
        workers: threads that draw; the bytes are the same whatever their number.
        progress: called with (rows done, rows in all).

    Returns:
        Pixels of each class, int64 [7].

    Raises:
        HistillError: usage (2) if a number is out of range; storage (7) if the files cannot be written.
    """
    plan = SlidePlan(name, width, height, mpp, seed, look, pen, dust, empty, tumour)
    section = open_section(plan, bank)
    quality = (look or draw_look(seed, name)).quality
    counts = np.zeros(len(CLASSES), np.int64)
    shape = height, width
    with ExitStack() as files:
        slide = files.enter_context(new_slide(path, shape=shape, mpp=mpp, quality=quality, description=DESCRIPTION))
        labels = truth and files.enter_context(new_labels(truth, shape=shape, mpp=mpp, classes=CLASSES))
        done = 0
        for image, band in _bands(section, plan, workers):
            slide.add(image)
            if labels:
                labels.add(band)
            counts += [np.count_nonzero(band == index) for index in range(len(CLASSES))]
            done += len(band)
            if progress is not None:
                progress(done, height)
    return counts


def write_slides(
    folder: Path,
    *,
    count: int,
    width: int,
    height: int,
    mpp: float = 0.5,
    seed: int = 0,
    marks: bool = False,
    rare: bool = False,
    bank: SlideBank | None = None,
    workers: int = WORKERS,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Make a folder of slides with their truth, each a patient of its own; returns its `slides.csv`.

    The table's labels are the tissues that make up at least `LEAST_OF_SLIDE` of a slide's tissue; or, where tumour is
    rare, tumour or normal.

    Args:
        folder: made whole, or not at all.
        count: slides; they are dealt to the splits in the order of `DEAL`.
        width: of each in px.
        height: of each in px.
        mpp: um/px.
        seed: of everything.
        marks: some slides are marked with a pen, some are dirty.
        rare: tumour is rare: see `rare.tumour_share`.
        bank: tissue to make them of; None draws that of the seed.
        workers: threads that draw.
        progress: called with (rows done, rows in all), over all slides.
    """
    bank = bank or _bank(seed)
    samples: list[Sample] = []
    dealt = [DEAL[number % len(DEAL)] for number in range(count)]

    def shown(rows: int, _: int) -> None:
        if progress is not None:
            progress(len(samples) * height + rows, count * height)

    with new_folder(folder) as making:
        for number in range(count):
            name = f"slide-{number:02d}"
            path, truth = making / f"slides/{name}.tif", making / f"truth/{name}.ome.tif"
            rng = generator(seed, "marks", number)
            pen, dust = (bool(marks and rng.random() < often) for often in (0.3, 0.6))
            split = dealt[number]
            tumour = tumour_share(seed, name, split, dealt[:number].count(split)) if rare else None
            counts = write_slide(
                path,
                width=width,
                height=height,
                mpp=mpp,
                seed=seed,
                name=name,
                pen=pen,
                dust=dust,
                tumour=tumour,
                truth=truth,
                bank=bank,
                workers=workers,
                progress=shown,
            )
            labels = _main_tissues(counts) if tumour is None else (LESION if tumour else NORMAL,)
            samples.append(Sample(name, path, None, labels, name, split, truth, None, mpp))
        card = RARE if rare else dataset_card("histill synth slides: made-up slides with known truth")
        write_manifest(making / "slides.csv", samples, card)
    return folder / "slides.csv"


def _main_tissues(counts: NDArray[np.int64]) -> tuple[str, ...]:
    """The tissues that a slide with so many pixels of each class is labelled with."""
    tissue = {label: int(counts[CLASSES.index(label)]) for label in TISSUES}
    least = max(1.0, LEAST_OF_SLIDE * sum(tissue.values()))
    return tuple(label for label, pixels in tissue.items() if pixels >= least)


def _bands(section: Section, plan: SlidePlan, workers: int) -> Iterator[tuple[Image, Labels]]:
    """A slide from the top down, in bands of a block's height; the next band is drawn meanwhile."""
    pool = ThreadPoolExecutor(workers)
    ahead: deque[list[Future[tuple[Image, Labels]]]] = deque()

    def next_band() -> tuple[Image, Labels]:
        parts = [block.result() for block in ahead.popleft()]
        return np.concatenate([image for image, _ in parts], 1), np.concatenate([labels for _, labels in parts], 1)

    side = BLOCK if plan.mpp <= FINE else BLOCK // 2
    try:
        for top in range(0, plan.height, side):
            h = min(side, plan.height - top)
            widths = [(left, min(side, plan.width - left)) for left in range(0, plan.width, side)]
            ahead.append([pool.submit(section.photograph, left, top, w, h) for left, w in widths])
            if len(ahead) > 1:
                yield next_band()
        yield next_band()
    finally:
        pool.shutdown(cancel_futures=True)


@lru_cache(maxsize=1)
def _bank(seed: int) -> SlideBank:
    return render_slide_bank(seed)
