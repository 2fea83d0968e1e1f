"""The same encoded images in every form that drorae reads: files, parquet, tar shards, arrow as `datasets` saves it."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

Encoded = Mapping[str, bytes]
"""By name."""
HUB_TYPE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
FORMS = {"folder": "", "parquet": ".parquet", "webdataset": ".tar", "datasets": ".arrow"}


def _shards(images: Encoded, count: int) -> Iterator[dict[str, bytes]]:
    names, size = list(images), -(-len(images) // count)
    for start in range(0, len(names), size):
        yield {name: images[name] for name in names[start : start + size]}


def table(images: Encoded, **columns: list[Any]) -> pa.Table:
    """Images in the struct column of a hub."""
    rows = [{"bytes": content, "path": name} for name, content in images.items()]
    return pa.table({"image": pa.array(rows, HUB_TYPE), **columns})


def write_tar(path: Path, members: Encoded) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def write_saved(folder: Path, tables: list[pa.Table]) -> None:
    """What `Dataset.save_to_disk` leaves, as far as it is read."""
    folder.mkdir(parents=True)
    names = [f"data-{number:05}-of-{len(tables):05}.arrow" for number in range(len(tables))]
    for name, part in zip(names, tables, strict=True):
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, part.schema) as writer:
            writer.write_table(part, max_chunksize=7)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))


class Said(NamedTuple):
    """What is said of images, by their names. Class folders say the labels of files."""

    labels: Mapping[str, Any]
    captions: Mapping[str, str] = {}
    classes: Sequence[str] = ()


def _said_table(images: Encoded, said: Said | None) -> pa.Table:
    if said is None:
        return table(images)
    columns = {"label": [said.labels.get(name) for name in images]} if said.labels else {}
    columns |= {"caption": [said.captions.get(name) for name in images]} if said.captions else {}
    features = {"image": {"_type": "Image"}, "label": {"names": list(said.classes), "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if said.classes else {}
    return table(images, **columns).replace_schema_metadata(metadata)


def _beside(images: Encoded, said: Said | None, is_tar: bool) -> dict[str, bytes]:
    """Images and the files beside them that say something of them."""
    members: dict[str, bytes] = {}
    for name, content in images.items():
        members[name] = content
        stem = name.rpartition(".")[0]
        if said and name in said.captions:
            members[f"{stem}.txt"] = f"{said.captions[name]}\n".encode()
        if said and is_tar and name in said.labels:
            members[f"{stem}.cls"] = f"{said.labels[name]}\n".encode()
    return members


def write_held(
    root: Path, source: str, splits: Mapping[str, Encoded], shards: int = 2, said: Said | None = None
) -> Path:
    """Writes splits in the form of a source, several shards each, and returns what `images.path` is to be."""
    root.mkdir(parents=True)
    for split, images in splits.items():
        if source == "folder":
            for name, content in _beside(images, said, False).items():
                (root / split / name).parent.mkdir(parents=True, exist_ok=True)
                (root / split / name).write_bytes(content)
            continue
        parts = list(_shards(images, shards))
        if source == "datasets":
            write_saved(root / split, [_said_table(part, said) for part in parts])
        for number, part in enumerate(parts):
            if source == "parquet":
                place = root / f"{split}-{number:05}-of-{len(parts):05}.parquet"
                pq.write_table(_said_table(part, said), place, row_group_size=7)
            elif source == "webdataset":
                write_tar(root / f"{split}-{number:06}.tar", _beside(part, said, True))
    if source == "datasets":
        (root / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    return root
