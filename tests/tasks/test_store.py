"""Users' heads in the home folder: whole versions or none, one writer at a time, nothing lost."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from pipeline import limits
from pipeline.bundle import Bundle
from pipeline.bundle.writing import to_toml
from pipeline.errors import BundleError, ConfigError, InputError
from tasks import store as store_module
from tasks.example_store import Examples, ExampleStore, label_text
from tasks.head_file import HeadFile, HeadFiles, check_made_for, pack_head, read_head, read_head_entry, synthesis_sha256
from tasks.store import HeadStore, task_name
from tests.bundles import backbone, random_bundle
from tests.tasks.examples import ORIGIN, WIDTH, clusters


def head(value: float = 1.0, *, name: str = "birds", on: str = "null", **fields: Any) -> HeadFiles:
    entry = HeadFile(task=name, backbone=on, classes=2, labels=name, names=["鳥", "wren"], **fields)
    return pack_head(entry, {"weight": np.full((2, WIDTH), value, np.float32), "bias": np.zeros(2, np.float32)})


def only_toml(path: Path, read: Callable[[Path], bytes] = Path.read_bytes) -> bytes:
    """In the place of Path.read_bytes: arrays are not read."""
    assert path.suffix == ".toml"
    return read(path)


@pytest.fixture
def store(tmp_path: Path) -> HeadStore:
    return HeadStore(tmp_path / "heads")


def test_versions_come_and_are_rolled_back(store: HeadStore) -> None:
    """Each save is a version; an older one is taken back, forwards too; the very same heads are no new version."""
    assert [store.save("birds", [head(1)]), store.save("birds", [head(2)]), store.save("birds", [head(2)])] == [1, 2, 2]
    assert store.roll_back("birds") == 1
    assert store.load("birds") == [head(1).with_version(1)]
    assert store.save("birds", [head(2)]) == 2
    assert store.roll_back("birds", 1) == 1
    with pytest.raises(ConfigError, match="no version before 1"):
        store.roll_back("birds")
    with pytest.raises(ConfigError, match="has no version 9: there are versions 1, 2"):
        store.roll_back("birds", 9)


def test_what_heads_are_is_told_without_their_arrays(store: HeadStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of tasks need not read 64 MB a head; one whose arrays are gone is told all the same."""
    store.save("birds", [head(), head(on="null2")])
    store.save("birds", [head(2, accuracy_codec=90.0)])
    monkeypatch.setattr(Path, "read_bytes", only_toml)
    assert [(entry.backbone, entry.accuracy_codec) for entry in store.entries("birds")] == [("null", 90.0)]
    assert [entry.backbone for entry in store.entries("birds", 1)] == ["null", "null2"]
    (store.place("birds") / "2" / "null.safetensors").unlink()
    with pytest.raises(BundleError, match=r"null\.safetensors cannot be read: No such file .*: roll back or add"):
        store.entries("birds")


def test_a_removed_task_comes_back(store: HeadStore) -> None:
    store.save("birds", [head()])
    store.remove("birds")
    assert (store.names(), store.versions("birds")) == ([], [1])
    with pytest.raises(ConfigError, match="is removed: there are versions 1"):
        store.load("birds")
    assert store.roll_back("birds") == 1
    store.purge("birds")
    with pytest.raises(ConfigError, match="there is no task 'birds' of yours: you have none"):
        store.roll_back("birds")


def test_old_versions_go(store: HeadStore) -> None:
    """Bounded on the disk."""
    for number in range(limits.TASK_VERSIONS_KEPT + 3):
        store.save("birds", [head(number)])
    assert store.versions("birds") == list(range(4, limits.TASK_VERSIONS_KEPT + 4))


@pytest.mark.parametrize("damaged", ["null.toml", "null.safetensors"])
def test_a_damaged_version_keeps_no_new_one_out(store: HeadStore, damaged: str) -> None:
    """Adding again is what its error line advises."""
    store.save("birds", [head(1)])
    store.save("birds", [head(2)])
    path = store.place("birds") / "1" / damaged
    path.unlink()
    if path.suffix == ".toml":
        path.write_bytes(b"\xff")
    assert [store.save("birds", [head(3)]), store.save("birds", [head(1)]), store.save("birds", [head(2)])] == [3, 4, 2]


def test_a_number_that_leaves_no_room_is_refused(store: HeadStore) -> None:
    with pytest.raises(ConfigError, match="task birds has version 2147483647, limit 1000000000: take a lower number"):
        store.save("birds", [head()], version=2**31 - 1)
    assert store.versions("birds") == []
    assert store.save("birds", [head(1)], version=limits.TASK_VERSION_MAX) == limits.TASK_VERSION_MAX
    assert store.save("birds", [head(2)]) == limits.TASK_VERSION_MAX + 1
    assert read_head_entry(store.load("birds")[0].toml).version == limits.TASK_VERSION_MAX + 1


