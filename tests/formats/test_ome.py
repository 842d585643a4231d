"""OME-XML: what is said is understood again, and what others say too."""

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from histill.core.labels import Classes
from histill.formats.ome import NAMESPACE, OmeFacts, from_xml, to_xml

CLASSES = Classes(("a", "b"), ((255, 0, 1), (16, 32, 64)))


def say(classes=CLASSES, labels=True, mpp=0.5):
    channels = ("class",) if labels else classes.names
    return to_xml((30, 20), mpp, classes, kind="uint8", channels=channels, labels=labels)


@given(st.lists(st.text(min_size=1), min_size=1, max_size=4, unique=True), st.floats(0.01, 1000))
def test_classes_and_spacing_come_back(names, mpp):
    classes = Classes(tuple(names))
    xml = say(classes, mpp=mpp)
    assert xml.isascii()
    facts = from_xml(xml.decode())
    assert facts.mpp == mpp
    printable = [name for name in names if all(letter.isprintable() for letter in name)]
    if len(printable) == len(names):
        assert facts.classes == classes


def test_nothing_in_it_changes_from_run_to_run():
    assert say() == say()
    assert b"UUID" not in say()
    assert b"Date" not in say()


def test_channels_carry_names_and_colours():
    root = ElementTree.fromstring(say(labels=False))
    channels = root.findall(f".//{{{NAMESPACE}}}Channel")
    assert [channel.get("Name") for channel in channels] == ["a", "b"]
    rgba = [int(channel.get("Color")) & 0xFFFFFFFF for channel in channels]
    assert rgba == [0xFF0001FF, 0x102040FF]
    assert all(-(2**31) <= int(channel.get("Color")) < 2**31 for channel in channels)
    assert from_xml(say(labels=False).decode()).channels == ("a", "b")


def test_every_reference_is_answered():
    root = ElementTree.fromstring(say())
    noted = {note.get("ID") for note in root.iter(f"{{{NAMESPACE}}}MapAnnotation")}
    assert {ref.get("ID") for ref in root.iter(f"{{{NAMESPACE}}}AnnotationRef")} == noted


@pytest.mark.parametrize(
    ("pixels", "mpp"),
    [
        ('PhysicalSizeX="0.25" PhysicalSizeY="0.25"', 0.25),
        ('PhysicalSizeX="250" PhysicalSizeY="250" PhysicalSizeXUnit="nm" PhysicalSizeYUnit="nm"', 0.25),
        ('PhysicalSizeX="0.001" PhysicalSizeY="0.001" PhysicalSizeXUnit="mm" PhysicalSizeYUnit="mm"', 1.0),
        ('PhysicalSizeX="0.25" PhysicalSizeY="0.5"', None),
        ('PhysicalSizeX="0.25" PhysicalSizeY="0.25" PhysicalSizeXUnit="pixel"', None),
        ('PhysicalSizeX="0" PhysicalSizeY="0"', None),
        ('PhysicalSizeX="nan" PhysicalSizeY="nan"', None),
        ("", None),
    ],
)
def test_spacing_of_other_programs(pixels, mpp):
    facts = from_xml(f'<OME xmlns="{NAMESPACE}"><Image><Pixels {pixels}/></Image></OME>')
    assert facts.mpp == (mpp if mpp is None else pytest.approx(mpp))
    assert facts.classes is None


@pytest.mark.parametrize("text", ["", "<OME>", "<OME/>", "not xml at all", "<OME><Image/></OME>"])
def test_what_is_not_understood_is_not_said(text):
    assert from_xml(text) == OmeFacts()
