"""Cohorts: other tools' tables as they are published, and every fault of them in one report with its line."""

from pathlib import Path

import pytest

from histill.core.errors import Exit, HistillError
from histill.core.manifest import Manifest, read_manifest, write_manifest
from histill.data.cohort import BRACS_GROUPS, read_cohort, read_splits

SLIDES = ("s1", "s2", "s3", "s4")


def files(folder: Path, *slides: str) -> dict[str, Path]:
    """Feature files by slide; only their names are looked at."""
    paths = {slide: folder / f"{slide}.h5" for slide in slides or SLIDES}
    for path in paths.values():
        path.touch()
    return paths


def table(folder: Path, *lines: str, name: str = "cohort.csv") -> Path:
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    return path


def failing(*given: object, code: Exit = Exit.USAGE, **options: object) -> str:
    with pytest.raises(HistillError) as caught:
        read_cohort(*given, **options)  # type: ignore[arg-type]
    assert caught.value.code == code
    assert caught.value.mend
    return str(caught.value)


def rows(cohort: Manifest) -> list[tuple[object, ...]]:
    return [(sample.id, sample.labels, sample.patient, sample.split) for sample in cohort.samples]


# --- tables as published ----------------------------------------------------------------------------------------------


def test_clam(tmp_path: Path) -> None:
    path = table(tmp_path, "case_id,slide_id,label", "p1,s1,normal", "p1,s2,tumor", "p2,s3,normal", "p3,s4,tumor")
    cohort = read_cohort(path, files(tmp_path))
    assert rows(cohort) == [
        ("s1", ("normal",), "p1", ""),
        ("s2", ("tumor",), "p1", ""),
        ("s3", ("normal",), "p2", ""),
        ("s4", ("tumor",), "p3", ""),
    ]
    assert [sample.path.name for sample in cohort.samples] == [f"{slide}.h5" for slide in SLIDES]
    assert [sample.line for sample in cohort.samples] == [2, 3, 4, 5]
    assert cohort.classes.names == ("normal", "tumor")
    assert cohort.warnings == ()


def test_clams_splits_have_columns_of_different_lengths(tmp_path: Path) -> None:
    path = table(tmp_path, "case_id,slide_id,label", "p1,s1,a", "p1,s2,b", "p2,s3,a", "p3,s4,b", "p4,s5,b")
    splits = table(tmp_path, ",train,val,test", "0,s1,s3,s4", "1,s2,,", name="splits_0.csv")
    assert read_splits(splits) == {"s1": ("train", 2), "s3": ("val", 2), "s4": ("test", 2), "s2": ("train", 3)}
    cohort = read_cohort(path, files(tmp_path, *SLIDES, "s5"), splits=splits)
    assert [sample.split for sample in cohort.samples] == ["train", "train", "val", "test", ""]
    assert cohort.warnings == ("1 slides are in none of the splits: s5",)
    # Some editors leave the empty cells out.
    shorter = table(tmp_path, ",train,val,test", "0,s1.svs,s3,s4", "1,s2", name="splits_1.csv")
    assert read_splits(shorter) == read_splits(splits)


def test_stamp(tmp_path: Path) -> None:
    clini = table(
        tmp_path, "PATIENT,AGE,isMSIH", "p1,60,MSIH", "p2,61,nonMSIH", "p3,62,MSIH", "p4,63,", name="clini.csv"
    )
    lines = ("PATIENT,FILENAME", "p1,site/s1.h5", "p1,site\\s2.h5", "p2,s3.h5", "p9,s4.h5", "p4,s5.h5")
    slides = table(tmp_path, *lines, name="slides.csv")
    cohort = read_cohort(clini, files(tmp_path, *SLIDES, "s5"), slides=slides, label="isMSIH")
    assert rows(cohort) == [
        ("s1", ("MSIH",), "p1", ""),
        ("s2", ("MSIH",), "p1", ""),
        ("s3", ("nonMSIH",), "p2", ""),
        ("s5", (), "p4", ""),
    ]
    assert cohort.warnings == (
        "1 slides in slides.csv are of patients who are not in the table, and are left out: s4.h5",
        "1 patients have no slide: p3",
        "1 feature files are of no slide in the table",
    )
    with pytest.raises(HistillError, match=r"line 5 \(s5\) has no label"):
        cohort.require("labels")


def test_slideflow_and_pathbench(tmp_path: Path) -> None:
    path = table(tmp_path, "slide,patient,category,dataset", "s1,p1,x,d", "s2,p2,y,d")
    assert rows(read_cohort(path, files(tmp_path, "s1", "s2"))) == [("s1", ("x",), "p1", ""), ("s2", ("y",), "p2", "")]


