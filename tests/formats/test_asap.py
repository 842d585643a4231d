"""ASAP XML as Camelyon has it, and as it should not be."""

from pathlib import Path

import pytest
from shapely import Polygon, box

from histill.core.errors import Exit, HistillError
from histill.formats import asap
from histill.formats.asap import read_asap
from histill.formats.outlines import Outlines

Points = list[tuple[object, object]]


def square(left: float, top: float, side: float) -> Points:
    return [(left, top), (left + side, top), (left + side, top + side), (left, top + side)]


def annotation(points: Points, group: str = "Tumor", name: str = "Annotation 0", kind: str = "Polygon") -> str:
    rows = "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}" />' for i, (x, y) in enumerate(points))
    head = f'<Annotation Name="{name}" Type="{kind}" PartOfGroup="{group}" Color="#F4FA58">'
    return f"{head}<Coordinates>{rows}</Coordinates></Annotation>"


def read(tmp_path: Path, *annotations: str) -> Outlines:
    path = tmp_path / "tumor_001.xml"
    group = '<Group Name="Tumor" PartOfGroup="None" Color="#00ff00"><Attributes /></Group>'
    groups = f"<AnnotationGroups>{group}</AnnotationGroups>"
    body = f"<Annotations>{''.join(annotations)}</Annotations>{groups}"
    path.write_text(f'<?xml version="1.0"?>\n<ASAP_Annotations>{body}</ASAP_Annotations>')
    return read_asap(path)


def refused(tmp_path: Path, data: bytes, what: str, code: Exit = Exit.INPUT) -> HistillError:
    path = tmp_path / "a.xml"
    path.write_bytes(data)
    with pytest.raises(HistillError, match=what) as caught:
        read_asap(path)
    assert caught.value.code == code
    assert str(path) in caught.value.subject
    assert caught.value.mend
    return caught.value


@pytest.mark.parametrize(
    ("group", "class_name"),
    [("Tumor", "Tumor"), ("_0", "Tumor"), ("_1", "Tumor"), ("metastases", "metastases"), ("None", None), ("", None)],
)
def test_groups_are_classes(tmp_path: Path, group: str, class_name: str | None) -> None:
    (outline,) = read(tmp_path, annotation(square(10.5, 20, 4), group, "my one"))
    assert outline.area.equals(box(10.5, 20, 14.5, 24))
    assert (outline.class_name, outline.name, outline.object_type) == (class_name, "my one", "annotation")


@pytest.mark.parametrize("group", ["_2", "Exclusion"])
def test_holes_are_cut_from_all_wherever_they_stand(tmp_path: Path, group: str) -> None:
    found = read(
        tmp_path,
        annotation(square(2, 2, 2), group),
        annotation(square(0, 0, 10), "_0"),
        annotation(square(20, 0, 10), "other"),
        annotation(square(50, 50, 1), "_1"),
        annotation(square(8, 5, 14), group),
    )
    whole = Polygon(square(0, 0, 10)).difference(box(2, 2, 4, 4)).difference(box(8, 5, 22, 19))
    assert [outline.class_name for outline in found] == ["Tumor", "other", "Tumor"]
    assert found[0].area.equals(whole)
    assert found[1].area.equals(box(20, 0, 30, 10).difference(box(8, 5, 22, 19)))
    assert found[2].area.area == 1
    assert found.notes == ()


def test_what_a_hole_covers_is_left_out(tmp_path: Path) -> None:
    found = read(tmp_path, annotation(square(2, 2, 2), name="in it"), annotation(square(0, 0, 9), "Exclusion"))
    assert len(found) == 0
    assert found.notes == ("in it left out, as it lies wholly in a hole",)


def test_numbers_with_a_decimal_comma(tmp_path: Path) -> None:
    (outline,) = read(tmp_path, annotation([("0,5", "1,25"), ("4", "1,25"), ("4", "8")]))
    assert outline.area.bounds == (0.5, 1.25, 4, 8)


def test_splines_and_rectangles_by_their_points_and_no_points(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        annotation(square(0, 0, 2), kind="Spline"),
        annotation(square(5, 0, 2), kind="Rectangle"),
        annotation([(1, 1)], kind="Dot"),
        annotation([(1, 1), (2, 2)], kind="PointSet"),
        annotation([(3, 1)], kind="Dot"),
    )
    assert [outline.area.area for outline in found] == [4, 4]
    assert found.notes == (
        "2 annotations of type Dot left out, having no area",
        "1 annotations of type PointSet left out, having no area",
    )


def test_what_crosses_itself_is_repaired_and_noted(tmp_path: Path) -> None:
    found = read(tmp_path, annotation([(0, 0), (4, 4), (4, 0), (0, 4)], name="tie"))
    assert found[0].area.is_valid
    assert found[0].area.area == 8
    assert found.notes == ("1 polygons repaired that crossed themselves: tie",)


def test_no_annotations(tmp_path: Path) -> None:
    assert read(tmp_path) == Outlines(())


@pytest.mark.parametrize(
    ("points", "what"),
    [
        ([], "fewer than three points"),
        ([(0, 0), (1, 1)], "fewer than three points"),
        ([(0, 0), (1, 1), (2, 2)], "no area"),
        ([(0, 0), (1, 1), ("nan", 2)], "not finite"),
        ([(0, 0), (1, 1), ("1e300", 2)], "beyond"),
        ([(0, 0), (1, 1), ("1,234.5", 2)], "no number"),
        ([(0, 0), (1, 1), ("", 2)], "no number"),
    ],
)
def test_annotations_that_are_none_are_named(tmp_path: Path, points: Points, what: str) -> None:
    with pytest.raises(HistillError, match=what) as caught:
        read(tmp_path, annotation(square(0, 0, 1)), annotation(points, name="Annotation 17"))
    assert caught.value.code == Exit.INPUT
    assert caught.value.subject.endswith("Annotation 17")


BOMB = b'<!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;">]>'


@pytest.mark.parametrize(
    "data",
    [
        b'<?xml version="1.0"?>' + BOMB + b"<ASAP_Annotations>&c;</ASAP_Annotations>",
        (BOMB + b"<ASAP_Annotations>&c;</ASAP_Annotations>").decode().encode("utf-16"),
        b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><ASAP_Annotations/>',
    ],
)
def test_document_types_are_refused(tmp_path: Path, data: bytes) -> None:
    refused(tmp_path, data, "document type", Exit.UNSAFE)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "no valid XML"),
        (b"text", "no valid XML"),
        (b"<ASAP_Annotations>", "no valid XML"),
        (b"<ASAP_Annotations>&c;</ASAP_Annotations>", "no valid XML"),
        (b"<Annotations/>", "not ASAP's: it begins with <Annotations>"),
        (b'<ASAP_Annotations><Coordinate X="1" Y="2"/></ASAP_Annotations>', "outside of any annotation"),
        (b'<ASAP_Annotations><Annotation><Coordinate X="1"/></Annotation></ASAP_Annotations>', "no number"),
        (b"<ASAP_Annotations><Annotation/></ASAP_Annotations>", "fewer than three"),
    ],
)
def test_files_that_are_not_asaps(tmp_path: Path, data: bytes, what: str) -> None:
    refused(tmp_path, data, what)


def test_files_that_are_too_large_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HistillError, match="no such file"):
        read_asap(tmp_path / "none.xml")
    monkeypatch.setattr(asap, "MOST_BYTES", 10)
    refused(tmp_path, b"<ASAP_Annotations/>", "more than", Exit.UNSAFE)
