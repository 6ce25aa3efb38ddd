"""Bundles open whole or not at all, and say in one line what is wrong."""

from __future__ import annotations

import shutil
import tomllib
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tomli_w

from pipeline import limits
from pipeline.bundle import Bundle, EdgeBundle, describe_bundle, verify_bundle, write_bundle
from pipeline.bundle.files import digest, sha256
from pipeline.bundle.manifest import parse_edge_spec, parse_manifest
from pipeline.bundle.writing import to_toml
from pipeline.codec.contexts import parse_contexts
from pipeline.errors import BundleError
from tests.bundles import backbone, edge_spec, random_bundle, random_head, stem_onnx, tables


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "random"
    random_bundle(folder)
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


def refused(path: Path) -> str:
    """The line with which `path` is refused."""
    with pytest.raises(BundleError) as caught:
        Bundle.open(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_codec_id_covers_the_edge_half_only(made: Path) -> None:
    """codec_id is the hash over path and hash of each file of edge/, and nothing else."""
    lines = [(f"edge/{path.name}", sha256(path.read_bytes())) for path in (made / "edge").iterdir()]
    assert digest(lines) == Bundle.open(made).codec_id


def test_new_heads_leave_the_codec_id(tmp_path: Path) -> None:
    """A server's new heads make another bundle for the same edges."""
    one = random_bundle(tmp_path / "one")
    two = random_bundle(tmp_path / "two", tasks=("food101",))
    assert one.codec_id == two.codec_id
    assert one.bundle_id != two.bundle_id


def test_folder_and_zip_are_the_same_bundle(made: Path, tmp_path: Path) -> None:
    """A bundle may come as a folder or as a .zip of it."""
    archive = shutil.make_archive(str(tmp_path / "bundle"), "zip", made)
    assert Bundle.open(archive).bundle_id == Bundle.open(made).bundle_id


def test_heads_of_a_backbone(made: Path) -> None:
    """Heads are found by tag and by alias; their arrays come as float32."""
    bundle = Bundle.open(made)
    assert [head.task for head in bundle.heads("lite2")] == ["cifar100", "flowers102", "food101"]
    weight, bias = bundle.head_arrays(bundle.heads()[2])
    assert (weight.shape, bias.shape, weight.dtype) == ((101, 1280), (101,), np.float32)


def test_unknown_backbone_names_the_known_ones(made: Path) -> None:
    """The error says what there is."""
    with pytest.raises(BundleError, match="backbone 'resnet' is not in this bundle: choose one of lite0, lite2"):
        Bundle.open(made).backbone("resnet")


def test_operating_points_by_name(made: Path) -> None:
    """Empty means the default; an unknown one names those there are."""
    spec = Bundle.open(made).edge_spec
    assert (spec.operating_point_index(), spec.operating_point_index("high")) == (1, 2)
    with pytest.raises(BundleError, match="choose one of low, standard, high"):
        spec.operating_point_index("best")


def test_sticky_thresholds_come_with_the_operating_points(copy: Path, tmp_path: Path) -> None:
    """A bundle of before has none: off. One out of range is refused."""
    old = Bundle.open(copy)
    lines = old.read("edge/spec.toml").decode().splitlines(keepends=True)
    spec = parse_edge_spec("".join(line for line in lines if "sticky" not in line).encode())
    assert [point.sticky_threshold for point in spec.operating_points] == [0.0] * 3
    points = [msgspec.structs.replace(point, sticky_threshold=1.25) for point in spec.operating_points]
    files = {"analysis.onnx": old.read_edge("analysis.onnx"), "tables.msgpack": old.read_edge("tables.msgpack")}
    new = write_bundle(
        tmp_path / "new", name="new", edge_spec=msgspec.structs.replace(spec, operating_points=points), edge_files=files
    )
    assert [point.sticky_threshold for point in new.latent_spec.operating_points] == [1.25] * 3
    spec_file = tmp_path / "new" / "edge" / "spec.toml"
    spec_file.write_text(spec_file.read_text().replace("sticky_threshold = 1.25", "sticky_threshold = 25.0"))
    with pytest.raises(BundleError, match="sticky_threshold"):
        parse_edge_spec(spec_file.read_bytes())


def test_missing_bundle(tmp_path: Path) -> None:
    """No such path."""
    assert "is not there" in refused(tmp_path / "nothing")


def test_folder_without_manifest(tmp_path: Path) -> None:
    """Some other folder."""
    (tmp_path / "notes.txt").write_text("hello")
    assert "has no manifest.toml at its top" in refused(tmp_path)


def test_missing_file(copy: Path) -> None:
    """A file that the manifest lists is gone."""
    (copy / "edge" / "analysis.onnx").unlink()
    assert "lacks edge/analysis.onnx, which manifest.toml lists" in refused(copy)


def test_truncated_file(copy: Path) -> None:
    """A file is shorter than it was written."""
    path = copy / "edge" / "analysis.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    assert "edge/analysis.onnx is" in refused(copy)


def test_corrupt_file(copy: Path) -> None:
    """One bit is enough."""
    path = copy / "edge" / "analysis.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert "edge/analysis.onnx is damaged" in refused(copy)


def test_stray_file(copy: Path) -> None:
    """A file that the manifest does not list would be outside every id."""
    (copy / "heads" / "more.toml").write_text("")
    assert "holds heads/more.toml, which manifest.toml does not list" in refused(copy)


def test_texts_for_people_may_lie_beside(copy: Path) -> None:
    """A README or LICENSES at the top, and hidden files, are nobody's business."""
    (copy / "README.md").write_text("hello")
    (copy / "edge" / ".DS_Store").write_text("")
    Bundle.open(copy)


def test_mismatching_codec_id(copy: Path) -> None:
    """manifest.toml of another bundle."""
    path = copy / "manifest.toml"
    text = path.read_text()
    start = text.index('codec_id = "') + len('codec_id = "')
    path.write_text(text[:start] + "0" * 64 + text[start + 64 :])
    assert "manifest.toml says 000000000000…" in refused(copy)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("format = 1", "format = 9", "has format 9, this version reads 1"),
        ("format = 1", "format = [", "manifest.toml does not read"),
        ("format = 1", f"format = {'9' * 5000}", "manifest.toml does not read"),
        ("format = 1", f"format = 0x{'f' * 5000}", "manifest.toml does not read"),
        ('name = "random"', "name = 3", "Expected `str`, got `int`"),
    ],
)
def test_manifest_that_does_not_read(copy: Path, old: str, new: str, line: str) -> None:
    """Broken TOML, wrong types and other format versions."""
    path = copy / "manifest.toml"
    path.write_text(path.read_text().replace(old, new, 1))
    assert line in refused(copy)


