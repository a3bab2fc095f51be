"""Write tests/unit/runtime/golden/: the configuration of each model of the catalogue, for a CPU and for a GPU.

.venv/bin/python -m tests.unit.runtime.golden_files

Review the difference before you commit it: a golden file is the exact configuration that Triton reads.
"""

import shutil
from pathlib import Path

from contract import files
from contract.arch import Arch
from contract.platform import platform
from runtime import pbtxt, repository
from runtime.bundles import Bundle
from runtime.selection import Target, select
from tests.unit.runtime import synthetic

GOLDEN = Path(__file__).with_name("golden")
MODES = sorted({mode for family in synthetic.CATALOGUE.families.values() for mode in family.modes})
ARCHES = {Arch.CPU: "embedded", Arch.SM86: "26.08"}
THREADS = 2


def expected(mode: str) -> list[str]:
    """Return the names of the models that have a mode."""
    return sorted(name for name, model in synthetic.CATALOGUE.models().items() if mode in model.family.modes)


def rendered(mode: str, arch: Arch) -> dict[str, str]:
    """Return the configuration of every model of a mode as text, by name."""
    served = platform(ARCHES[arch])
    compiler = served.backend or ""
    records = [
        synthetic.record(
            model,
            compiler=compiler,
            mode=mode,
        )
        for model in synthetic.engine_models().values()
        if mode in model.family.modes
    ]
    made = synthetic.manifest(*records, arch=arch, platform_name=served.name)
    target = Target(arch=arch, platform=served, mode=mode, operating_point=None)
    chosen = select([Bundle(folder=Path("bundle"), manifest=made)], synthetic.CATALOGUE, target)
    return {name: pbtxt.render(config) for name, config in repository.configurations(chosen, THREADS).items()}


def folder(mode: str, arch: Arch) -> Path:
    """Return the folder of a mode's golden files for an architecture."""
    return GOLDEN / mode / arch.value


def main() -> None:
    """Write all golden files."""
    shutil.rmtree(GOLDEN, ignore_errors=True)
    for mode in MODES:
        for arch in ARCHES:
            for name, text in rendered(mode, arch).items():
                files.write(folder(mode, arch) / f"{name}.pbtxt", text)


if __name__ == "__main__":
    main()
