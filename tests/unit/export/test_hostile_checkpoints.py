"""Files that were damaged or made to harm: each is refused with a sentence before it takes memory, time or trust."""

import bz2
import gzip
import json
import lzma
import os
import random
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from contract.client import ClientSpec
from contract.errors import CheckpointError, OutputError
from export.checkpoints import (
    nemo,
    onnx_description,
    onnx_file,
    plain_files,
    plain_yaml,
    resemblyzer,
    token_files,
    transformers,
    transformers_folder,
    weights,
    wenet,
)
from export.checkpoints.tar_archive import open_archive
from tests.unit.export import foreign, onnx_networks
from tests.unit.export import wenet as wenet_fixtures

NEMO = Path(__file__).parent / "data" / "nemo" / "ctc-pieces.nemo"
NOT_FINITE = "its weight weight has values that are no finite numbers in FP32"
NOT_PLAIN = "its tensor a is not a plain table of numbers"
TOO_LARGE = "its tensor a is larger than the data in the file"


def cause_of(read: Callable[[], object]) -> str:
    with pytest.raises(CheckpointError) as error:
        read()
    return error.value.cause


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (lambda: torch.ones(1).expand(1 << 20, 1 << 20), TOO_LARGE),
        (lambda: torch.as_strided(torch.ones(4), (4, 4), (1, 0)), TOO_LARGE),
        (lambda: torch.eye(3).to_sparse(), NOT_PLAIN),
        (lambda: torch.eye(3).to_sparse_csr(), NOT_PLAIN),
        (lambda: torch.empty(3, device="meta"), NOT_PLAIN),
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), NOT_PLAIN),
    ],
    ids=["expanded", "overlapping", "sparse", "csr", "without data", "nested"],
)
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support", "ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("below", [False, True], ids=["state dict", "speaker network"])
def test_rejects_tensor_that_its_file_does_not_hold(
    make: Callable[[], Tensor], cause: str, below: bool, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"model_state": {"a": make()}} if below else {"a": make()}, path)
    assert cause_of(lambda: (resemblyzer.read if below else weights.read_pickle)(path)) == cause


def test_rejects_tensors_that_share_their_data_many_times(tmp_path: Path) -> None:
    path, shared = tmp_path / "weights.pt", torch.ones(10_000)
    torch.save({"first": shared, "second": shared}, path)
    assert len(weights.read_pickle(path)) == 2
    torch.save({str(number): shared for number in range(10)}, path)
    assert "larger than the data in the file" in cause_of(lambda: weights.read_pickle(path))