def test_slide2vec(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        "sample_id,image_path,mask_path,spacing_at_level_0,label",
        "s1,/data/1.svs,,0.25,0",
        "s2,/data/2.svs,,,10",
        "s3,/data/3.svs,,,9",
    )
    cohort = read_cohort(path, files(tmp_path, "s1", "s2", "s3"))
    assert [sample.mpp for sample in cohort.samples] == [0.25, None, None]
    assert cohort.classes.names == ("0", "9", "10")


def test_trident(tmp_path: Path) -> None:
    path = table(tmp_path, "wsi,mpp", "s1.svs,0.25", "s2.svs,0.5")
    assert "no column of labels" in failing(path, files(tmp_path, "s1", "s2"))
    cohort = read_cohort(path, files(tmp_path, "s1", "s2"), classes=["a", "b"])
    assert [(sample.mpp, sample.labels) for sample in cohort.samples] == [(0.25, ()), (0.5, ())]


def test_bracs(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        "WSI Filename,Patient Id,RoI,WSI label,Set",
        "BRACS_1,10,3,PB,Training",
        "BRACS_2,11,0,DCIS,Validation",
        "BRACS_3,12,0,FEA,Testing",
    )
    bags = files(tmp_path, "BRACS_1", "BRACS_2", "BRACS_3")
    assert rows(read_cohort(path, bags)) == [
        ("BRACS_1", ("PB",), "10", "train"),
        ("BRACS_2", ("DCIS",), "11", "val"),
        ("BRACS_3", ("FEA",), "12", "test"),
    ]
    groups = read_cohort(path, bags, rename=BRACS_GROUPS, classes=["BT", "AT", "MT"])
    assert [sample.labels for sample in groups.samples] == [("BT",), ("MT",), ("AT",)]


def test_camelyon17(tmp_path: Path) -> None:
    lines = ["patient,stage", "patient_000.zip,pN0(i+)"]
    lines += [f"patient_000_node_{node}.tif,{stage}" for node, stage in enumerate(("negative", "itc", "macro"))]
    lines += ["patient_001.zip,pN1", "patient_001_node_0.tif,micro"]
    slides = ["patient_000_node_0", "patient_000_node_1", "patient_000_node_2", "patient_001_node_0"]
    cohort = read_cohort(table(tmp_path, *lines), files(tmp_path, *slides))
    assert rows(cohort) == [
        ("patient_000_node_0", ("negative",), "patient_000", ""),
        ("patient_000_node_1", ("itc",), "patient_000", ""),
        ("patient_000_node_2", ("macro",), "patient_000", ""),
        ("patient_001_node_0", ("micro",), "patient_001", ""),
    ]
    assert cohort.warnings == ("Rows of whole patients (.zip) are left out",)
    binary = {"itc": "positive", "micro": "positive", "macro": "positive"}
    renamed = read_cohort(table(tmp_path, *lines), files(tmp_path, *slides), rename=binary)
    assert renamed.classes.names == ("negative", "positive")


# --- slides and patients ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cell",
    [
        "TCGA-A1-0001-01Z.5f6a.b",
        "TCGA-A1-0001-01Z.5f6a.b.svs",
        "../x/TCGA-A1-0001-01Z.5f6a.b.h5",
        "tcga-A1-0001-01Z.5F6A.b",
    ],
)
def test_a_slide_by_its_id_or_its_file(cell: str, tmp_path: Path) -> None:
    bags = files(tmp_path, "TCGA-A1-0001-01Z.5f6a.b")
    (sample,) = read_cohort(table(tmp_path, "slide_id,label", f"{cell},x"), bags).samples
    assert (sample.id, sample.path) == ("TCGA-A1-0001-01Z.5f6a.b", bags["TCGA-A1-0001-01Z.5f6a.b"])
    # Nobody said whose it is, but the barcode does.
    assert sample.patient == "TCGA-A1-0001"


def test_an_id_that_ends_like_a_file_is_taken_whole_first(tmp_path: Path) -> None:
    (sample,) = read_cohort(table(tmp_path, "slide_id,label", "s1.svs,x"), files(tmp_path, "s1.svs", "s1")).samples
    assert sample.id == "s1.svs"


def test_slides_of_nobody_are_patients_of_their_own(tmp_path: Path) -> None:
    cohort = read_cohort(table(tmp_path, "slide,label", "s1,a", "s2,b"), files(tmp_path, "s1", "s2"))
    assert [sample.patient for sample in cohort.samples] == ["s1", "s2"]
    assert "patient of its own" in cohort.warnings[0]


