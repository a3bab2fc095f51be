"""`python -m tests.fakes.capture WHEEL...`: record the names of a TensorRT version from NVIDIA's own wheels.

The bindings of TensorRT are linked to libraries of several gigabytes, which only a GPU host has. To import them,
libraries with the same names and symbols are enough: this module compiles empty ones and lists the members of every
class. No code of TensorRT runs. The wheels come from `pip download --no-deps`; the bindings of each must fit a Python
that is installed here (`--python`).
"""

import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import click

FILE = Path(__file__).with_name("tensorrt_names.json")
# The classes that a build uses, directly or through Polygraphy.
CLASSES = (
    *("Builder", "BuilderFlag", "DataType", "DeviceType", "EngineCapability", "EngineInspector"),
    *("HardwareCompatibilityLevel", "IBuilderConfig", "ICudaEngine", "IExecutionContext", "IHostMemory", "ILayer"),
    *("ILogger", "INetworkDefinition", "IOptimizationProfile", "IStreamReader", "IStreamReaderV2", "ITensor"),
    *("ITimingCache", "LayerInformationFormat", "LayerType", "Logger", "MemoryPoolType"),
    *("NetworkDefinitionCreationFlag", "OnnxParser", "OnnxParserFlag", "ParserError", "PreviewFeature"),
    *("ProfilingVerbosity", "QuantizationFlag", "Runtime", "TacticSource", "TensorFormat", "TensorIOMode"),
    *("TensorLocation", "ComputeCapability", "IDebugListener", "IOutputAllocator"),
)
_SCRIPT = """
import importlib, json, sys
library = importlib.import_module(sys.argv[1])
def members(kind):
    named = getattr(kind, "__members__", None)
    return sorted(named) if named is not None else [name for name in dir(kind) if not name.startswith("_")]
classes = {name: members(getattr(library, name)) for name in json.loads(sys.argv[2]) if hasattr(library, name)}
module = [name for name in dir(library) if not name.startswith("_")]
enums = [name for name in classes if hasattr(getattr(library, name), "__members__")]
print(json.dumps({"version": library.__version__, "module": module, "enums": enums, "classes": classes}))
"""


@click.command()
@click.option("--python", default=sys.executable, help="The Python that fits the bindings in the wheels.")
@click.argument("wheels", nargs=-1, type=click.Path(path_type=Path, exists=True))
def command(python: str, wheels: tuple[Path, ...]) -> None:
    """Add the names in each wheel, and those of the installed tensorrt_rtx, to tensorrt_names.json."""
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    for wheel in wheels:
        found = names(wheel, python)
        known[found["version"]] = {"source": wheel.name, **found}
    installed = query("tensorrt_rtx", sys.executable, None)
    version = importlib.metadata.version("tensorrt_rtx_cu12_bindings")
    known[f"rtx {version}"] = {"source": f"tensorrt_rtx_cu12_bindings {version}, imported whole", **installed}
    FILE.write_text(render(known))


def names(wheel: Path, python: str) -> dict[str, Any]:
    """Return the names of the bindings in a wheel."""
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        wanted = [name for name in archive.namelist() if re.search(r"(\.py|/tensorrt\.so)$", name)]
        archive.extractall(folder, wanted)
        (binding,) = Path(folder).rglob("tensorrt.so")
        stand_ins(binding, binding.parent)
        return query(binding.parent.name, python, Path(folder))


def stand_ins(binding: Path, folder: Path) -> None:
    """Compile an empty library for every NVIDIA library that a binding is linked to; the first has all symbols."""
    needed = re.findall(r"NEEDED.*\[(libnv[^]]+)]", _output("readelf", "-d", binding))
    undefined = re.findall(r" U (\w+)$", _output("nm", "-D", "--undefined-only", binding), re.MULTILINE)
    ours = [name for name in undefined if re.match(r"create|get|init|shut|_ZN\d+nv", name)]
    for library in needed:
        symbols = "".join(f"int {name}(void) {{ return 0; }}\n" for name in ours if library == needed[0])
        command = ["gcc", "-shared", "-fPIC", "-x", "c", "-o", folder / library, "-"]
        subprocess.run(command, input=symbols, text=True, check=True)


def query(module: str, python: str, folder: Path | None) -> dict[str, Any]:
    """Return the names of a module, read in a separate process."""
    environment = {"PYTHONPATH": str(folder), "LD_LIBRARY_PATH": str(folder / module)} if folder else {}
    command = [python, "-c", _SCRIPT, module, json.dumps(CLASSES)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return dict(json.loads(result.stdout))


def render(known: dict[str, Any]) -> str:
    """Return the file's text with one class for each line, so that a diff shows each change."""
    text = json.dumps(dict(sorted(known.items())), indent=1)
    return re.sub(r"\[[^\[\]{}]*]", lambda found: " ".join(found.group().split()), text) + "\n"


def _output(*arguments: str | Path) -> str:
    return subprocess.run(arguments, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    command()
