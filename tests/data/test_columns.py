"""Columns of one's own: stated in the dataset's row, in a file, or read by a class of another package."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from crab_lightning.data import AVDataModule, Layout, ManifestError, Parts, has_test, read_manifest
from crab_lightning.data.check.run import check_root
from crab_lightning.data.dataset import target_policy
from crab_lightning.data.manifests.column_types import TYPES, ColumnError
from crab_lightning.data.manifests.columns import _FACTS, _KEYS, ColumnMap
from crab_lightning.data.manifests.files import load_rows
from crab_lightning.structures import Conversation, DatasetSpec, Media, Sample
from crab_lightning.tasks import Captioning, EventLocalization, OpenAnswer
from tests.data.trees import manifest, media_bytes, write_file

COLUMNS: dict[str, Any] = {
    "media": {"videos": "clip", "audios": "sound"},
    "fields": {
        "event": "label",
        "start_s": "from",
        "end_s": "to",
        "place": {"key": "where", "optional": True},
    },
    "target": "text",
    "recordings": {"key": "tape"},
    "classes": "event",
}
ROWS = [
    {"clip": f"{i}.mp4", "sound": f"{i}.mp3", "label": name, "from": "0", "to": 2, "tape": i // 2,
     "text": f"I hear it. <event>{name}, (0 2)</event>"}
    for i, name in enumerate(("dog", "bell", "dog", "bell"))
]  # fmt: skip


class Tabs(Layout):
    """A reader of another package: the clip's name and its event in one string."""

    def __init__(self, between: str = "|") -> None:
        self.between = between

    def read(self, row: Mapping[str, Any], split: str) -> Parts:
        name, event = row["line"].split(self.between)
        return Parts(
            [f"{name}.mp4"], audios=[f"{name}.mp3"], fields={"event": event, "start_s": 0, "end_s": 1}
        )


def own(root: Path, rows: Any, name: str = "mine/train.json") -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(rows if isinstance(rows, str) else json.dumps(rows))
    for row in ROWS:
        for key in ("clip", "sound"):
            media = path.parent / str(row[key])
            media.write_bytes(media_bytes(media.suffix[1:]))
    return root


def read(root: Path, split: Any = "train", **spec: Any) -> list[Any]:
    return read_manifest(root, "mine", DatasetSpec("t", **spec), split)


def test_a_dataset_with_columns_of_its_own_needs_no_python(tmp_path: Path) -> None:
    own(tmp_path, [*ROWS[:3], {**ROWS[3], "where": "hall"}])
    spec = DatasetSpec("events", columns=COLUMNS)
    data = AVDataModule(tmp_path, {"events": EventLocalization()}, {"mine": spec}, val_share=0.5)
    data.setup()
    samples = sorted(data.samples("train") + data.samples("val"), key=lambda sample: sample.row)
    assert [sample.id for sample in samples] == [f"mine/train/{i}" for i in range(4)]
    assert [sample.clip for sample in samples] == ["0", "0", "1", "1"]
    assert samples[0].fields == {"event": "dog", "start_s": 0, "end_s": 2}
    assert samples[3].fields["place"] == "hall"
    assert samples[0].target == ROWS[0]["text"]
    assert data.datasets["mine"].classes == ["bell", "dog"]


def test_where_the_rows_hold_no_text_to_be_learnt_the_answer_alone_is_learnt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = {key: value for key, value in COLUMNS.items() if key != "target"}
    data = AVDataModule(
        own(tmp_path, ROWS),
        {"events": EventLocalization(), "captions": Captioning()},
        {"mine": DatasetSpec("events", columns=columns), "told": DatasetSpec("captions", columns=columns)},
        only=["mine"],
        val_share=0.5,
    )
    data.setup()
    for split in ("train", "val"):
        for sample in data.samples(split):
            policy = target_policy(sample, data.datasets["mine"], 0)
            assert (
                data.tasks["events"].target(sample, policy)
                == f"<event>{sample.fields['event']}, (0 2)</event>"
            )
    monkeypatch.setattr(EventLocalization, "parse", lambda *_: None)
    spec = DatasetSpec("events", columns=columns)
    found = check_root(tmp_path, {"events": EventLocalization()}, {"mine": spec}, decode=False).problems
    assert [p.row for p in found if p.kind == "grammar"] == [0, 1, 2, 3]  # what is learnt cannot be read
    with pytest.raises(
        ValueError, match=r"has no target text\. Give the column that contains it as `target`"
    ):
        Captioning().target(sample, "direct")