def test_rejects_storage_beyond_its_file(tmp_path: Path) -> None:
    """The pickle states more numbers than its entry of the archive holds."""
    path, changed = tmp_path / "weights.pt", tmp_path / "changed.pt"
    torch.save({"a": torch.arange(300.0)}, path)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(changed, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            count = struct.pack("<BH", ord("M"), 300)
            target.writestr(name, content.replace(count, struct.pack("<Bi", ord("J"), 1 << 27)))
    assert cause_of(lambda: weights.read_pickle(changed)).startswith("it is not a file of torch.save")


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_rejects_a_changed_byte_of_the_weights(share: float, tmp_path: Path) -> None:
    """torch reads them without a look at the checksums."""
    path = tmp_path / "weights.pt"
    torch.save({"a": torch.ones(10_000)}, path)
    data = bytearray(path.read_bytes())
    data[int(share * len(data))] ^= 1
    path.write_bytes(data)
    assert len(torch.load(path, weights_only=True)["a"]) == 10_000
    assert cause_of(lambda: weights.read_pickle(path)) == "the checksum of its part weights/data/0 is wrong"


@pytest.mark.parametrize(
    ("weight", "cause"),
    [
        (torch.full((3, 3), float("nan")), NOT_FINITE),
        (
            torch.full((3, 3), 1e300, dtype=torch.float64),
            "its weight weight has values that are no finite numbers in FP32",
        ),
        (
            torch.ones(3, 3).to(torch.float8_e4m3fn),
            "its weight weight is torch.float8_e4m3fn, and 16, 32 or 64 bits of a floating point are needed",
        ),
        (
            torch.ones(3, 3).int(),
            "its weight weight is torch.int32, and 16, 32 or 64 bits of a floating point are needed",
        ),
    ],
    ids=["nan", "beyond FP32", "eight bits", "integers"],
)
def test_rejects_values_that_are_no_weights(weight: Tensor, cause: str) -> None:
    assert cause_of(lambda: weights.place(lambda: nn.Linear(3, 3, bias=False), {"weight": weight}, "a")) == cause


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_reads_other_floating_points_as_fp32(kind: torch.dtype) -> None:
    weight = torch.tensor([[0.5, -2.0], [1.0, 0.25]])
    placed = weights.place(lambda: nn.Linear(2, 2, bias=False), {"weight": weight.to(kind)}, "a")
    assert torch.equal(placed.weight, weight)


def test_speaker_network_of_damaged_bytes_is_read_or_rejected(tmp_path: Path) -> None:
    """Also in the format of torch before 1.6, which pretrained.pt has."""
    lstm, linear, generator = nn.LSTM(40, 4, 3), nn.Linear(4, 4), random.Random(1)
    state = {**lstm.state_dict(prefix="lstm."), **linear.state_dict(prefix="linear.")}
    path, rejected = tmp_path / "pretrained.pt", 0
    for is_zip in (False, True):
        torch.save({"model_state": state}, path, _use_new_zipfile_serialization=is_zip)
        original = path.read_bytes()
        for _ in range(200):
            damaged = bytearray(original)
            damaged[generator.randrange(2_000)] = generator.randrange(256)
            path.write_bytes(damaged[: generator.choice((len(damaged), generator.randrange(len(damaged))))])
            resemblyzer.recognises(path)
            try:
                resemblyzer.read(path)
            except CheckpointError:
                rejected += 1
    assert rejected > 200


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_archive_is_read_or_rejected(compress: Callable[[bytes], bytes], tmp_path: Path) -> None:
    data, path, generator = compress(NEMO.read_bytes()), tmp_path / "a.nemo", random.Random(1)
    path.write_bytes(data)
    assert nemo.recognises(path)
    expected = nemo.read(path).encoder.state_dict()
    for _ in range(10):
        damaged = bytearray(data)
        damaged[generator.randrange(len(data))] ^= 0xFF
        path.write_bytes(damaged)
        nemo.recognises(path)
        try:
            found = nemo.read(path).encoder.state_dict()
        except CheckpointError:
            continue
        # The byte was one of tar's padding, or of a file that is not read.
        assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_rejects_an_archive_whose_header_would_fill_the_memory(kind: bytes, tmp_path: Path) -> None:
    """Such headers are read into memory as a whole: 64 MiB here, of an archive of 0.3 MiB."""
    header, path = tarfile.TarInfo("a"), tmp_path / "a.tgz"
    header.type, header.size = kind, 64 << 20
    with gzip.open(path, "wb", 1) as file:
        file.write(header.tobuf(tarfile.GNU_FORMAT) + bytes(header.size) + NEMO.read_bytes())
    assert not nemo.recognises(path)
    assert cause_of(lambda: nemo.read(path)) == "it is a damaged archive (file could not be opened successfully)"


def test_full_temporary_folder_is_no_damage() -> None:
    with open_archive(NEMO) as archive, pytest.raises(OutputError) as caught:
        archive.extract(nemo.WEIGHTS_FILE, Path("/dev/full"))
    assert str(caught.value) == (
        "/dev/full: cannot be written (No space left on device). Free some space and run the same command again."
    )


REPEATED = "a0: &a0 [x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{place}: &a{place} [{', '.join([f'*a{place - 1}'] * 8)}]\n" for place in range(1, 12)
)
MERGED = "m0: &m0 {a: 1}\n" + "".join(
    f"m{place}: &m{place} {{<<: [{', '.join([f'*m{place - 1}'] * 4)}]}}\n" for place in range(1, 20)
)


