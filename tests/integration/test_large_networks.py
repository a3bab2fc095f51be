"""Networks whose graph is too large for one ONNX file, from export to transcript. The limit is made small here."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from tritonclient import grpc as triton

from contract import graph
from contract.catalogue import PRECISIONS
from contract.graph import data_file, load
from contract.manifest import load as load_manifest
from export import networks_file
from export.__main__ import run_own
from tests.integration import own, requests, serving
from tests.integration.reference import ROOT, run
from tests.integration.serving import Running
from tests.unit.export.onnx_networks import Network, write_described
from transcriber.audio import Recording
from transcriber.segments import split

pytestmark = [pytest.mark.integration]
DIALOGUE = ROOT / "demo" / "dialogue.flac"
BODY, HEAD, GRAPH = "body_en_enhanced", "am_en_enhanced", "am_cs_enhanced"
WHOLE, PARTED = "whole", "parted"
LIMIT_BYTES = 20_000
DATA = data_file("model.onnx")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export two networks twice: as single files, and with their weights in files of their own."""
    folder = tmp_path_factory.mktemp("large")
    own.parakeet_network(folder / "parakeet")
    graph_file = write_described(folder / "graph", Network())
    onnx.save(onnx.load(graph_file), graph_file, save_as_external_data=True, location="weights.bin")
    (folder / "networks.toml").write_text(
        '[en.enhanced]\nrecogniser = "parakeet"\n[cs.enhanced]\nrecogniser = "graph"\n'
    )
    for name, limit in ((WHOLE, graph.LARGEST_FILE_BYTES), (PARTED, LIMIT_BYTES)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(graph, "LARGEST_FILE_BYTES", limit)
            networks = networks_file.read(folder / "networks.toml")
            run_own(networks, folder / name / "onnx", (), None, PRECISIONS, force=False)
    return folder


@pytest.fixture(scope="module")
def built(folder: Path) -> Path:
    for name in (WHOLE, PARTED):
        run("build.engines", "--arch", "cpu", "--onnx", folder / name / "onnx", "--out", folder / name / "engines")
    return folder


@pytest.fixture(scope="module")
def servers(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Running]]:
    kept = {name: built / name / "engines" for name in (WHOLE, PARTED)}
    with (
        serving.started(kept[WHOLE], tmp_path_factory.mktemp("whole")) as whole,
        serving.started(kept[PARTED], tmp_path_factory.mktemp("parted")) as parted,
    ):
        serving.wait_ready(whole)
        serving.wait_ready(parted)
        yield {WHOLE: whole, PARTED: parted}


def test_export_parts_only_large_graphs(folder: Path) -> None:
    whole, parted = (load(folder / name / "onnx" / BODY) for name in (WHOLE, PARTED))
    for precision in PRECISIONS:
        assert not whole.graphs[precision].data
        (data,) = parted.graphs[precision].data
        assert data.file == f"{precision}.onnx.data"
        path = folder / PARTED / "onnx" / BODY / data.file
        assert (path.stat().st_size, path.stat().st_mode & 0o777) == (data.size_bytes, 0o644)
        assert parted.graphs[precision].parity == whole.graphs[precision].parity
    (data,) = load(folder / PARTED / "onnx" / GRAPH).graphs["fp32"].data
    assert data.file == "fp32.onnx.data"
    assert not load(folder / WHOLE / "onnx" / GRAPH).graphs["fp32"].data
    # The head is below the limit.
    assert not any(each.data for each in load(folder / PARTED / "onnx" / HEAD).graphs.values())


def test_engine_has_its_weights_in_a_listed_file(built: Path) -> None:
    engines = {each.model: each for each in load_manifest(built / PARTED / "engines" / "embedded" / "cpu").engines}
    for model in (BODY, GRAPH):
        assert [each.file for each in engines[model].data] == [f"{model}/batch/{DATA}"]
    assert engines[BODY].total_bytes > engines[BODY].size_bytes
    assert engines[HEAD].data == ()


def test_repository_holds_the_weights_beside_the_model(servers: dict[str, Running]) -> None:
    version = servers[PARTED].repository / BODY / "1"
    assert sorted(each.name for each in version.iterdir()) == ["model.onnx", DATA]
    model = onnx.load(version / "model.onnx", load_external_data=False)
    locations = {
        entry.value for each in model.graph.initializer for entry in each.external_data if entry.key == "location"
    }
    assert locations == {DATA}
    assert not (servers[WHOLE].repository / BODY / "1" / DATA).exists()


@pytest.mark.parametrize("language", ["en", "cs"])
def test_transcript_is_that_of_a_single_file(
    language: str, servers: dict[str, Running], built: Path, tmp_path: Path
) -> None:
    found = {}
    for name, server in servers.items():
        catalogue = built / name / "onnx" / "catalogue"
        options = ("--language", language, "--catalogue", catalogue, "--output", tmp_path / f"{name}.json")
        run("transcriber", DIALOGUE, "--endpoint", f"127.0.0.1:{server.grpc}", *options)
        results = json.loads((tmp_path / f"{name}.json").read_text())["results"]
        found[name] = [(each["start_time"], each["end_time"], each["alternatives"][0]["content"]) for each in results]
    assert len(found[WHOLE]) > 50
    # Without confidences: which segments the server computes together depends on their arrival.
    assert found[PARTED] == found[WHOLE]


@pytest.mark.parametrize("model", ["ensemble_en_enhanced", GRAPH])
def test_outputs_are_those_of_a_single_file(model: str, servers: dict[str, Running]) -> None:
    """One request at a time is computed in the same way on both servers: every bit is equal."""
    samples = next(iter(split(Recording(DIALOGUE).blocks()))).samples[None]
    lengths = np.full((1, 1), samples.shape[1], dtype=np.int32)
    found = []
    for server in servers.values():
        with triton.InferenceServerClient(f"127.0.0.1:{server.grpc}") as client:
            answer = requests.infer(client, model, {"audio": samples, "audio_lengths": lengths})
            found.append({name: answer.as_numpy(name) for name in ("top_log_probs", "top_tokens")})
    ours, theirs = found
    assert ours["top_tokens"].size > 100
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_compiles_for_gpus(built: Path, tmp_path: Path) -> None:
    arches = ("--arch", "sm75", "--arch", "sm86")
    shown = run(
        "build.check",
        "--onnx",
        built / PARTED / "onnx",
        "--out",
        tmp_path / "engines",
        *arches,
        "--model",
        BODY,
        "--model",
        HEAD,
        "--json",
    )
    graphs = json.loads(shown.stdout)["graphs"]
    compiled = {(each["model"], each["arch"]) for each in graphs if each["compiles"]}
    assert compiled == {(BODY, "sm75"), (BODY, "sm86"), (HEAD, "sm75"), (HEAD, "sm86")}


def test_server_refuses_damaged_weights(built: Path, tmp_path: Path) -> None:
    shutil.copytree(built / PARTED / "engines", tmp_path / "engines")
    path = tmp_path / "engines" / "embedded" / "cpu" / BODY / "batch" / DATA
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with serving.started(tmp_path / "engines", tmp_path) as running:
        assert running.process.wait(serving.READY_S) != 0
        assert f"{path}: its content does not match the manifest." in running.log.read_text()
