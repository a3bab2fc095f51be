"""Select the engines to build: the exported models, in every mode of the catalogue, at a precision."""

from pathlib import Path

from build.compilers import Compiler
from build.job import Job
from build.quantisation import check_precision
from contract import graph
from contract.arch import Arch
from contract.catalogue import Model, catalogue, models
from contract.errors import CompilerUnavailableError, GraphError, SettingError


def plan(
    onnx: Path,
    arch: Arch,
    chosen: Compiler,
    names: tuple[str, ...] = (),
    operating_point: str | None = None,
    mode: str | None = None,
    precision: str | None = None,
) -> list[Job]:
    """List the engines to build: the exported models, or the named ones, in every mode that the catalogue lists.

    At a `precision` other than the compiler's own, models without a tolerance for it keep the compiler's precision.
    Raises CompilerUnavailableError when such a model is named, SettingError for an unknown model, and GraphError where
    nothing was exported.
    """
    check_precision(precision, chosen, arch)
    wanted = [
        model for model in _select(names, operating_point) if names or (onnx / model.name / graph.RECORD_FILE).is_file()
    ]
    jobs = [
        Job(
            family=model.family.in_mode(each.name),
            record=graph.load(onnx / model.name),
            folder=onnx / model.name,
            mode=each,
            arch=arch,
            precision=_precision(model, precision, chosen, named=model.name in names),
        )
        for model in wanted
        for each in model.family.modes.values()
        if mode in (None, each.name)
    ]
    if not jobs:
        what = f"it holds no exported graph for mode {mode}" if wanted else "it holds no exported graph"
        raise GraphError(onnx, what, "Run `python -m export` first, or name the folder of the graphs with --onnx")
    return jobs


def _select(names: tuple[str, ...], operating_point: str | None) -> list[Model]:
    known = {
        name: model for name, model in models(catalogue(), operating_point).items() if not model.family.is_ensemble
    }
    for name in names:
        if name not in known:
            raise SettingError(f"--model {name}", "no engine has that name", f"Choose from {', '.join(known)}")
    return [model for name, model in known.items() if not names or name in names]


def _precision(model: Model, wanted: str | None, chosen: Compiler, *, named: bool) -> str:
    if wanted is None or model.family.supports_int8:
        return wanted or chosen.precision()
    if named:
        raise CompilerUnavailableError(
            f"--precision {wanted}",
            f"{model.name} cannot be quantised: the catalogue states no {wanted} tolerance for it",
            f"Omit {model.name}, or build it without --precision",
        )
    return chosen.precision()