def test_a_full_disk_leaves_the_version_before(store: HeadStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.save("birds", [head(1)])

    def full(path: Path, data: bytes) -> None:
        path.write_bytes(data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "_write_through", full)
        with pytest.raises(ConfigError, match="No space left on device: free some space"):
            store.save("birds", [head(2)])
    assert (store.current("birds"), store.versions("birds")) == (1, [1])
    assert store.load("birds") == [head(1).with_version(1)]
    assert store.save("birds", [head(2)]) == 2


def test_a_second_writer_is_told_who_writes(store: HeadStore) -> None:
    """At once; and after the first has ended, however it did, the second may."""
    code = (
        "import sys; from pathlib import Path; from tasks.store import HeadStore\n"
        "with HeadStore(Path(sys.argv[1])).lock('birds'): print('locked', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(store.folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], text=True, **pipes) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        told = f"birds is being written by another process .process {other.pid}."
        with pytest.raises(ConfigError, match=told), store.lock("birds"):
            pass
        with store.lock("fish"):
            pass
        other.kill()
    with store.lock("birds"):
        pass


@pytest.mark.parametrize("name", ["птицы", "鳥", "Vögel im Garten", "a" * 128, "été"])
def test_names_in_any_script(name: str, store: HeadStore) -> None:
    store.save(name, [head(name=name)])
    assert store.names() == [task_name(name)]
    assert read_head_entry(store.load(name)[0].toml).names == ["鳥", "wren"]


@pytest.mark.parametrize("name", ["", " birds", ".birds", "-birds", "a/b", "a@b", "a,b", "a\nb", "a" * 129, "鳥" * 100])
def test_names_that_no_folder_or_list_can_carry(name: str) -> None:
    with pytest.raises(ConfigError, match="task name"):
        task_name(name)


def test_folders_that_are_no_task_are_left_alone(store: HeadStore) -> None:
    """What network drives put between them."""
    store.save("birds", [head()])
    for stranger in ("@eaDir", "a,b", ".hidden"):
        (store.folder / stranger / "1").mkdir(parents=True)
        (store.folder / stranger / "current").write_text("1\n")
    assert (store.names(), store.all_names()) == (["birds"], ["birds"])


def test_decomposed_names_are_the_same(store: HeadStore) -> None:
    """As some systems write them in folders."""
    assert task_name("Vo\u0308gel") == "Vögel"


# --- Head files ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    only = backbone("null", alias="", pooled_width=WIDTH, default=True)
    return random_bundle(tmp_path_factory.mktemp("heads") / "bundle", backbones=(only,), tasks=())


def test_a_head_for_another_bundle_is_refused_with_the_reason(bundle: Bundle) -> None:
    good = {"codec_id": bundle.codec_id, "synthesis_sha256": synthesis_sha256(bundle, bundle.backbone())}
    check_made_for(read_head_entry(head(**good).toml), bundle)
    for change, line in (
        ({"codec_id": "0" * 64}, "its codec is 000000000000, here it is"),
        ({"synthesis_sha256": "0" * 64}, "its decoder is 000000000000"),
        ({"on": "resnet50"}, "for backbone 'resnet50', this bundle has null"),
    ):
        with pytest.raises(BundleError, match=line):
            check_made_for(read_head_entry(head(**{**good, **change}).toml), bundle)


def test_half_precision_only_where_it_holds() -> None:
    """Large values stay what they are."""
    files = head(1e6)
    assert float(
        read_head(files, backbone="null", feature_width=WIDTH).logits(np.ones((1, WIDTH), np.float32))[0, 0]
    ) == (pytest.approx(1e6 * WIDTH))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"kind": "forest"}, "of kind 'forest', this version knows linear, mlp, nearest, map"),
        ({"kind": "mlp"}, "does not read: 'inner'"),
        ({"classes": 20_000}, "20000 classes, limit 10000"),
        ({"unknown_threshold": 0.5}, "does not read: 'unknown_centre'"),
        ({"title": "t" * 129}, r"of length <= 128 - at `\$\.title`"),
        ({"names": ["a", "b" * 129]}, r"of length <= 128 - at `\$\.names\[1\]`: make the head again"),
        ({"kind": "nearest", "settings": {"k": np.inf}}, r"<= 1000000000000.0 - at `\$\.settings\[\.\.\.\]`"),
        ({"kind": "nearest", "settings": {"k": np.nan}}, r"at `\$\.settings\[\.\.\.\]`"),
    ],
)
def test_files_that_do_not_read(change: dict[str, Any], line: str) -> None:
    files = head()
    entry = msgspec.structs.replace(read_head_entry(files.toml), **change)
    with pytest.raises(BundleError, match=line):
        read_head(HeadFiles(to_toml(entry), files.arrays), backbone="null", feature_width=WIDTH)


# --- Examples --------------------------------------------------------------------------------------------------