def test_a_field_of_a_task_of_ones_own_may_have_any_name_with_a_type() -> None:
    said = {"fields": {"question": "q", "option": {"key": "o", "type": "any"}}}
    assert ColumnMap(said, "mine").read({"q": "?", "o": [1]}, "train").fields["option"] == [1]


def test_what_a_class_of_another_package_did_not_expect_names_the_row(tmp_path: Path) -> None:
    class Counting(OpenAnswer):
        def truth(self, sample: Sample, spec: DatasetSpec) -> str:
            return str(int(sample.fields["answer"]))

    path = f"{__name__}.Tabs"
    own(tmp_path, [{"line": "0|dog"}, {"lin": "1|bell"}, {"line": "2"}])
    with pytest.raises(
        ManifestError, match=r"row 1 .*makes Tabs fail \(KeyError: 'line'\); expected what Tabs"
    ):
        read(tmp_path, layout=path)
    spec = DatasetSpec(
        "t", columns={"media": {"videos": "clip"}, "fields": {"question": "text", "answer": "label"}}
    )
    with pytest.raises(
        ManifestError, match=r"which the layout tests\.data\.test_columns\.Tabs does not give; it"
    ):
        read(own(tmp_path, [{"line": "0|dog"}]), layout=path)[0].fields["answer"]
    own(tmp_path, [{"line": "0|dog"}, {"lin": "1|bell"}, {"line": "2"}])
    tasks = {"t": Counting()}
    found = check_root(tmp_path, tasks, {"mine": DatasetSpec("t", layout=path)}, decode=False).problems
    assert [p.row for p in found if "makes Tabs fail" in p.message] == [1, 2]
    own(tmp_path, ROWS)
    said = r"mine/train/0 \(row 0 of mine's training rows\) cannot be read: invalid literal for int"
    found = check_root(tmp_path, tasks, {"mine": spec}, decode=False).problems
    assert re.search(said, found[0].message)
    with pytest.raises(ValueError, match=said):
        tasks["t"].check(read_manifest(tmp_path, "mine", spec, "train"), spec)


def test_questions_are_told_apart_by_what_the_task_asks(tmp_path: Path) -> None:
    class Asking(OpenAnswer):
        def prompt(self, sample: Sample) -> Conversation:
            return (Media.VIDEO, f"How many of {sample.fields['things']} are there?")

    columns = {"media": {"videos": "clip"}, "fields": {"things": "label", "answer": "to"}}
    rows = [ROWS[0] | {"label": label, "to": str(i)} for i, label in enumerate(("dogs", "cats", "dogs"))]
    own(tmp_path, rows, "mine/test.json")
    spec = DatasetSpec("t", columns=columns)
    samples = read_manifest(tmp_path, "mine", spec, "test", task=Asking())
    assert [(s.id, s.fields["answer"]) for s in samples] == [("mine/test/0", "0"), ("mine/test/0~2", "1")]


def test_a_column_that_the_rows_do_not_have_is_named_with_the_one_like_it(tmp_path: Path) -> None:
    columns = COLUMNS | {"fields": COLUMNS["fields"] | {"event": "lable"}}
    with pytest.raises(ManifestError, match=r"'lable' is missing \(did you mean 'label'\?\); the row has"):
        read(own(tmp_path, ROWS), columns=columns)


