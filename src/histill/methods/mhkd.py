"""MHKD: multi-step hybrid distillation, from boxes at high resolution to a detector for low resolution.

Zhang et al., "MHKD: Multi-step hybrid knowledge distillation for low-resolution whole slide images glomerulus
detection", IEEE Journal of Biomedical and Health Informatics 29(2):767-774, 2025. No code was released.

A teacher learns to find glomeruli at high resolution (step 0). A student, who is shown the same fields as a cheap
scanner sees them, learns from the boxes and from the teacher: first global features in its shallow layers, the teacher
standing still (step 1, offline); then what the teacher says at the back end, both learning (step 2, online); at last it
goes on alone (step 3). High-resolution pixels are for training only.

The plan of the four steps is published; all numbers and forms below are ours, after FGD, FCOS and Hinton.
Where we go further: the student's first level hears the teacher's finer levels too, as objects that are small at low
resolution have no level of equal size there, and a cell is taught only where both answer for the same object.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat
from torch import Tensor, nn

from histill.core.config import Share, Strict
from histill.core.errors import Exit, HistillError
from histill.core.labels import Classes
from histill.core.manifest import Manifest
from histill.data.augment import Augmentation
from histill.data.pairs import PairBatch, Pairs, require_sound_boxes
from histill.engine.box_method import BoxMethod, detection_terms, objects_of, of_whole, whole_count
from histill.engine.earlier import stage_digest, take_over
from histill.engine.fields import read_fields, require_alike, with_fields
from histill.engine.focal_global import FocalGlobal, FocalGlobalSettings
from histill.engine.method import Card
from histill.engine.optim import Schedule
from histill.engine.run import Run
from histill.engine.select_boxes import Select, box_selection
from histill.engine.stage import Losses, Stage
from histill.engine.training import LAYOUT
from histill.losses.detection import box_distance
from histill.losses.distillation import class_kl
from histill.losses.feature_distillation import imitation
from histill.nets.alignment import Alignment, meetings
from histill.nets.counterparts import counterparts, taken
from histill.nets.detector import Detector, DetectorSettings, Found, Views, build_detector
from histill.slides.degrade import Scanner

CARD = Card(
    name="mhkd",
    title="multi-step hybrid knowledge distillation for detection at low resolution",
    task="detect",
    needs="boxes",
    paper="Zhang et al., IEEE Journal of Biomedical and Health Informatics 29(2):767-774, 2025",
    ours=(
        "the plan of the steps is the paper's; all numbers and the forms of all terms are ours, after FGD and FCOS",
        "low resolution is made from high: lens, area down-sampling, sensor noise, JPEG",
        "the student begins with the teacher's head, and with its trunk if of one kind",
        "the student may learn from what the teacher finds in images without boxes",
        "the student's first level learns from the teacher's finer levels too",
        "classes and boxes are taught at the cells where teacher and student answer for the same object",
        "maps can be compared in units of the teacher's, for trunks without normalisation layers",
        "every plan but the ceiling's has the same number of epochs, so that plans can be compared",
    ),
)

Lesson = Literal["offline", "online", "features"]

PLANS: dict[str, tuple[tuple[Lesson, ...], tuple[Lesson, ...]]] = {
    "hybrid": (("offline",), ("online",)),
    "offline": (("offline",), ("offline",)),
    "online": (("online",), ("online",)),
    "together": (("offline", "online"), ("offline", "online")),
    "features": (("features",), ("features",)),
    "start": ((), ()),
    "low": ((), ()),
}
"""What the student is taught beside the boxes in step 1, and in step 2."""

STEPS = ("step-0", "step-1", "step-2", "step-3")


class Config(Strict):
    """The numbers of the method, in its order."""

    ratio: Literal[2, 4, 8, 16] = 8
    """r: how many times as coarse low resolution is"""
    scanner: Scanner = Scanner()
    """what else the cheap scanner does to a field"""
    tile: NonNegativeInt = 1024
    """side in px of the windows of high resolution that are learnt from, a multiple of r; 0 takes images whole"""
    augmentation: Augmentation = Augmentation(turn=True, stain=0.1)
    """changes to fields, before they are seen at both resolutions"""
    plan: Literal["hybrid", "offline", "online", "together", "features", "start", "low", "high"] = "hybrid"
    """hybrid: step 1 offline, step 2 online; offline, online: that in both; together: both in both; features: plain
    imitation of the pyramid in both; start: no lesson, what is inherited alone; low: the student at low resolution
    without a teacher; high: the teacher alone"""
    teacher: DetectorSettings = DetectorSettings(encoder="resnet50")
    """who sees high resolution; its pad_to is the student's times r, so that levels meet"""
    student: DetectorSettings = DetectorSettings(encoder="resnet18", levels=(2, 6))
    """who sees low resolution, and predicts"""
    teach: Schedule = Schedule(epochs=24, batch_size=16, head_factor=1, weight_decay=1e-4, warmup=0.05)
    """step 0, the teacher's own"""
    teacher_run: str = ""
    """folder of an earlier run whose teacher is taken in place of step 0: one teacher can serve all r"""
    learn: Schedule = Schedule(epochs=24, batch_size=16, head_factor=1, weight_decay=1e-4, warmup=0.05)
    """step 1, and step 2 again"""
    fields: str = ""
    """another table, of images without boxes: what the teacher finds there is learnt from as well"""
    found: Share = 0.5
    """what it finds there with at least this score"""
    inherit: bool = True
    """a student who is taught begins with the teacher's head, and with its trunk where both are of one kind"""
    shallow: Annotated[int, Field(ge=2)] = 3
    """maps of levels up to this one, of trunk and pyramid, are taught in step 1; the pyramid's deeper ones in step 2"""
    units: bool = False
    """maps are compared in units of the teacher's root mean square: for trunks without normalisation layers"""
    offline: FocalGlobalSettings = FocalGlobalSettings()
    """step 1: weights of what shallow maps are taught"""
    classes: NonNegativeFloat = 1.0
    """step 2: weight of the teacher's class probabilities; 0 for none"""
    temperature: PositiveFloat = 2.0
    """step 2: their T"""
    boxes: NonNegativeFloat = 1.0
    """step 2: weight of the teacher's boxes"""
    sure: Share = 0.3
    """step 2: boxes of teachers' cells of at least this score count"""
    imitation: NonNegativeFloat = 1.0
    """step 2: weight of feature imitation on the deep pyramid; in the plan features, on all of it"""
    mutual: NonNegativeFloat = 0.1
    """step 2: weight of what the teacher learns from the student's class probabilities"""
    alone: NonNegativeFloat = 0.25
    """step 3: its epochs, in lengths of step 2; 0 for no step 3"""
    alone_rate: PositiveFloat = 0.1
    """step 3: its learning rate, as a share of step 2's"""
    select: Select = "boxes"
    """what chooses the epoch of step 0, and of the last step: boxes, AP.5:.95 of validation images, or last"""

    @property
    def pad_teacher(self) -> DetectorSettings:
        """The teacher's settings, its images padded so that its levels meet the student's."""
        return self.teacher.model_copy(update={"pad_to": self.ratio * self.student.pad_to})

    @property
    def go_alone(self) -> Schedule:
        """Step 3's schedule: of at least one epoch."""
        epochs = max(1, round(self.alone * self.learn.epochs))
        rate = self.alone_rate * self.learn.learning_rate
        return self.learn.model_copy(update={"epochs": epochs, "learning_rate": rate})