def test_slides_without_a_feature_file_are_faults_unless_asked_for(tmp_path: Path) -> None:
    path = table(tmp_path, "slide_id,case_id,label", "s1,p1,a", "lost,p2,b", "gone,p3,b", "s2,p4,a")
    bags = files(tmp_path, "s1", "s2")
    said = failing(path, bags)
    assert "line 3: no feature file for the slide 'lost'" in said
    assert "line 4: no feature file for the slide 'gone'" in said
    assert "skip_missing" in said
    cohort = read_cohort(path, bags, skip_missing=True)
    assert [sample.id for sample in cohort.samples] == ["s1", "s2"]
    assert cohort.warnings == ("2 slides have no feature file and are left out: lost, gone",)
    assert "no slide has a feature file" in failing(path, files(tmp_path, "x"), skip_missing=True)


def test_a_split_may_name_a_slide_that_is_skipped(tmp_path: Path) -> None:
    path = table(tmp_path, "slide_id,case_id,label", "s1,p1,a", "lost,p2,b")
    splits = table(tmp_path, ",train,val,test", "0,s1,,lost", name="splits_0.csv")
    cohort = read_cohort(path, files(tmp_path, "s1"), splits=splits, skip_missing=True)
    assert rows(cohort) == [("s1", ("a",), "p1", "train")]


# --- every fault with its line ----------------------------------------------------------------------------------------


def test_all_faults_come_at_once(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        "case_id,slide_id,label,split,mpp",
        "p1,s1,normal,train,0.25",
        "p1,s1.svs,normal,train,",
        "p2,,normal,train,",
        "p2,s2,norml,training,0",
        "p3,s3,tumor,rest,x",
        "p1,s4,tumor,test,",
        "p4,s5,tumor",
        "p4,s6,tumor,val,nan",
    )
    said = failing(path, files(tmp_path), classes=["normal", "tumor"])
    for fault in (
        "line 3: slide 's1' stands already on line 2",
        "line 4: no slide is named",
        "line 5: the spacing '0' is not a plausible",
        "line 5: the label 'norml' is not one of normal, tumor; did you mean 'normal'?",
        "line 6: the split 'rest' is not one of train, val, test",
        "line 6: the spacing 'x' is not a plausible",
        "line 7: patient 'p1' stands in split test, but on line 2 in train",
        "line 8: 3 cells under 5 columns",
        "line 9: no feature file for the slide 's6'",
    ):
        assert fault in said, said
    assert said.startswith(f"{path}: 9 faults")


def test_faults_of_a_second_table_name_it(tmp_path: Path) -> None:
    clini = table(tmp_path, "PATIENT,label", "p1,a", "p1,b", "p2,c")
    slides = table(tmp_path, "PATIENT,FILENAME", "p1,s1", "p2,s1", "p2,lost", "p2", name="slides.csv")
    said = failing(clini, files(tmp_path), slides=slides)
    assert "line 3: patient 'p1' stands already on line 2" in said
    assert "slides.csv line 3: slide 's1' stands already on slides.csv line 2" in said
    assert "slides.csv line 4: no feature file for the slide 'lost'" in said
    assert "slides.csv line 5: 1 cells under 2 columns" in said


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        (["label", "a"], "no column names the slide (slide_id, slide"),
        (["slide_id;label", "s1;a"], "no column names the slide"),
        (["slide_id,label"], "the table has no rows"),
        ([""], "no column names the slide"),
        (["slide_id,label", "s1,"], "no slide has a label"),
        (["slide_id,outcome", "s1,a"], "no column of labels"),
    ],
)
def test_tables_that_say_too_little(lines: list[str], what: str, tmp_path: Path) -> None:
    assert what in failing(table(tmp_path, *lines), files(tmp_path))


def test_a_column_of_labels_by_its_name(tmp_path: Path) -> None:
    path = table(tmp_path, "slide_id,label,Grade", "s1,a,1", "s2,b,2")
    cohort = read_cohort(path, files(tmp_path, "s1", "s2"), label="Grade")
    assert cohort.classes.names == ("1", "2")
    assert "no column 'grad', but slide_id, label, Grade" in failing(path, files(tmp_path), label="grad")


def test_tables_that_cannot_be_read(tmp_path: Path) -> None:
    failing(tmp_path / "none.csv", files(tmp_path), code=Exit.INPUT)
    assert "spreadsheet" in failing(tmp_path / "BRACS.xlsx", files(tmp_path))
    path = tmp_path / "latin.csv"
    path.write_bytes("slide_id,label\ns1,ä\n".encode("latin-1"))
    assert "line 2: not UTF-8" in failing(path, files(tmp_path))


# --- splits -----------------------------------------------------------------------------------------------------------


def splits_failing(path: Path) -> str:
    with pytest.raises(HistillError) as caught:
        read_splits(path)
    assert caught.value.code == Exit.USAGE
    return str(caught.value)


