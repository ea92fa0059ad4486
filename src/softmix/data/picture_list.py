"""Lists of pictures with labels: csv, tsv, txt and jsonl files, and EDM's dataset.json."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from .entries import MAX_BYTES, Entry, Listing, file_entry
from .report import DataError, grouped, printable
from .request import SPLIT_NAMES, SPLITS, Request

LIST_SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl")
_PATHS = ("path", "file_name", "filename", "file", "filepath", "image", "image_path", "img")
_LABELS = ("label", "class", "class_name", "category", "target", "label_name")
_SPLITS = ("split", "subset", "partition")


@dataclass(frozen=True)
class ListedPicture:
    """A line of a list of pictures.

    path : the path of the picture.
    label, split : its label and split, or None.
    unused : the names of other columns.
    """

    path: str
    label: str | None = None
    split: str | None = None
    unused: tuple[str, ...] = ()


def read_picture_list(path: Path, request: Request) -> tuple[Listing, tuple[str, ...]]:
    """Read a list of pictures.

    A line is a path, relative to the list, and a label if there is one: `path,label` in a csv, with a tab in a tsv,
    with a comma, tab or space in a txt, {"path": ..., "label": ...} in a jsonl. A csv with a line of names, and a
    jsonl, may use other common names of columns (file_name, image, class ...). A column called split chooses among
    train, test and val.
    Returns (the pictures in the order of the list, notes). Raises DataError.
    """
    name = printable(path.name)
    rows = list(_rows(path, _text(path)))
    if not rows:
        raise DataError(f"{name} lists no pictures; give a line with a path, and a label if there is one, for each")
    has = {split for split in SPLITS if any(_split(row) == split for row in rows)}
    part = request.split_of(name, [split for split in SPLITS if split in has], "give a share to hold out")
    chosen = rows if part is None else [row for row in rows if _split(row) == part]
    notes = [f"{len(chosen)} of {len(rows)} lines are in the split {part}"] if part else []
    unused = sorted({key for row in rows for key in row.unused})
    if unused:
        notes.append(f"columns of {name} that were not used: {', '.join(map(printable, unused))}")
    files = [(row, file_entry(printable(row.path), path.parent / row.path, row.label)) for row in chosen]
    entries = [entry for _, entry in files if isinstance(entry, Entry)]
    skipped = [(printable(row.path), entry) for row, entry in files if isinstance(entry, str)]
    if not entries:
        raise DataError(
            f"{name} is a list of no kind that can be loaded: none of its {len(chosen)} lines names a file that can be "
            f"used ({'; '.join(grouped(skipped, 2))}); give a path, relative to the list, and a label in each line"
        )
    return Listing(entries, skipped), tuple(notes)


def listed_files(path: Path) -> list[Path]:
    """All files in a list, of all splits, whether they exist or not. Raises DataError as `read_picture_list` does."""
    return [path.parent / row.path for row in _rows(path, _text(path))]


def _split(row: ListedPicture) -> str | None:
    return None if row.split is None else SPLIT_NAMES.get(row.split.strip().lower())


def _text(path: Path) -> str:
    name = printable(str(path))
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{name} is larger than {MAX_BYTES} bytes; cut it up")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{name} cannot be read as a list of pictures ({error}); save it as text in UTF-8") from error


def _rows(path: Path, text: str) -> Iterator[ListedPicture]:
    kind = path.suffix.lower()
    if kind == ".jsonl":
        return _from_jsonl(path, text)
    if kind == ".txt":
        return (_from_line(path, line.strip()) for line in text.splitlines() if line.strip())
    return _from_csv(path, text, "\t" if kind == ".tsv" else ",")


def _from_line(path: Path, line: str) -> ListedPicture:
    """A line of a txt: a path with any characters, or a path and a label."""
    if _is_file(path.parent / line):
        return ListedPicture(line)
    for mark in ("\t", ",", None):
        parts = line.rsplit(mark, 1)
        if len(parts) == 2:
            return ListedPicture(parts[0].strip(), parts[1].strip() or None)
    return ListedPicture(line)


def _is_file(path: Path) -> bool:
    try:
        return os.path.isfile(path)
    except ValueError:
        return False


def _from_csv(path: Path, text: str, mark: str) -> Iterator[ListedPicture]:
    name = printable(path.name)
    try:
        lines = [line for line in csv.reader(text.splitlines(), delimiter=mark) if any(cell.strip() for cell in line)]
    except csv.Error as error:
        raise DataError(f"{name} cannot be read as a table ({error}); save it again") from error
    if not lines:
        return
    names = [cell.strip().lower() for cell in lines[0]]
    if _column(names, _PATHS) is not None and not _is_file(path.parent / lines[0][0]):
        for line in lines[1:]:
            yield _from_fields(dict(zip(names, line, strict=False)), name)
        return
    if max(map(len, lines)) > 2:
        raise DataError(
            f"{name} has {max(map(len, lines))} columns without names; begin it with a line such as path,label"
        )
    for line in lines:
        yield ListedPicture(line[0].strip(), (line[1].strip() or None) if len(line) > 1 else None)


def _from_jsonl(path: Path, text: str) -> Iterator[ListedPicture]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        where = f"{printable(path.name)}, line {number}"
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where} is not JSON ({error}); give one object a line") from error
        if not isinstance(fields, dict):
            raise DataError(f'{where} is not an object; give {{"path": ..., "label": ...}}')
        yield _from_fields({str(key).lower(): value for key, value in fields.items()}, where)


def _column(names: Any, known: tuple[str, ...]) -> str | None:
    return next((name for name in known if name in names), None)


def _from_fields(fields: dict[str, Any], where: str) -> ListedPicture:
    path, label, split = (_column(fields, known) for known in (_PATHS, _LABELS, _SPLITS))
    if path is None or not isinstance(fields[path], str):
        raise DataError(f"{where}: no path is given; call it path, and the label label")
    unused = tuple(key for key in fields if key not in (path, label, split))
    return ListedPicture(
        fields[path].strip(), _named(fields.get(label or ""), where), _named(fields.get(split or ""), where), unused
    )


def _named(value: Any, where: str) -> str | None:
    """A label as text. A whole number becomes its digits."""
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, int):
        return str(int(value))
    raise DataError(f"{where}: the label {printable(str(value)[:40])} is neither a whole number nor a name")


def with_edm_labels(listing: Listing) -> tuple[Listing, str]:
    """Add the labels of EDM's dataset.json to a listing.

    The file is {"labels": [["00000/img00000000.png", 6], ...]} in the folder of the pictures, or {"labels": null}.
    Returns (the listing with labels, a note), or (the listing, "") if there is no such file.
    Source: T. Karras et al., dataset_tool.py of EDM and StyleGAN. Raises DataError if the file is damaged.
    """
    index = next((entry for entry in listing.entries if PurePosixPath(entry.name).name == "dataset.json"), None)
    if index is None:
        return listing, ""
    try:
        with index.open() as stream:
            tree = json.loads(stream.read(MAX_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{index.name} cannot be read as JSON ({error}); remove it, or write it again") from error
    if not isinstance(tree, dict) or "labels" not in tree:
        return listing, ""
    rest = [entry for entry in listing.entries if entry is not index]
    if tree["labels"] is None:
        return replace(listing, entries=rest), f"{index.name} gives no labels, and subfolders are no classes"
    try:
        labels = {str(path): _named(label, index.name) for path, label in tree["labels"]}
    except (TypeError, ValueError) as error:
        sentence = f'{index.name}: its labels are not [["path", number], ...] ({error}); write it again'
        raise DataError(sentence) from error
    top = "".join(f"{part}/" for part in index.folders)
    given = [replace(entry, label=labels.get(entry.name.removeprefix(top))) for entry in rest]
    return replace(listing, entries=given), f"labels are those of {index.name}"