class Mhkd(BoxMethod):
    """A detector for low resolution; those who teach it are there in training only."""

    card = CARD
    Config = Config

    def __init__(self, config: Strict, classes: Classes) -> None:
        super().__init__(config, classes)
        self.config = config = cast(Config, config)
        self.is_ceiling = config.plan == "high"
        self.detector = build_detector(config.pad_teacher if self.is_ceiling else config.student, len(classes))

    @classmethod
    def look(cls, config: Strict, learn: Manifest) -> dict[str, Any]:
        """As every `BoxMethod`, the side being the windows'; and the hash of an earlier run's teacher."""
        settings = cast(Config, config)
        seen = super().look(config, learn)
        if settings.tile:
            seen["side"] = min(settings.tile, seen["side"])
        if settings.teacher_run and settings.plan != "low":
            seen["teacher"] = stage_digest(Path(settings.teacher_run), STEPS[0])
        if fields := cls.more(config):
            require_alike(fields, learn)
        return seen

    @classmethod
    def more(cls, config: Strict) -> Manifest | None:
        """The fields without boxes, where there is a teacher to look at them."""
        settings = cast(Config, config)
        return read_fields(Path(settings.fields)) if settings.fields and settings.plan not in ("low", "high") else None

    @property
    def coarser(self) -> int:
        """How many times as coarse as the images it learnt from are those it looks at."""
        return 1 if self.is_ceiling else self.config.ratio

    @property
    def scanner(self) -> Scanner:
        """The scanner whose images it looks at."""
        return self.config.scanner

    def detect(self, images: Tensor) -> list[Found]:
        """What is found in each image."""
        return self.detector.detect(images)

    def fit(self, train: Manifest, val: Manifest | None, run: Run) -> None:
        """The teacher; then the student: shallow and global, offline; the back end, online; alone."""
        config = self.config
        for table in (train, *([val] if val is not None and config.select != "last" else [])):
            require_sound_boxes(table)
        if config.tile > (side := BoxMethod.look(config, train)["side"]):
            text = f"tile is {config.tile} px, the images' usual side {side}: the rest of a window is white"
            run.journal.say("note", text=text)
        if self.is_ceiling:
            self.learn_to_teach(self.detector, train, val, run)
            return
        school = School.build(config, self.detector, len(self.classes), run.fabric.device)
        if config.plan != "low":
            self.learn_to_teach(school.teacher, train, val, run)
        if fields := self.more(config):
            train = with_fields(train, fields, school.teacher, config.found, run)
        for name, lessons in zip(STEPS[1:3], PLANS[config.plan], strict=True):
            ends = name == STEPS[2] and not config.alone
            run.train(
                Stage(
                    name,
                    learns=school.of(self.detector, lessons),
                    trunk=school.trunks(self.detector, lessons),
                    batches=self.pairs(train, config.learn, run),
                    loss=partial(self.taught, school, lessons),
                    schedule=config.learn,
                    start=partial(self.begin, school, name == STEPS[1]),
                    select=self.selection(self.detector, val, run) if ends else None,
                )
            )
        if config.alone:
            run.train(
                Stage(
                    STEPS[3],
                    learns=self.detector,
                    trunk=self.detector.encoder,
                    batches=self.pairs(train, config.go_alone, run),
                    loss=partial(self.taught, school, ()),
                    schedule=config.go_alone,
                    start=self.detector.hold,
                    select=self.selection(self.detector, val, run),
                )
            )

    def learn_to_teach(self, teacher: Detector, train: Manifest, val: Manifest | None, run: Run) -> None:
        """Step 0: high resolution; or an earlier run's."""
        config = self.config
        if config.teacher_run:
            take_over(run, "teacher", Path(config.teacher_run), STEPS[0], teacher, train.digest)
            return
        run.train(
            Stage(
                STEPS[0],
                learns=teacher,
                trunk=teacher.encoder,
                batches=self.pairs(train, config.teach, run),
                loss=partial(self.teaching, teacher),
                schedule=config.teach,
                start=teacher.start,
                select=self.selection(teacher, val, run, high=True),
            )
        )

    def begin(self, school: School, first: bool) -> None:
        """Load the student's start weights; keep frozen what was frozen before, also in a run that goes on."""
        if first:
            self.detector.start()
            if self.config.inherit and self.config.plan != "low":
                self.detector.inherit(school.teacher)
        self.detector.hold()
        school.teacher.hold()

    def teaching(self, teacher: Detector, batch: PairBatch) -> Losses:
        """L_det of the teacher at high resolution: focal loss, 1 - GIoU, centerness."""
        return detection_terms(teacher, teacher(batch.high), objects_of(batch.boxes, batch.classes))

    def taught(self, school: School, lessons: tuple[Lesson, ...], batch: PairBatch) -> Losses:
        """L_det of the student at low resolution, and what the lessons add."""
        low = self.detector(batch.low)
        losses = detection_terms(self.detector, low, objects_of(batch.boxes, batch.classes, self.config.ratio))
        if not lessons:
            return losses
        with torch.set_grad_enabled("online" in lessons):
            high = school.teacher(batch.high)
        if "offline" in lessons:
            losses |= school.shallow(batch.boxes, high.trunk | high.pyramid, low.trunk | low.pyramid)
        if "features" in lessons:
            losses["imitation"] = self.config.imitation * imitated(school.whole, high, low)
        if "online" in lessons:
            losses |= self.online(school, batch, high, low)
        return losses

    def online(self, school: School, batch: PairBatch, high: Views, low: Views) -> Losses:
        """L_det of the teacher; ``w_c KL(T || S) + w_b [1 - GIoU(T, S)] + w_i |F_T - F_S|^2``; ``w_m KL(S || T)``.

        Classes and boxes are those of the cells that speak for the student's; none of the three teaches the teacher.
        """
        config = self.config
        truth = objects_of(batch.boxes, batch.classes), objects_of(batch.boxes, batch.classes, config.ratio)
        taught = detection_terms(school.teacher, high, truth[0])
        losses = {f"teacher_{name}": term for name, term in taught.items()}

        cells = counterparts(high, low, config.ratio)  # [b, n]
        theirs = taken(torch.stack([school.teacher.assign(high, each) for each in truth[0]]), cells)  # [b, n]
        own = torch.stack([self.detector.assign(low, each) for each in truth[1]])  # [b, n]
        alike = (cells >= 0) & (theirs == own)
        count = float(whole_count(own >= 0))
        said, logits = taken(high.logits, cells)[alike], low.logits[alike]  # [m, k]
        if config.classes:
            losses["classes"] = config.classes * class_kl(said, logits, config.temperature, count)
        if config.mutual:
            losses["mutual"] = config.mutual * class_kl(logits, said, config.temperature, count)
        if config.boxes:
            scores = taken(high.scores.amax(-1), cells).masked_fill(~alike, -1)  # [b, n]
            apart = box_distance(taken(high.boxes, cells) / config.ratio, low.boxes, scores, config.sure)
            losses["boxes"] = config.boxes * of_whole(scores >= config.sure) * apart
        if config.imitation:
            losses["imitation"] = config.imitation * imitated(school.deep, high, low)
        return losses

    def pairs(self, train: Manifest, schedule: Schedule, run: Run) -> Pairs:
        """The table as a step learns from it."""
        config = self.config
        return Pairs(
            train,
            schedule.batch_size,
            ratio=config.ratio,
            scanner=config.scanner,
            tile=config.tile or None,
            augmentation=config.augmentation,
            shuffle=True,
            workers=run.workers,
        )

    def selection(
        self, detector: Detector, val: Manifest | None, run: Run, *, high: bool = False
    ) -> Callable[[], float] | None:
        """What chooses a step's epoch."""
        config = self.config
        return box_selection(detector, val, config.select, run, ratio=config.ratio, scanner=config.scanner, high=high)