def test_a_field_that_the_task_reads_and_the_columns_do_not_give_is_named(tmp_path: Path) -> None:
    columns = COLUMNS | {"fields": {"event": "label", "start": "from", "end_s": "to"}}
    sample = pickle.loads(pickle.dumps(read(own(tmp_path, ROWS), columns=columns)[0]))
    assert sample.fields == {"event": "dog", "start": "0", "end_s": 2}
    said = (
        r"data\.datasets\.mine: the task 't' reads the field 'start_s', which columns\.fields does not give "
    )
    with pytest.raises(ManifestError, match=said + r"\(did you mean 'start'\?\); it gives: event, start"):
        EventLocalization().truth(sample, DatasetSpec("t", columns=columns, classes=["dog", "bell"]))


@pytest.mark.parametrize("ending", ["json", "jsonl", "csv"])
def test_rows_may_be_json_json_lines_or_csv(tmp_path: Path, ending: str) -> None:
    keys = list(ROWS[0])
    texts = {
        "json": json.dumps(ROWS),
        "jsonl": "".join(json.dumps(row) + "\n" for row in ROWS),
        "csv": "\n".join([",".join(keys), *(",".join(f'"{row[k]}"' for k in keys) for row in ROWS)]),
    }
    own(tmp_path, texts[ending], f"mine/train.{ending}")
    samples = read(tmp_path, columns=COLUMNS)
    assert [(s.fields["event"], s.fields["end_s"]) for s in samples] == [("dog", 2), ("bell", 2)] * 2


def test_rows_may_be_parquet(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    own(tmp_path, "[]", "mine/x.json")
    table = pyarrow.Table.from_pylist(ROWS)
    parquet.write_table(table, tmp_path / "mine/train.parquet")
    assert len(read(tmp_path, columns=COLUMNS)) == 4


@pytest.mark.parametrize(
    ("text", "ending", "message"),
    [
        ('{"a": 1}\n{"a"', "jsonl", r"line 2 is not JSON"),
        ("a,b\n1", "csv", r"line 2 has 1 cell, and the header line has 2"),
        ("a,a\n1,2", "csv", r"column 'a' occurs twice"),
        ("a;b\n1;2", "csv", r"it separates columns by ';'\. Save it with commas"),
        ("a\tb\n1\t2", "csv", r"it separates columns by '\\t'\."),
        (
            "clip,sound,label,from,to,tape,text\n0.mp4,0.mp3,dog,soon,2,0,x",
            "csv",
            r"row 0 .*key 'from' is \"soon\"",
        ),
        (
            "clip,sound,label,from,to,tape,text\n0.mp4,0.mp3,,0,2,0,x",
            "csv",
            r"row 0 .*key 'label' is missing",
        ),
    ],
)
def test_what_cannot_be_read_names_line_or_row(tmp_path: Path, text: str, ending: str, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        read(own(tmp_path, text, f"mine/train.{ending}"), columns=COLUMNS)


def test_two_files_that_could_be_meant_are_refused_and_a_name_decides(tmp_path: Path) -> None:
    own(tmp_path, ROWS)
    own(tmp_path, ROWS[:1], "mine/train.jsonl")
    with pytest.raises(ManifestError, match=r"contains train\.json and train\.jsonl.*mine\.train_file"):
        read(tmp_path, columns=COLUMNS)
    assert len(read(tmp_path, columns=COLUMNS, train_file="train.json")) == 4


def test_a_row_states_what_differs_from_a_released_layout(tmp_path: Path) -> None:
    rows = [{**row, "name": row["event"]} for row in manifest("ave", "train")]
    for row in rows:
        del row["event"]
    write_file(tmp_path, "ave", "train", rows)
    spec = DatasetSpec("t", "ave", columns={"fields": {"event": "name"}})
    samples = read_manifest(tmp_path, "ave", spec, "train", check_media=False)
    assert [sample.fields["event"] for sample in samples] == [row["name"] for row in rows]


def test_a_class_of_another_package_reads_what_no_map_can_state(tmp_path: Path) -> None:
    own(tmp_path, [{"line": "0/dog"}, {"line": "1/bell"}])
    path = f"{Tabs.__module__}.{Tabs.__name__}"
    samples = read(tmp_path, layout=path, columns={"between": "/"})
    assert [sample.fields["event"] for sample in samples] == ["dog", "bell"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "neither layout nor columns"),
        ({"columns": {"train": {"fild": {}}}}, r"\.columns\.train has the key 'fild'"),
        (
            {"columns": {"fild": {}}},
            r"\.columns has the key 'fild' \(did you mean 'fields'.*knows: .*fields",
        ),
        (
            {"columns": {"fields": {"x": {"key": "x", "type": "float"}}}},
            r"\.columns\.fields\.x\.type is 'float'.*; there are",
        ),
        (
            {"columns": {"fields": {"x": {"key": "x", "type": "text", "optional": "no"}}}},
            r"\.columns\.fields\.x\.optional is \"no\"; it must be true or false",
        ),
        ({"columns": {"fields": {"x": {"type": "text"}}}}, "give it one of key, keys"),
        (
            {"columns": {"fields": {"question": "q", "option": "o"}}},
            r"\.columns\.fields has 'option', which no shipped task reads \(did you mean 'options'\?\)",
        ),
        (
            {"columns": {"media": {"video": "x"}}},
            r"columns\.media has the key 'video' \(did you mean 'videos'",
        ),
        ({"columns": {"recordings": {"name": "("}}}, "not a regular expression"),
        ({"columns": {"fields": {"event": "label"}}}, r"\.columns names no file\. Give the key"),
        (
            {"columns": {"media": {"videos": "x"}, "recordings": "tape"}},
            r"\.recordings is \"tape\"; it must be a",
        ),
        (
            {"columns": {"media": {"videos": "x"}, "fields": {"event": "e"}, "classes": "label"}},
            r"\.classes names the field 'label', which `fields` does not give; it gives: event",
        ),
        ({"layout": "pathlib.Path"}, "not a class derived from"),
        ({"layout": "nowhere.Layout"}, "cannot be imported"),
        ({"layout": "cards/none.yaml"}, "There is no file"),
        ({"layout": "ks", "test": False, "test_file": "t.json"}, "remove one of them"),
    ],
)
def test_a_map_that_makes_no_sense_is_refused_before_anything_is_read(
    tmp_path: Path, spec: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=rf"data\.datasets\.mine.*{message}"):
        AVDataModule(tmp_path, {"t": EventLocalization()}, {"mine": DatasetSpec("t", **spec)})