def read_nemo(folder: Path, text: str) -> object:
    """Read an archive of NeMo with another configuration."""
    path = folder / "a.nemo"
    with tarfile.open(NEMO) as archive:
        members = {each.name: archive.extractfile(each) for each in archive.getmembers() if each.isfile()}
        files = {name: member.read() for name, member in members.items() if member is not None}
    foreign.write_tar(path, {**files, "./model_config.yaml": text.encode()})
    return nemo.read(path)


def read_wenet(folder: Path, text: str) -> object:
    """Read a folder of wenet with another train.yaml."""
    place = wenet_fixtures.write(folder / "wenet", wenet_fixtures.U2PP)
    (place / "train.yaml").write_text(text)
    return wenet.read(place)


def nemo_settings() -> str:
    with tarfile.open(NEMO) as archive:
        file = archive.extractfile("./model_config.yaml")
        assert file is not None
        return file.read().decode()


def wenet_settings() -> str:
    return str(yaml.safe_dump(wenet_fixtures.settings(wenet_fixtures.U2PP)))


Read = Callable[[Path, str], object]


@pytest.mark.parametrize(
    ("read", "text", "cause"),
    [
        (
            read_nemo,
            REPEATED + nemo_settings().replace("att_context_style: regular", "att_context_style: *a11"),
            "is not supported",
        ),
        (read_wenet, REPEATED + wenet_settings().replace("encoder: conformer", "encoder: *a11"), "is not supported"),
        (read_nemo, MERGED + nemo_settings(), "it is not plain YAML (merge keys (<<) are not read)"),
        (read_wenet, MERGED + wenet_settings(), "it is not plain YAML (merge keys (<<) are not read)"),
        (read_nemo, nemo_settings() + "date: 2026-13-45\n", "it is not plain YAML (month must be in 1..12)"),
        (read_wenet, wenet_settings() + "date: 2026-13-45\n", "it is not plain YAML (month must be in 1..12)"),
        (
            read_nemo,
            nemo_settings().replace("n_layers: 2", f"n_layers: 0x{'f' * 5_000}"),
            "encoder.n_layers: a number of 20000 bits is too large",
        ),
        (
            read_nemo,
            nemo_settings().replace("window_size: 0.025", f"window_size: {'9' * 400}"),
            "preprocessor.window_size: a number of 1329 bits is too large",
        ),
    ],
    ids=["repeated", "repeated", "merged", "merged", "date", "date", "large integer", "large number"],
)
def test_rejects_hostile_yaml(read: Read, text: str, cause: str, tmp_path: Path) -> None:
    found = cause_of(lambda: read(tmp_path, text))
    assert cause in found
    assert len(found) < 200


def test_rejects_very_long_yaml() -> None:
    text = "a: [" + "1," * (plain_yaml.LARGEST_BYTES // 2) + "1]"
    assert cause_of(lambda: plain_yaml.read(text, "a")) == "it has more than 256 KiB"


def test_reads_aliases_of_yaml() -> None:
    """yaml.dump writes a list that two settings share once."""
    assert plain_yaml.read(yaml.dump({"a": (shared := [1, 2]), "b": shared}), "a").items("b", int) == (1, 2)


def in_hub(folder: Path, root: Path) -> Path:
    """Return a folder as a snapshot in the cache of the Hugging Face hub: its files are links to blobs."""
    blobs, snapshot = root / "models--a--b" / "blobs", root / "models--a--b" / "snapshots" / "0123"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(folder.iterdir())):
        shutil.copy(path, blobs / f"{number:040x}")
        (snapshot / path.name).symlink_to(f"../../blobs/{number:040x}")
    return snapshot


def test_reads_a_snapshot_of_the_hub(tmp_path: Path) -> None:
    foreign.wave(tmp_path / "plain")
    snapshot = in_hub(tmp_path / "plain", tmp_path)
    assert transformers.recognises(snapshot)
    assert transformers.read(snapshot).digest == transformers.read(tmp_path / "plain").digest