def test_a_slide_in_two_splits(tmp_path: Path) -> None:
    # The published splits of BRCA share 6 to 11 slides a fold.
    path = table(tmp_path, ",train,val,test", "0,s1,s2,s3", "1,s3,,s2", "2,s1,,", name="splits_3.csv")
    said = splits_failing(path)
    assert "line 3: slide 's3' stands in train, but on line 2 already in test" in said
    assert "line 3: slide 's2' stands in test, but on line 2 already in val" in said
    assert "line 4: slide 's1' stands in train, but on line 2 already in train" in said


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        ([",train,val,test", "s1,True,False,False"], "not its _bool"),
        (["a,b", "s1,s2"], "the columns are a, b, not train, val, test"),
        (["train,train", "s1,s2"], "not train, val, test"),
        ([""], "the columns are none"),
    ],
)
def test_other_tables_are_no_splits(lines: list[str], what: str, tmp_path: Path) -> None:
    assert what in splits_failing(table(tmp_path, *lines))


def test_splits_that_are_not_utf8_or_damaged(tmp_path: Path) -> None:
    path = tmp_path / "splits_0.csv"
    path.write_bytes(b",train,val,test\n0,s\xe41,,\n")
    assert "line 2: not UTF-8" in splits_failing(path)
    path.write_bytes(b',train,val,test\n0,"' + b"x" * 200_000)
    assert "line" in splits_failing(path)


def test_splits_against_the_table(tmp_path: Path) -> None:
    path = table(tmp_path, "case_id,slide_id,label", "p1,s1,a", "p1,s2,b", "p2,s3,a")
    splits = table(tmp_path, ",train,val,test", "0,s1,s3,s2", "1,stranger,,", name="splits_0.csv")
    said = failing(path, files(tmp_path), splits=splits)
    assert "splits_0.csv line 3: slide 'stranger' of train is not in the table" in said
    assert "line 3: patient 'p1' stands in split test, but on line 2 in train" in said


def test_official_splits_may_share_patients_and_every_report_says_so(tmp_path: Path) -> None:
    path = table(tmp_path, "case_id,slide_id,label,split", "p1,s1,a,train", "p1,s2,b,test", "p2,s3,a,test")
    cohort = read_cohort(path, files(tmp_path, "s1", "s2", "s3"), official=True)
    assert "1 patients stand in more than one split" in cohort.warnings[0]
    assert cohort.card.split_source == "official"


def test_a_file_of_splits_counts_more_than_a_column(tmp_path: Path) -> None:
    path = table(tmp_path, "case_id,slide_id,label,split", "p1,s1,a,train", "p2,s2,b,test")
    splits = table(tmp_path, ",train,val,test", "0,s2,,s1", name="splits_0.csv")
    cohort = read_cohort(path, files(tmp_path, "s1", "s2"), splits=splits)
    assert [sample.split for sample in cohort.samples] == ["test", "train"]
    assert "own splits are left for those of splits_0.csv" in cohort.warnings[0]


# --- kept -------------------------------------------------------------------------------------------------------------


def test_a_cohort_is_kept_as_a_table_of_ours(tmp_path: Path) -> None:
    path = table(tmp_path, "case_id,slide_id,label,split", "p1,s1,a,train", "p2,s2,b,test")
    cohort = read_cohort(path, files(tmp_path, "s1", "s2"))
    write_manifest(tmp_path / "kept" / "data.csv", cohort.samples, cohort.card)
    again = read_manifest(tmp_path / "kept" / "data.csv")
    assert rows(again) == rows(cohort)
    assert [sample.path.resolve() for sample in again.samples] == [sample.path for sample in cohort.samples]
    assert again.classes == cohort.classes
    train, test = cohort.of_split("train"), cohort.of_split("test")
    assert ([s.id for s in train.samples], [s.id for s in test.samples]) == (["s1"], ["s2"])


def test_the_digest_follows_from_all_that_counts(tmp_path: Path) -> None:
    path = table(tmp_path, "case_id,slide_id,label", "p1,s1,a", "p2,s2,b")
    splits = table(tmp_path, ",train,val,test", "0,s1,,s2", name="splits_0.csv")
    bags = files(tmp_path, "s1", "s2")
    (tmp_path / "other").mkdir()
    digests = [
        read_cohort(path, bags).digest,
        read_cohort(path, bags, classes=["b", "a"]).digest,
        read_cohort(path, bags, rename={"a": "c"}).digest,
        read_cohort(path, bags, splits=splits).digest,
    ]
    assert len(set(digests)) == 4
    assert read_cohort(path, files(tmp_path / "other", "s1", "s2")).digest == digests[0]
    table(tmp_path, "case_id,slide_id,label", "p1,s1,a", "p3,s2,b")
    assert read_cohort(path, bags).digest not in digests