def test_examples_add_up(tmp_path: Path) -> None:
    """Pictures and captures together, classes joined by name, groups kept apart; a new add replaces the pictures."""
    store = ExampleStore(tmp_path)
    store.save_pictures(clusters(2), ORIGIN)
    store.save_pictures(clusters(3), ORIGIN)
    store.save_capture("class 1", clusters().pooled_MD[:5], ORIGIN)
    store.save_capture("кружка", clusters().pooled_MD[:7], ORIGIN)
    examples, strange = store.load(ORIGIN)
    assert examples is not None
    assert (strange, examples.counts()) == ([], {"class 0": 12, "class 1": 17, "class 2": 12, "кружка": 7})
    assert store.counts(ORIGIN) == examples.counts()
    assert list(store.counts(ORIGIN)) == list(examples.counts())
    assert store.forget("кружка") == 1
    assert "кружка" not in store.load(ORIGIN)[0].counts()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("value", "line"), [(1e5, "reach 100000, limit 65504: nothing is kept"), (np.nan, "reach nan")]
)
def test_features_that_cannot_be_kept_are_refused(tmp_path: Path, value: float, line: str) -> None:
    """Before they are written: later they would keep the whole task from being taught."""
    store = ExampleStore(tmp_path)
    with pytest.raises(InputError, match=line):
        store.save_capture("cup", np.full((9, WIDTH), value, np.float32), ORIGIN)
    assert store.load(ORIGIN) == (None, [])


def test_examples_of_another_bundle_are_left_aside_and_named(tmp_path: Path) -> None:
    store = ExampleStore(tmp_path)
    store.save_capture("cup", clusters().pooled_MD[:5], msgspec_replace_origin("d" * 64))
    assert store.load(ORIGIN) == (None, ["capture-0001.null.safetensors"])
    assert store.counts(ORIGIN) == {}


def msgspec_replace_origin(codec_id: str) -> Any:
    return replace(ORIGIN, codec_id=codec_id)


@pytest.mark.parametrize("text", ["blue mug", " blue  mug\n", "blue\tmug"])
def test_one_label_is_one_class(text: str) -> None:
    """However the spaces were typed, on the command line or on the page."""
    assert label_text(text) == "blue mug"


@pytest.mark.parametrize("text", ["", "   ", "a\x00b", "x" * 129])
def test_no_label(text: str) -> None:
    with pytest.raises(ConfigError, match="label is"):
        label_text(text)


def test_damaged_examples_are_named(tmp_path: Path) -> None:
    (tmp_path / "capture-0001.null.safetensors").write_bytes(b"junk")
    with pytest.raises(InputError, match=r"capture-0001\.null\.safetensors do not read"):
        ExampleStore(tmp_path).load(ORIGIN)
    with pytest.raises(InputError, match=r"capture-0001\.null\.safetensors do not read"):
        ExampleStore(tmp_path).counts(ORIGIN)


def test_whole_captures_are_held_out_and_stay_together(tmp_path: Path) -> None:
    """The latest of several; of an only one the last frames, and its folds are stretches of time."""
    store = ExampleStore(tmp_path)
    for label in ("cup", "cup", "pen", "cup"):
        store.save_capture(label, clusters().pooled_MD[:10], ORIGIN)
    examples = store.load(ORIGIN)[0]
    assert examples is not None
    assert examples.labels_M.tolist() == [0] * 20 + [1] * 10 + [0] * 10
    assert examples.held_out_M.tolist() == [False] * 28 + [True] * 12
    blocks = examples.blocks(~examples.held_out_M)
    assert [len(set(blocks[rows].tolist())) for rows in (slice(10), slice(10, 20), slice(20, 28))] == [1, 1, 5]
    assert (np.diff(blocks[20:]) >= 0).all()
    assert len(set(blocks.tolist())) == 7
    alone = examples.blocks((examples.labels_M == 0) & (np.arange(40) < 10))
    assert len(set(alone.tolist())) == 5, "of two captures one is held out: the other is divided"


def test_pictures_and_a_capture_of_one_label(tmp_path: Path) -> None:
    """Views of a picture stay together, and so do the frames."""
    store = ExampleStore(tmp_path)
    store.save_pictures(replace(clusters(2), groups_M=np.arange(24) // 2), ORIGIN)
    store.save_capture("class 1", clusters().pooled_MD[:5], ORIGIN)
    examples = store.load(ORIGIN)[0]
    assert examples is not None
    blocks = examples.blocks(np.ones(29, bool))
    assert (blocks[:24:2] == blocks[1:24:2]).all()
    assert np.unique(blocks, return_counts=True)[1].tolist() == [2] * 12 + [5]


def test_joined_groups_stay_apart() -> None:
    joined = Examples.joined([clusters(2), clusters(2)])
    assert len(np.unique(joined.groups_M)) == len(joined)
