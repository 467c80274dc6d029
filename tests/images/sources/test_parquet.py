import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from base.errors import ImageRefused, RefusalReason, SourceError, UsageError
from images.sources import parquet
from images.sources.parquet_columns import ColumnNames
from images.sources.passed_over import passed_over
from images.sources.sources import open_source, read_uri


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


FILES = [png(number) for number in range(100)]
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def save(folder: Path, columns: dict[str, Any], **options: Any) -> Path:
    path = folder / "train-00.parquet"
    table = pa.table(columns)
    pq.write_table(table.replace_schema_metadata(options.pop("metadata", None)), path, **options)
    return path


@pytest.mark.parametrize("group", [7, 40, 1000])
@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), STRUCT])
def test_rows_in_any_order(tmp_path: Path, group: int, kind: pa.DataType) -> None:
    values: list[Any] = FILES
    if kind == STRUCT:
        values = [{"bytes": data, "path": "x.png"} for data in FILES]
    path = save(tmp_path, {"image": pa.array(values, kind)}, row_group_size=group)
    items = list(open_source(path))
    assert [item.key for item in items] == [f"train-00/{row:05d}" for row in range(100)]
    assert items[3].uri == f"parquet://{path}#3"
    for row in (*range(100), *range(99, -1, -7), *np.random.default_rng(0).permutation(100)):
        assert items[row].read() == read_uri(items[row].uri) == FILES[row]


def test_memory_holds_a_few_stretches_only(tmp_path: Path) -> None:
    count = 2000
    path = save(tmp_path, {"image": [FILES[n % 100] for n in range(count)]})
    source = open_source(path)
    for item in source:
        item.read()
    rows = parquet._rows(str(path), source.stamp)  # type: ignore[attr-defined]
    assert (
        sum(len(values) for values in rows._kept.values()) <= parquet.BATCH * parquet.KEPT < count
    )