def external(folder: Path) -> Path:
    """Write a described graph with external data, and return it."""
    path = onnx_networks.write_described(folder, onnx_networks.Network())
    model = onnx_networks.build(onnx_networks.Network())
    onnx.save(model, path, save_as_external_data=True, location="network.onnx_data", size_threshold=0)
    return path


def test_reads_external_data_of_the_hub(tmp_path: Path) -> None:
    graph = external(tmp_path / "plain")
    snapshot = in_hub(graph.parent, tmp_path)
    found, plain = onnx_file.read(snapshot / graph.name), onnx_file.read(graph)
    assert found.model == plain.model
    assert found.digest == plain.digest


def test_rejects_external_data_of_another_repository_of_the_hub(tmp_path: Path) -> None:
    graph = external(tmp_path / "plain")
    snapshot, other = in_hub(graph.parent, tmp_path), in_hub(graph.parent, tmp_path / "other")
    (snapshot / "network.onnx_data").unlink()
    (snapshot / "network.onnx_data").symlink_to((other / "network.onnx_data").resolve())
    cause = cause_of(lambda: onnx_file.read(snapshot / graph.name))
    assert cause == "its external data 'network.onnx_data' is not a plain file in its folder"


@pytest.mark.parametrize("name", ["a folder with blanks", "ordner-ä-日本", 'it\'s "quoted" $HOME'])
def test_reads_folders_of_any_name_and_changes_nothing(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    foreign.wave(folder)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}
    folder.chmod(0o500)
    assert transformers.read(folder).origin == f"wav2vec2 CTC in transformers' format, {name}"
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()} == before
    folder.chmod(0o700)


TEXTS = ["\0", "\n", "\t", "\u202e", "\u200d", "\u0301", '"', "\\", "😀", "\u2028", "\ufeff", "e\u0301", "x" * 1_000]


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_reads_tokens_of_any_text(text: str, tmp_path: Path) -> None:
    """They reach clients as they are."""
    foreign.wave(tmp_path)
    letters = {text if letter == "Z" else letter: number for letter, number in foreign.LETTERS.items()}
    foreign.write_json(tmp_path / "vocab.json", letters)
    spec = ClientSpec(tokens=transformers.read(tmp_path).tokens)
    assert spec.tokens is not None
    assert spec.tokens.pieces[30] == text
    assert ClientSpec.from_json(spec.to_json().encode().decode(), "a test", CheckpointError, "b") == spec


def test_rejects_tokens_that_utf_8_cannot_hold(tmp_path: Path) -> None:
    foreign.wave(tmp_path)
    (tmp_path / "vocab.json").write_text((tmp_path / "vocab.json").read_text().replace('"Z"', '"\\ud800"'))
    cause = r"it is not JSON (it has half of a surrogate pair, '\ud800')"
    assert cause_of(lambda: transformers.read(tmp_path)) == cause
    (tmp_path / "tokens.json").write_text('["<blk>", "\\udc00"]')
    assert "half of a surrogate pair" in cause_of(lambda: token_files.read(tmp_path / "tokens.json"))
    labels = nemo_settings().replace("sample_rate: 16000", 'a: "\\ud800"\nsample_rate: 16000', 1)
    assert "half of a surrogate pair" in cause_of(lambda: read_nemo(tmp_path, labels))


def test_rejects_numbers_of_thousands_of_digits(tmp_path: Path) -> None:
    digits = "9" * 5_000
    (tmp_path / "tokens.json").write_text(f'{{"a": {digits}}}')
    assert "it is not JSON" in cause_of(lambda: token_files.read(tmp_path / "tokens.json"))
    (tmp_path / "network.toml").write_text(f"schema_version = {digits}\n")
    assert "it is not TOML" in cause_of(lambda: onnx_description.read_toml(tmp_path / "network.toml"))
    (tmp_path / "network.toml").write_text(f"schema_version = {'9' * 400}\n")
    cause = cause_of(lambda: onnx_description.read_toml(tmp_path / "network.toml"))
    assert cause == "schema_version: a number of 1329 bits is too large"


