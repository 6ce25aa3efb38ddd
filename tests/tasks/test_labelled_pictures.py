"""Which pictures there are, what their classes are called, which are held out."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import InputError
from tasks.labelled_pictures import find_pictures


def folder(place: Path, names: list[str]) -> Path:
    for name in names:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(b"x")
    return place


def test_a_fifth_of_each_class_is_held_out_always_the_same(tmp_path: Path) -> None:
    place = folder(tmp_path, [f"{kind}/{i}.jpg" for kind in "ab" for i in range(10)] + ["c/1.jpg"])
    found = find_pictures(place)
    assert (found.classes, found.counts()) == (("a", "b", "c"), [10, 10, 1])
    held = {picture.item.name for picture in found.pictures if picture.held_out}
    assert sorted(name[0] for name in held) == ["a", "a", "b", "b"]
    folder(place, ["a/11.jpg"])
    again = {picture.item.name for picture in find_pictures(place).pictures if picture.held_out}
    assert len(held & again) >= 3


def test_own_splits_are_kept(tmp_path: Path) -> None:
    place = folder(tmp_path, ["train/a/1.jpg", "train/b/2.jpg", "val/a/3.jpg", "val/b/4.jpg"])
    assert {p.item.name: p.held_out for p in find_pictures(place).pictures} == {
        "train/a/1.jpg": False, "train/b/2.jpg": False, "val/a/3.jpg": True, "val/b/4.jpg": True,
    }  # fmt: skip


OUTSIDE = ("1 pictures lie outside any class and are left aside",)


@pytest.mark.parametrize(("strange", "notes"), [("cover.png", OUTSIDE), (".thumbs/x.png", ())])
def test_own_splits_are_kept_beside_strangers(tmp_path: Path, strange: str, notes: tuple[str, ...]) -> None:
    names = [f"{split}/{kind}/{i}.png" for split in ("train", "val") for kind in "ab" for i in range(5)]
    found = find_pictures(folder(tmp_path, [*names, strange]))
    assert {p.item.name for p in found.pictures if p.held_out} == {name for name in names if name[0] == "v"}
    assert (len(found.pictures), found.classes, found.notes) == (20, ("a", "b"), notes)


@pytest.mark.parametrize(("held", "count"), [("test", 2), ("val", 2), ("", 4)])
def test_a_table_with_a_split(tmp_path: Path, held: str, count: int) -> None:
    """Each picture is there once; held out are val's or test's, a fifth where some rows are of no split."""
    rows = [f"{kind}/{i}.jpg,{kind},{held if i == 9 else 'train'}" for kind in "ab" for i in range(10)]
    (folder(tmp_path, [row.split(",")[0] for row in rows]) / "labels.csv").write_text(
        "\n".join(["path,label,split", *rows])
    )
    found = find_pictures(tmp_path)
    assert (found.counts(), sum(picture.held_out for picture in found.pictures)) == ([10, 10], count)
    assert len({picture.item.name for picture in found.pictures}) == 20


def test_a_table_with_numbers(tmp_path: Path) -> None:
    """Classes are called by their numbers, those that are there."""
    folder(tmp_path, ["1.jpg", "2.jpg", "3.jpg"])
    (tmp_path / "labels.csv").write_text("path,label\n1.jpg,17\n2.jpg,4\n3.jpg,17\n")
    found = find_pictures(tmp_path)
    assert (found.classes, found.counts()) == (("17", "4"), [2, 1])


def test_a_table_of_pictures_above_it(tmp_path: Path) -> None:
    """`..` is no hidden folder."""
    folder(tmp_path, ["a/1.jpg", "b/1.jpg", "lists/x"])
    (tmp_path / "lists" / "some.csv").write_text("path,label\n../a/1.jpg,a\n../b/1.jpg,b\n")
    assert find_pictures(tmp_path / "lists" / "some.csv").classes == ("a", "b")


def test_decomposed_and_composed_names_are_one_class(tmp_path: Path) -> None:
    """As copied from a system that writes them apart."""
    place = folder(tmp_path, ["Vo\u0308gel/1.jpg", "Vögel/2.jpg", "Fische/3.jpg", "two  fish/4.jpg", "two fish/5.jpg"])
    assert find_pictures(place).classes == ("Fische", "Vögel", "two fish")


def test_at_most_so_many_of_each_class(tmp_path: Path) -> None:
    place = folder(tmp_path, [f"{kind}/{i}.jpg" for kind in "ab" for i in range(30)])
    found = find_pictures(place, pictures_max=10)
    assert (found.counts(), sum(picture.held_out for picture in found.pictures)) == ([10, 10], 4)


def test_what_has_no_labels(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no labelled pictures: expected a folder for each class"):
        find_pictures(folder(tmp_path, ["1.jpg", "2.jpg"]))
