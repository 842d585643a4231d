"""Slides and what was drawn on them, as QuPath and ASAP write it; and slides opened in this process."""

import io
import json
import uuid
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from histill.core.errors import HistillError
from histill.slides.base import RgbImage, Slide
from histill.slides.open import open_slide

Points = Sequence[tuple[float, float]]


def rectangle(x: float, y: float, w: float, h: float) -> Points:
    return [(x, y), (x + w, y), (x + w, y + h), (x, y + h)]


def flat_slide(path: Path, seed: int = 0) -> Path:
    """800 x 600 px: pink tissue on glass, 100 px from each edge; told apart from place to place by its red."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_flat_slide(seed))
    return path


@cache
def _flat_slide(seed: int) -> bytes:
    image = np.full((600, 800, 3), 244, np.int16)
    image[100:-100, 100:-100] = (180, 100, 165)
    image[100:-100, 100:-100, 0] += np.linspace(-20, 20, 600).astype(np.int16)
    noisy = image + np.random.default_rng(seed).integers(-8, 9, image.shape, np.int16)
    buffer = io.BytesIO()
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def qupath(path: Path, *drawn: tuple[str | None, Points]) -> Path:
    """A GeoJSON as QuPath 0.5 exports annotations."""
    features = [
        {
            "type": "Feature",
            "id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{path.name}{number}")),
            "geometry": {"type": "Polygon", "coordinates": [[list(point) for point in (*points, points[0])]]},
            "properties": {
                "objectType": "annotation",
                **({"classification": {"name": name, "color": [200, 0, 0]}} if name else {}),
            },
        }
        for number, (name, points) in enumerate(drawn)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}, indent=2))
    return path


def asap(path: Path, *drawn: tuple[str, Points]) -> Path:
    """An XML as ASAP writes it, and Camelyon16 gives it."""
    lines = ['<?xml version="1.0"?>', "<ASAP_Annotations>", "\t<Annotations>"]
    for number, (group, points) in enumerate(drawn):
        lines.append(
            f'\t\t<Annotation Name="Annotation {number}" Type="Polygon" PartOfGroup="{group}" Color="#F4FA58">'
        )
        lines.append("\t\t\t<Coordinates>")
        lines += [f'\t\t\t\t<Coordinate Order="{i}" X="{x}" Y="{y}" />' for i, (x, y) in enumerate(points)]
        lines += ["\t\t\t</Coordinates>", "\t\t</Annotation>"]
    lines += ["\t</Annotations>", "\t<AnnotationGroups>"]
    lines += [
        f'\t\t<Group Name="{group}" PartOfGroup="None" Color="#00ff00">\n\t\t\t<Attributes />\n\t\t</Group>'
        for group in sorted({group for group, _ in drawn})
    ]
    lines += ["\t</AnnotationGroups>", "</ASAP_Annotations>", ""]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines))
    return path


def open_here(path: Path, mpp: float | None = None) -> Slide:
    """What `open_guarded` gives, without a process of its own."""
    slide = open_slide(path, mpp)

    def read_many(requests: Iterable[tuple]) -> Iterator[RgbImage | HistillError]:
        for request in requests:
            try:
                yield slide.read_as(*request)
            except HistillError as error:
                yield error

    slide.read_many = read_many  # type: ignore[attr-defined]
    return slide