@pytest.mark.parametrize(("size", "stride"), [(4096, 1), (257, 1), (4096, 8)])
def test_latents_that_no_codec_takes(size: int, stride: int) -> None:
    """What every frame would be refused for is refused when the bundle is opened."""
    spec = edge_spec()
    latent, preprocess = spec.latent, spec.preprocess
    large = msgspec.structs.replace(
        spec,
        latent=msgspec.structs.replace(latent, stride=stride),
        preprocess=msgspec.structs.replace(preprocess, size=size),
    )
    with pytest.raises(BundleError, match=f"48 channels of {size // stride}x{size // stride} symbols"):
        parse_edge_spec(to_toml(large))


def test_latents_of_too_many_symbols() -> None:
    """Sides within the limit do not help where the channels are too many."""
    spec = edge_spec()
    points = [msgspec.structs.replace(point, gain=[1.0] * 128, offset=[0.0] * 128) for point in spec.operating_points]
    latent = msgspec.structs.replace(spec.latent, channels=128, stride=1, layers=[128])
    preprocess = msgspec.structs.replace(spec.preprocess, size=200)
    large = msgspec.structs.replace(spec, latent=latent, preprocess=preprocess, operating_points=points)
    with pytest.raises(BundleError, match=f"128 channels of 200x200 symbols, .* {limits.LATENT_SYMBOLS_MAX} in all"):
        parse_edge_spec(to_toml(large))


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    ("table", "field"),
    [
        ("analysis", "int8_extra_loss_points = {}"),
        ("analysis", "int8_extra_bytes_percent = {}"),
        ("operating_points", "bytes_mean = {}"),
        ("operating_points", "loss_points = {}"),
        ("operating_points", "layer_loss_points = [0.5, {}]"),
    ],
)
def test_figures_of_the_edge_half_are_finite(number: str, table: str, field: str) -> None:
    """nan is neither more nor less than any limit: int8 with such a loss would count as good enough."""
    spec = tomllib.loads(to_toml(edge_spec()).decode())
    row = spec[table][1] if table == "operating_points" else spec[table]
    row |= tomllib.loads(field.format(number))
    with pytest.raises(BundleError, match=f"Expected `float` .* at `.*{field.split()[0]}"):
        parse_edge_spec(tomli_w.dumps(spec).encode())