def test_a_map_with_a_repeated_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "map.yaml").write_text("media: {videos: clip}\nfields: {event: label, event: other}\n")
    spec = DatasetSpec("t", layout=str(tmp_path / "map.yaml"))
    with pytest.raises(ValueError, match=r"map\.yaml cannot be read as YAML: the key 'event' occurs twice"):
        AVDataModule(tmp_path, {"t": EventLocalization()}, {"mine": spec})


@pytest.mark.parametrize("key", sorted(_KEYS | _FACTS | {"train", "test"}))
@pytest.mark.parametrize("value", [3, True, "clip", ["clip"], [3], {"clip": "clip"}, {"key": ["clip"]}])
def test_a_value_of_any_form_is_taken_or_refused_in_words(key: str, value: Any) -> None:
    try:
        made = ColumnMap({"media": {"videos": "clip"}, "fields": {"event": "label"}} | {key: value}, "mine")
        made.read(ROWS[0], "train")
    except ValueError as err:
        assert len(str(err)) > 20  # noqa: PT017 - many values are no fault


def test_a_value_inside_another_is_named_with_dots() -> None:
    fields = {
        "start_s": "marks.0.at",
        "end_s": "marks.1.at",
        "event": {"any_of": ["note.name", "label.name"]},
        "place": {"key": "label.place", "optional": True},
    }
    made = ColumnMap({"media": {"videos": "clip.file"}, "fields": fields, "target": "a.b"}, "mine")
    row = {"clip": {"file": "0.mp4"}, "label": {"name": "dog"}, "a.b": "text", "a": {"b": "other"}}
    found = made.read(row | {"marks": [{"at": "00:03.5"}, {"at": "1:02:03"}]}, "train")
    assert found.videos == ["0.mp4"]
    assert found.fields == {"start_s": 3.5, "end_s": 3723, "event": "dog"}
    assert found.target == "text"
    (said,) = made.errors(row | {"marks": [{"at": "0:03"}]}, "train")
    assert (said.what, said.found.partition(";")[0]) == (
        "key 'marks.1.at'",
        """is missing ('marks' is [{"at": "0:03"}])""",
    )