def test_labels_keys_and_hugging_faces_class_names(tmp_path: Path) -> None:
    features = {"label": {"names": ["hat", "shoe"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    columns = {"label": [1, 0, -1, None], "image": FILES[:4], "key": list("dcba")}
    source = open_source(save(tmp_path, columns, metadata=metadata))
    assert [(item.key, item.label) for item in source] == [
        ("d", "shoe"), ("c", "hat"), ("b", None), ("a", None),
    ]  # fmt: skip
    assert source.classes == ("hat", "shoe")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (pa.array([3, 10, None]), ["3", "10", None]),
        (pa.array(["x", None, "y"]), ["x", None, "y"]),
        (pa.array(["x", "y", "x"]).dictionary_encode(), ["x", "y", "x"]),
        (pa.array([None] * 3, pa.string()), [None] * 3),
        (pa.array([0.5, 1, 2]), [None] * 3),
        (pa.array([3.0, float("nan"), None]), ["3", None, None]),
        (pa.array([True, False, None]), ["true", "false", None]),
        (pa.array(["x", None, "y"], pa.large_string()), ["x", None, "y"]),
        (pa.array(["x", None, "y"], pa.string_view()), ["x", None, "y"]),
        (pa.array([2, None, 7]).dictionary_encode(), ["2", None, "7"]),
    ],
)
def test_kinds_of_labels(tmp_path: Path, labels: pa.Array, expected: list[str | None]) -> None:
    source = open_source(save(tmp_path, {"photo": FILES[:3], "category": labels}))
    assert [item.label for item in source] == expected


def test_a_row_without_bytes_is_refused_alone(tmp_path: Path) -> None:
    values = pa.array([{"bytes": FILES[0]}, {"bytes": None}, None], STRUCT)
    good, *bad = open_source(save(tmp_path, {"image": values}))
    assert good.read() == FILES[0]
    for item in bad:
        with pytest.raises(ImageRefused) as caught:
            item.read()
        assert caught.value.reason == RefusalReason.EMPTY


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": ["a"]}, r"no column of image files among text \(string\); it must be binary"),
        (
            {"a": [b"x"], "b": [b"y"]},
            "2 columns of images: a, b; say which one with --image-column",
        ),
        ({"image": pa.array([], pa.binary())}, "holds no rows"),
    ],
)
def test_tables_that_are_no_source(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        open_source(save(tmp_path, columns))


@pytest.mark.parametrize("second", ["a", None])
def test_keys_that_are_missing_or_the_same_give_way_to_numbers(
    tmp_path: Path, second: str | None
) -> None:
    source = open_source(save(tmp_path, {"image": FILES[:2], "key": ["a", second]}))
    assert [item.key for item in source] == ["train-00/00000", "train-00/00001"]
    assert "rows go by their number: some keys in its key are" in passed_over(source).summary()


def test_labels_that_are_not_read_are_said(tmp_path: Path) -> None:
    for labels in ([0.5, 1.0], [[1], [2]]):
        source = open_source(save(tmp_path, {"image": FILES[:2], "label": labels}))
        assert source.classes == ()
        assert "labels in label are not read" in passed_over(source).summary()


def test_rows_with_a_path_and_no_bytes(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(FILES[number])
    paths = ["0.png", str(tmp_path / "1.png"), "2.png", "gone.png"]
    struct = pa.array([{"bytes": None, "path": path} for path in paths], STRUCT)
    for columns in ({"image": struct}, {"image": paths}, {"path": paths, "label": [1, 2, 3, 4]}):
        source = open_source(save(tmp_path, columns))
        *good, gone = source
        assert [item.read() for item in good] == FILES[:3]
        assert [read_uri(item.uri) for item in good] == FILES[:3]
        with pytest.raises(ImageRefused, match=r"gone\.png does not exist") as caught:
            gone.read()
        assert caught.value.reason == RefusalReason.UNREADABLE
        (tmp_path / "train-00.parquet").unlink()


def test_a_damaged_file(tmp_path: Path) -> None:
    path = save(tmp_path, {"image": [np.random.default_rng(n).bytes(3000) for n in range(64)]},
                row_group_size=32, compression="none", use_dictionary=False,
                write_page_checksum=True)  # fmt: skip
    whole = path.read_bytes()
    for cut in (len(whole) - 1, len(whole) // 2, 3):
        path.write_bytes(whole[:cut])
        with pytest.raises(SourceError, match=r"train-00\.parquet is not a readable Parquet file"):
            open_source(path)
    path.write_bytes(whole[:40] + bytes(80_000) + whole[80_040:])  # most of the first row group
    outcomes: list[object] = []
    for item in open_source(path):
        try:
            outcomes.append(len(item.read()))
        except ImageRefused as refused:
            outcomes.append(refused.reason)
    assert outcomes[32:] == [3000] * 32
    assert RefusalReason.UNREADABLE in outcomes[:32]


def test_uris_that_lead_nowhere(tmp_path: Path) -> None:
    path = save(tmp_path, {"image": FILES[:2]})
    for uri in (f"parquet://{path}#2", f"parquet://{path}#-1", f"parquet://{tmp_path}/no#0"):
        with pytest.raises(ImageRefused) as caught:
            read_uri(uri)
        assert caught.value.reason == RefusalReason.UNREADABLE


def test_without_pyarrow_the_error_says_what_to_install(tmp_path: Path) -> None:
    path = save(tmp_path, {"image": FILES[:2]})
    code = f"""
import sys
sys.modules["pyarrow"] = None
from base.errors import SourceError
from images.sources.sources import open_source
try:
    open_source({str(path)!r})
except SourceError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "needs pyarrow; pip install 'lookalike[serve]'" in done.stdout


@pytest.mark.parametrize(
    "kind",
    [pa.binary_view(), pa.dictionary(pa.int32(), pa.binary()), pa.list_(pa.binary()),
     pa.large_list(STRUCT), pa.list_(pa.binary(), 1),
     pa.struct([("bytes", pa.large_binary()), ("path", pa.string())])],
)  # fmt: skip
def test_types_of_image_columns(tmp_path: Path, kind: pa.DataType) -> None:
    values: list[Any] = list(FILES[:3])
    if "struct" in str(kind):
        values = [{"bytes": data, "path": None} for data in values]
    if "list" in str(kind):
        values = [[value] for value in values]
    if pa.types.is_dictionary(kind):
        column = pa.array(values).dictionary_encode()
    else:
        column = pa.array(values, kind)
    source = open_source(save(tmp_path, {"photos": column}))
    assert [item.read() for item in source] == FILES[:3]
    assert [read_uri(item.uri) for item in source] == FILES[:3]
    said = "of several images in a row the first is read" in passed_over(source).summary()
    assert said == ("list" in str(kind))


def test_columns_can_be_chosen(tmp_path: Path) -> None:
    columns = {"image": FILES[:2], "the mask@2": FILES[2:4], "label": ["a", "b"],
               "kind": ["c", "d"], "id": [7, 8], "key": ["k", "l"]}  # fmt: skip
    path = save(tmp_path, columns)
    source = open_source(path, columns=ColumnNames(image="the mask@2", label="kind", key="id"))
    assert [(item.key, item.label) for item in source] == [("7", "c"), ("8", "d")]
    assert [item.read() for item in source] == FILES[2:4]
    assert [read_uri(item.uri) for item in source] == FILES[2:4]
    joined = open_source(tmp_path / "*.parquet", columns=ColumnNames(label="kind"))
    assert [item.label for item in joined] == ["c", "d"]
    assert [item.read() for item in joined] == FILES[:2]


@pytest.mark.parametrize(
    ("requested", "message"),
    [
        (
            ColumnNames(image="photo"),
            r"the column photo of --image-column is not there; its columns: im",
        ),
        (ColumnNames(image="id"), "of --image-column cannot be used"),
        (ColumnNames(label="image"), "of --label-column cannot be used"),
        (ColumnNames(key="image"), "of --key-column cannot be used"),
    ],
)
def test_columns_that_cannot_be_chosen(
    tmp_path: Path, requested: ColumnNames, message: str
) -> None:
    path = save(tmp_path, {"image": FILES[:2], "id": [1, 2]})
    with pytest.raises(SourceError, match=message):
        open_source(path, columns=requested)


def test_columns_of_what_has_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(FILES[0])
    with pytest.raises(UsageError, match="not a Parquet file"):
        open_source(tmp_path, columns=ColumnNames(image="x"))


MEASURE = """
import sys
import pyarrow.parquet
from images.sources.sources import open_source

def peak():  # of this program alone, unlike ru_maxrss
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))

before = peak()
for item in open_source(sys.argv[1]):
    item.read()
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_large_row_group_behind_a_url_is_not_held_in_memory(tmp_path: Path) -> None:
    """320 MB of images in one row group: what is kept of them is 128 MiB at most."""
    table = pa.table({"image": [bytes(number) + b"x" * 400_000 for number in range(800)]})
    path = tmp_path / "large.parquet"
    pq.write_table(table, path, compression="none", use_dictionary=False, write_batch_size=16)
    assert pq.ParquetFile(path).metadata.num_row_groups == 1
    command = [sys.executable, "-c", MEASURE, f"local://{path}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert int(done.stdout) < 350
