"""Select the engines to build: the exported models, in every mode of the catalogue, at a precision."""

from pathlib import Path

from build.compilers import Compiler
from build.job import Job
from build.quantisation import check_precision
from contract import graph
from contract.arch import Arch
from contract.catalogue import PRECISIONS, Catalogue, Mode, Model
from contract.errors import CompilerUnavailableError, GraphError, SettingError
from contract.graph import GraphRecord

FP32, FP16 = PRECISIONS


def plan(
    catalogue: Catalogue,
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
        model
        for model in _select(catalogue, names, operating_point)
        if names or (onnx / model.name / graph.RECORD_FILE).is_file()
    ]
    records = {model.name: _load(onnx / model.name, model) for model in wanted}
    jobs = [
        Job(
            family=model.family.in_mode(each.name),
            record=records[model.name],
            folder=onnx / model.name,
            mode=each,
            arch=arch,
            precision=_exported(
                records[model.name], each, _precision(model, precision, chosen, named=model.name in names)
            ),
        )
        for model in wanted
        for each in model.family.modes.values()
        if mode in (None, each.name)
    ]
    if not jobs:
        what = f"it holds no exported graph for mode {mode}" if wanted else "it holds no exported graph"
        raise GraphError(onnx, what, "Run `python -m export` first, or name the folder of the graphs with --onnx")
    return jobs


def _load(folder: Path, model: Model) -> GraphRecord:
    """Return the record of a model; raise GraphError for graphs of another checkpoint than the catalogue describes.

    An export that ended early leaves such graphs: their parts would compute without an error, and recognise nonsense.
    """
    record = graph.load(folder)
    described = model.family.checkpoints.get(model.operating_point, record.checkpoint)
    if record.checkpoint != described:
        cause = "it was exported from another checkpoint than the catalogue describes, so its parts do not fit together"
        raise GraphError(folder, cause, "Run `python -m export --networks` again, without --model")
    return record


def _exported(record: GraphRecord, mode: Mode, wanted: str) -> str:
    """Return FP32 in place of FP16 where a network has no graph in FP16; other precisions unchanged."""
    return FP32 if wanted == FP16 and record.graph(mode.variant, FP16) is None else wanted


def _select(catalogue: Catalogue, names: tuple[str, ...], operating_point: str | None) -> list[Model]:
    known = {name: model for name, model in catalogue.models(operating_point).items() if not model.family.is_ensemble}
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
