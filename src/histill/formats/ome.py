"""The OME-XML of a map: its spacing, its channels, and which class stands behind which value."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from xml.etree import ElementTree

from histill.core.errors import HistillError
from histill.core.labels import IGNORE, Classes

NAMESPACE = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
CLASS_NAMES, CLASS_COLOURS = "histill/classes", "histill/colours"
"""Map annotations of ours: class index to name, class index to #rrggbb."""

IGNORE_NAME = "ignore"
MICROMETRES = {"µm": 1.0, "μm": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6}
"""Units of length that OME-XML may name (micro has two code points), in um."""

_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class OmeFacts:
    """What an OME-XML says of its first image; None or empty where it says nothing.

    Attributes:
        mpp: um/px; None too where a pixel is not square.
        channels: their names.
        classes: the classes behind the values of a label map.
    """

    mpp: float | None = None
    channels: tuple[str, ...] = ()
    classes: Classes | None = None


def to_xml(
    shape: tuple[int, int], mpp: float, classes: Classes, *, kind: str, channels: tuple[str, ...], labels: bool
) -> bytes:
    """The OME-XML of a map, in ASCII; nothing in it differs between two runs.

    Args:
        shape: height and width in px.
        mpp: um/px.
        classes: names and colours.
        kind: of the pixels, as OME calls it: uint8, float.
        channels: one name a plane.
        labels: whether the values are class indices.
    """
    height, width = shape
    root = ElementTree.Element("OME", xmlns=NAMESPACE, Creator="histill")
    image = ElementTree.SubElement(root, "Image", ID="Image:0", Name="labels" if labels else "probabilities")
    size = {"SizeX": width, "SizeY": height, "SizeC": len(channels), "SizeZ": 1, "SizeT": 1}
    spacing = {f"PhysicalSize{axis}{unit}": value for axis in "XY" for unit, value in (("", repr(mpp)), ("Unit", "µm"))}
    pixels = ElementTree.SubElement(
        image,
        "Pixels",
        {name: str(value) for name, value in size.items()} | spacing,
        ID="Pixels:0",
        DimensionOrder="XYCZT",
        Type=kind,
        BigEndian="false",
    )
    for number, name in enumerate(channels):
        channel = {"ID": f"Channel:0:{number}", "Name": _printable(name), "SamplesPerPixel": "1"}
        if not labels:
            red, green, blue = classes.colours[number]
            rgba = red << 24 | green << 16 | blue << 8 | 255
            channel["Color"] = str(rgba - (1 << 32) if rgba >= 1 << 31 else rgba)
        ElementTree.SubElement(pixels, "Channel", channel)
    ElementTree.SubElement(pixels, "TiffData", IFD="0", PlaneCount=str(len(channels)))
    annotations = ElementTree.Element("StructuredAnnotations")
    names = {**{str(i): name for i, name in enumerate(classes.names)}, **({str(IGNORE): IGNORE_NAME} if labels else {})}
    colours = {str(i): "#{:02x}{:02x}{:02x}".format(*colour) for i, colour in enumerate(classes.colours)}
    for number, (namespace, values) in enumerate(((CLASS_NAMES, names), (CLASS_COLOURS, colours))):
        ElementTree.SubElement(image, "AnnotationRef", ID=f"Annotation:{number}")
        note = ElementTree.SubElement(annotations, "MapAnnotation", ID=f"Annotation:{number}", Namespace=namespace)
        pairs = ElementTree.SubElement(note, "Value")
        for key, value in values.items():
            ElementTree.SubElement(pairs, "M", K=key).text = _printable(value)
    root.append(annotations)
    xml: bytes = ElementTree.tostring(root, encoding="us-ascii", xml_declaration=True)
    return xml


def from_xml(text: str) -> OmeFacts:
    """What an OME-XML says; whatever it says in a way not understood counts as not said."""
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return OmeFacts()
    pixels = root.find("{*}Image/{*}Pixels")
    if pixels is None:
        return OmeFacts()
    across, down = (_micrometres(pixels, axis) for axis in "XY")
    square = across is not None and down is not None and math.isclose(across, down, rel_tol=0.01)
    channels = tuple(channel.get("Name", "") for channel in pixels.iterfind("{*}Channel"))
    return OmeFacts(
        across if square else None, channels, _classes(_pairs(root, CLASS_NAMES), _pairs(root, CLASS_COLOURS))
    )


def _micrometres(pixels: ElementTree.Element, axis: str) -> float | None:
    try:
        value = float(pixels.get(f"PhysicalSize{axis}", ""))
    except ValueError:
        return None
    unit = MICROMETRES.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
    return value * unit if unit is not None and math.isfinite(value) and value > 0 else None


def _pairs(root: ElementTree.Element, namespace: str) -> dict[str, str]:
    for note in root.iterfind("{*}StructuredAnnotations/{*}MapAnnotation"):
        if note.get("Namespace") == namespace:
            return {pair.get("K", ""): pair.text or "" for pair in note.iterfind("{*}Value/{*}M")}
    return {}


def _classes(names: dict[str, str], colours: dict[str, str]) -> Classes | None:
    known = [names[str(i)] for i in range(len(names)) if str(i) in names]
    shades = [colours.get(str(i), "") for i in range(len(known))]
    try:
        whole = all(re.fullmatch("#[0-9a-f]{6}", shade) for shade in shades)
        triples = tuple((int(s[1:3], 16), int(s[3:5], 16), int(s[5:7], 16)) for s in shades) if whole else ()
        return Classes(tuple(known), triples) if known else None
    except HistillError:
        return None


def _printable(text: str) -> str:
    return _NOT_IN_XML.sub("\ufffd", text)