def test_whole_numbers_beyond_64_bits_are_refused() -> None:
    """Also where any value may stand: such a number cannot even be named in an error."""
    spec = to_toml(edge_spec()).replace(b'kind = "reference"', b"kind = 0x" + b"f" * 5000)
    with pytest.raises(BundleError, match=r"edge/spec\.toml does not read"):
        parse_contexts(parse_edge_spec(spec).contexts, [6] * 8)


@pytest.mark.parametrize("distribution", ["edges = [nan]", "edges = [1.0, inf]", "shares = [nan, 0.5]"])
def test_reference_figures_are_finite(made: Path, distribution: str) -> None:
    """A yardstick without a number measures nothing."""
    manifest = tomllib.loads((made / "manifest.toml").read_text())
    whole = {"edges": [1.0], "shares": [0.5, 0.5]} | tomllib.loads(distribution)
    manifest["reference"] = {"photos": "some", "count": 9, "payload_bytes": {"low": whole}}
    with pytest.raises(BundleError, match="Expected `float`"):
        parse_manifest(tomli_w.dumps(manifest).encode())


def test_link_to_outside(copy: Path, tmp_path: Path) -> None:
    """A folder may not borrow files from elsewhere."""
    outside = tmp_path / "outside.onnx"
    outside.write_bytes(b"x")
    (copy / "edge" / "analysis.onnx").unlink()
    (copy / "edge" / "analysis.onnx").symlink_to(outside)
    assert "is a link to outside the bundle" in refused(copy)


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "edge/../../evil", "edge\\..\\evil", "C:/evil", "edge//x"])
def test_zip_with_paths_outside(tmp_path: Path, name: str) -> None:
    """An archive's paths are never trusted."""
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, "x")
    assert "a path outside the bundle" in refused(path)


def test_zip_bomb(tmp_path: Path) -> None:
    """A small archive that unpacks to much is refused by what it announces."""
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("edge/zeros", b"\0" * (limits.BUNDLE_FILE_BYTES_MAX + 1))
    assert path.stat().st_size < 100_000
    assert f"limit {limits.BUNDLE_FILE_BYTES_MAX}" in refused(path)