def test_plain_rows_may_hold_their_values_inside_others_too(tmp_path: Path) -> None:
    event = {"event": "dog", "start_s": "0:01", "end_s": "0:02"}
    rows = [{"media": {"file": "0.mp4"}, "note": [{"said": "a dog"}], "events": [event]}]
    columns = {"keys": {"video": "media.file", "answer": "note.0.said"}}
    (sample,) = read(own(tmp_path, rows), layout="plain", columns=columns)
    assert [path.name for path in sample.videos] == ["0.mp4"]
    assert sample.fields["answer"] == "a dog"
    assert sample.fields["events"] == ({"event": "dog", "start_s": 1, "end_s": 2},)
    for wrong in ({"video": 3}, ["video"]):
        with pytest.raises(
            ValueError, match=r"columns\.keys is .*; it must be a mapping from texts to texts"
        ):
            read(tmp_path, layout="plain", columns={"keys": wrong})


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("seconds", "0:03", 3),
        ("seconds", "75:59.25", 4559.25),
        ("seconds", "0:61", None),
        ("seconds", "1:75:00", None),
        ("seconds", "-0:03", None),
        ("number", "-12.5", -12.5),
        ("number", 90, 90),
        ("number", True, None),
        ("number", float("nan"), None),
        ("number", "0:03", None),
    ],
)
def test_times_and_numbers_are_read_as_people_write_them(kind: str, text: Any, value: Any) -> None:
    if value is None:
        with pytest.raises(ColumnError):
            TYPES[kind](text)
    else:
        assert TYPES[kind](text) == value


@pytest.mark.parametrize(
    ("fields", "rows", "message"),
    [
        ({"start": "from"}, {}, "reads the field 'start_s', which columns.fields does not give"),
        ({"start_s": "to", "end_s": "from"}, {}, "ends at 0 s, before it starts at 2 s"),
        ({"start_s": "from"}, {"to": 0}, "no row names a class"),
    ],
)
def test_rows_of_which_no_annotation_can_be_read_are_errors_of_the_check_and_of_a_run(
    tmp_path: Path, fields: dict[str, str], rows: dict[str, Any], message: str
) -> None:
    own(tmp_path, [row | rows for row in ROWS])
    spec = DatasetSpec("events", columns=COLUMNS | {"fields": {"event": "label", "end_s": "to"} | fields})
    tasks = {"events": EventLocalization()}
    report = check_root(tmp_path, tasks, {"mine": spec}, decode=False)
    found = [p.message for p in report.problems if p.level == "error"]
    assert found
    assert all(message in said for said in found)
    with pytest.raises(ValueError, match=message):
        AVDataModule(tmp_path, tasks, {"mine": spec}, val_share=0.5).setup()


def test_a_test_file_is_used_where_it_is_whatever_the_layout(tmp_path: Path) -> None:
    rows = manifest("unav", "train")
    write_file(tmp_path, "unav", "train", rows)
    spec = DatasetSpec("t", "unav")
    assert not has_test(tmp_path, "unav", spec)
    write_file(tmp_path, "unav", "test", rows[:1])
    assert has_test(tmp_path, "unav", spec)
    assert len(read_manifest(tmp_path, "unav", spec, "test", check_media=False)) == 1
    assert not has_test(tmp_path, "unav", DatasetSpec("t", "unav", test=False))
    assert has_test(tmp_path, "ave", DatasetSpec("t", "ave", test=True))  # and reading it is an error


def test_csv_files_as_programs_write_them(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text("\n\na,,b,\n1,x,2,y\n3,,,\n")
    assert load_rows(path, "here", tmp_path) == [{"a": "1", "b": "2"}, {"a": "3"}]
    path.write_text("a,b;c\n1,2;3\n")
    with pytest.raises(ManifestError, match=r"it separates columns by ';'. Save it with commas"):
        load_rows(path, "here", tmp_path)