def test_rejects_a_vocabulary_whose_probabilities_would_fill_the_memory(tmp_path: Path) -> None:
    foreign.wave(tmp_path / "wave")
    foreign.change_json(tmp_path / "wave" / "config.json", vocab_size=1_000_000)
    cause = "vocab_size: 1000000 is not a size from 1 to 65536"
    assert cause_of(lambda: transformers.read(tmp_path / "wave")) == cause
    foreign.parakeet(tmp_path / "parakeet")
    foreign.change_json(tmp_path / "parakeet" / "config.json", vocab_size=1_000_000)
    assert cause_of(lambda: transformers.read(tmp_path / "parakeet")) == cause
    text = wenet_settings().replace("output_dim: 20", "output_dim: 1000000")
    assert "output_dim: 1000000 is not a size" in cause_of(lambda: read_wenet(tmp_path, text))
    table = yaml.safe_load(nemo_settings())
    del table["tokenizer"]
    table["target"] = "nemo.collections.asr.models.ctc_models.EncDecCTCModel"
    table["decoder"]["vocabulary"] = [str(number) for number in range(70_000)]
    # JSON is YAML too. So many tokens exceed the limit of a configuration.
    assert cause_of(lambda: read_nemo(tmp_path, json.dumps(table))) == "it has more than 256 KiB"


def _json_folder(path: Path) -> None:
    transformers_folder.Folder(path.parent).json(path.name)


def _units(path: Path) -> None:
    wenet_fixtures.write(path.parent / "wenet", wenet_fixtures.U2PP)
    (path.parent / "wenet" / wenet.UNITS_FILE).unlink()
    (path.parent / "wenet" / wenet.UNITS_FILE).symlink_to(path.resolve())
    wenet.read(path.parent / "wenet")


@pytest.mark.parametrize("read", [_json_folder, _units, token_files.read, onnx_description.read_toml])
@pytest.mark.parametrize("kind", ["device", "pipe", "folder"])
def test_rejects_what_is_no_regular_file(read: Callable[[Path], object], kind: str, tmp_path: Path) -> None:
    """A device states the size 0 and never ends, and a pipe never begins."""
    path = tmp_path / "file.json"
    if kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    assert cause_of(lambda: read(path)) == "it is not a regular file"


def test_reads_no_more_than_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert plain_files.read(path, 5) == b"12345"
    assert cause_of(lambda: plain_files.read(path, 4)) == "it has more than 4 bytes"


def _quantised(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {**tensors, name: tensors[name].to(torch.int8)}


def _wave_quantised(folder: Path) -> str:
    foreign.wave(folder / "wave")
    name = "wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original1"
    path = folder / "wave" / "model.safetensors"
    save_file(_quantised(load_file(path), name), path)
    return cause_of(lambda: transformers.read(folder / "wave"))


def _nemo_quantised(folder: Path) -> str:
    model, _ = foreign.parakeet_model()
    tensors = _quantised(foreign.nemo_weights(model), "encoder.layers.0.conv.depthwise_conv.weight")
    foreign.write_tar(folder / "a.nemo", foreign.nemo_files(folder, model, foreign.nemo_config(), tensors))
    return cause_of(lambda: nemo.read(folder / "a.nemo"))


def _wenet_quantised(folder: Path) -> str:
    variant = wenet_fixtures.SYMMETRIC
    name = "encoder.encoders.0.conv_module.depthwise_conv.weight"
    wenet_fixtures.write(folder / "wenet", variant, state=_quantised(wenet_fixtures.weights(variant), name))
    return cause_of(lambda: wenet.read(folder / "wenet"))


@pytest.mark.parametrize("refused", [_wave_quantised, _nemo_quantised, _wenet_quantised])
def test_rejects_quantised_weights_that_are_folded(refused: Callable[[Path], str], tmp_path: Path) -> None:
    """The folded weight would be one of a floating point, of numbers that mean something only with their scales."""
    assert refused(tmp_path).endswith("is torch.int8, and 16, 32 or 64 bits of a floating point are needed")