def test_zip_that_lies_about_a_size(tmp_path: Path) -> None:
    """An archive that announces little and unpacks to more is refused without unpacking it all."""
    path = tmp_path / "liar.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("edge/zeros", b"\0" * 1_000_000)
    data = path.read_bytes().replace((1_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    path.write_bytes(data)
    refused(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_packed_in_another_way(tmp_path: Path, method: int) -> None:
    """Stored and deflated only: others fail in ways of their own, sound or not."""
    path = tmp_path / "strange.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("edge/x", b"hello " * 99)
    assert f"edge/x is packed with method {method}, expected 0 or 8" in refused(path)


def test_nothing_is_unpacked_of_an_archive_that_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the last entry announces counts before the first one is read."""
    path = tmp_path / "large.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("edge/small", "x")
        archive.writestr("edge/large", b"\0" * (limits.BUNDLE_FILE_BYTES_MAX + 1))
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *arguments: pytest.fail("unpacks"))
    assert f"limit {limits.BUNDLE_FILE_BYTES_MAX}" in refused(path)


def test_zip_with_a_file_without_name(tmp_path: Path) -> None:
    """zipfile raises IndexError for it, before Python 3.13."""
    path = tmp_path / "nameless.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", "hello")
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02")
    data[at + 28 : at + 32] = (0).to_bytes(2, "little") + (1).to_bytes(2, "little")  # the name is an extra field
    path.write_bytes(data)
    refused(path)


def test_zip_with_too_many_files(tmp_path: Path) -> None:
    """A bundle has a few dozen files."""
    path = tmp_path / "many.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(limits.BUNDLE_FILES_MAX + 1):
            archive.writestr(f"edge/{number}", "")
    assert f"more than {limits.BUNDLE_FILES_MAX} files" in refused(path)


@pytest.mark.parametrize("keep", [0, 1, 100, 5000, -30])
def test_cut_zip(made: Path, tmp_path: Path, keep: int) -> None:
    """A download that broke off."""
    archive = Path(shutil.make_archive(str(tmp_path / "bundle"), "zip", made))
    archive.write_bytes(archive.read_bytes()[:keep])
    assert "is damaged or no .zip" in refused(archive)


@pytest.mark.parametrize("rank", [0, 2, 5])
def test_encoder_with_an_output_of_another_rank(tmp_path: Path, rank: int) -> None:
    """`frankenstream bundle verify` says so in its own words."""
    import onnx
    from onnx import TensorProto, helper

    shape = [1, 48, 28, 28, 1][:rank]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 224, 224])
    latent = helper.make_tensor_value_info("latent", TensorProto.FLOAT, shape)
    zeros = helper.make_tensor("zeros", TensorProto.FLOAT, shape, [0.0] * int(np.prod(shape)))
    node = helper.make_node("Constant", [], ["latent"], value=zeros)
    graph = helper.make_graph([node], "flat", [image], [latent])
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    write_bundle(
        tmp_path / "flat", name="flat", edge_spec=edge_spec(),
        edge_files={"analysis.onnx": model.SerializeToString(), "tables.msgpack": tables()},
    )  # fmt: skip
    with pytest.raises(BundleError, match=r"edge/analysis.onnx gives latents of \(.*\), edge/spec.toml says \(48, 28"):
        verify_bundle(tmp_path / "flat")


def test_head_that_does_not_fit(tmp_path: Path) -> None:
    """A head for another feature width is refused when it is read, with both shapes."""
    rng = np.random.default_rng(0)
    entry, weight, bias = random_head("food101", backbone("tf_efficientnet_lite0", pooled_width=7), rng)
    bundle = write_bundle(
        tmp_path / "bundle", name="misfit", edge_spec=edge_spec(),
        edge_files={"analysis.onnx": stem_onnx(rng), "tables.msgpack": tables()},
        backbones=[backbone("tf_efficientnet_lite0")], synthesis={"tf_efficientnet_lite0": b"x"},
        heads=[(entry, weight, bias)],
    )  # fmt: skip
    with pytest.raises(BundleError, match=r"weight \(101, 7\) and bias \(101,\) do not fit 101 classes and 1280"):
        bundle.head_arrays(bundle.heads()[0])


def test_failed_write_leaves_the_old_bundle(copy: Path) -> None:
    """write_bundle replaces a bundle in one step or not at all."""
    before = Bundle.open(copy).bundle_id
    backbones = [backbone("tf_efficientnet_lite0")]
    with pytest.raises(BundleError, match="no synthesis for backbone"):
        write_bundle(copy, name="x", edge_spec=edge_spec(), edge_files={}, backbones=backbones)
    assert Bundle.open(copy).bundle_id == before
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


def test_edge_half_packs_to_equal_bytes(made: Path) -> None:
    """Two servers hand out the same bytes, so a fetch can go on at another one; it opens as what it was."""
    bundle = Bundle.open(made)
    packed = bundle.pack_edge()
    assert packed == Bundle.open(made).pack_edge()
    assert EdgeBundle.from_zip(packed).codec_id == bundle.codec_id


def test_description_and_verification(made: Path) -> None:
    """What `frankenstream bundle` prints."""
    facts = describe_bundle(Bundle.open(made))
    assert [point["name"] for point in facts["operating_points"]] == ["low", "standard", "high"]
    assert len(facts["heads"]) == 6
    assert any("head food101 on lite0: 101 classes fit" in line for line in verify_bundle(made))