@dataclass(frozen=True)
class School:
    """Those who teach, and what makes their maps and the student's comparable: no part of a finished model.

    Attributes:
        teacher: who sees high resolution.
        shallow: step 1's lesson.
        deep: the pyramid's deeper maps, for step 2.
        whole: all of the pyramid, for the plan features.
    """

    teacher: Detector
    shallow: FocalGlobal
    deep: Alignment
    whole: Alignment

    @classmethod
    def build(cls, config: Config, student: Detector, classes: int, device: torch.device) -> School:
        """A school for a student.

        Raises:
            HistillError: usage (2) if teacher and student have no map in common.
        """
        teacher = build_detector(config.pad_teacher, classes)
        wide, narrow = teacher.channels, student.channels
        found = meetings(config.ratio, wide, narrow)
        shallow = [each for each in found if int(each.teacher[1:]) <= config.shallow]
        whole = [each for each in found if each.teacher.startswith("p")]
        deep = [each for each in whole if each not in shallow]
        for name, maps in (("shallow", shallow), ("deep", deep)):
            if not maps:
                what = f"teacher and student have no {name} map in common"
                raise HistillError(what, code=Exit.USAGE, subject="shallow", mend=f"They have: {', '.join(wide)}")
        first, second, every = (Alignment(each, wide, narrow, units=config.units) for each in (shallow, deep, whole))
        made = cls(teacher, FocalGlobal(config.offline, first, wide), second, every)
        nn.ModuleList(vars(made).values()).to(device).to(memory_format=LAYOUT)
        return made

    def of(self, student: Detector, lessons: tuple[Lesson, ...]) -> nn.ModuleDict:
        """All that learns in a step with these lessons."""
        learns: dict[str, nn.Module] = {"student": student}
        if "offline" in lessons:
            learns["shallow"] = self.shallow
        if "features" in lessons:
            learns["whole"] = self.whole
        if "online" in lessons:
            learns["teacher"] = self.teacher
            learns["deep"] = self.deep
        return nn.ModuleDict(learns)

    def trunks(self, student: Detector, lessons: tuple[Lesson, ...]) -> nn.Module:
        """The trunks among what learns."""
        return nn.ModuleList([student.encoder, *([self.teacher.encoder] if "online" in lessons else [])])


def imitated(alignment: Alignment, high: Views, low: Views) -> Tensor:
    """The mean over maps of the pyramid of ``mean (F_T - F_S)^2``; no gradient goes to the teacher."""
    pairs = alignment(high.pyramid, low.pyramid).values()
    return torch.stack([imitation(target, learnt) for target, learnt in pairs]).mean()
