"""Assemble a Triton model repository from a selection: a config.pbtxt and a verified engine file per model."""

import errno
import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from contract import digest, files, verification
from contract.arch import Arch
from contract.catalogue import (
    MODEL_FILE,
    NEXT_STATE_PREFIX,
    STATE_PREFIX,
    Family,
    Mode,
    Model,
    Tensor,
    is_state,
    model_name,
)
from contract.client import BATCHING_PARAMETER, NO_BATCHING, PARAMETER, ClientSpec, merge
from contract.errors import BundleError, CatalogueError, SettingError, as_output_error
from contract.manifest import MANIFEST_FILE, BoundTensor, EngineRecord
from runtime import pbtxt
from runtime.bundles import Bundle
from runtime.selection import Choice, Selection, Target

CONFIG_FILE = "config.pbtxt"
_LOCK_SUFFIX = ".lock"
_VERSION = 1
_MOST_INSTANCES = 4
# Bytes of the files of a model that is small enough to be held once for each instance.
_LARGEST_REPEATED = 64 * 2**20
_REBUILD = "Build the bundle again with `python -m build.engines`"
# Fields that this module sets itself. A catalogue that sets one as well is rejected.
_OWN_FIELDS = (
    *("name", "backend", "platform", "max_batch_size", "version_policy", "input", "output"),
    *("parameters", "cc_model_filenames", "default_model_filename"),
)
_BATCHER, _DELAY = "dynamic_batching", "max_queue_delay_microseconds"
Config = dict[str, Any]


def hold(repository: Path) -> int:
    """Lock a repository for this process and for tritonserver, which replaces it; return the descriptor.

    Raise SettingError where another server uses it: a second start would replace what the first one verified while it
    still loads. A lock of POSIX stays through an exec, is not inherited by children, and ends with the process.
    """
    path = _lock_file(repository)
    with files.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    if not _lock(descriptor):
        os.close(descriptor)
        raise _in_use(repository)
    os.set_inheritable(descriptor, True)  # noqa: FBT003 - no name in the standard library
    return descriptor


def assemble(selection: Selection, repository: Path, threads: int) -> None:
    """Replace the repository in one atomic step: a reader finds the old repository or the complete new one.

    Raise BundleError for a file of a bundle that is absent, damaged or not listed in its manifest, and for tensors that
    differ from the catalogue.
    """
    _check_target(repository)
    configs = configurations(selection, threads)
    with files.replacing(repository) as staging:
        render(configs, staging)
        placing = placer(selection, staging)
        for bundle in sources(selection):
            verification.check(bundle.folder, bundle.manifest, placing)


def render(configs: Mapping[str, Config], folder: Path) -> None:
    """Write each model's folder: its configuration, and the empty folder of its version."""
    for name, config in configs.items():
        (folder / name / str(_VERSION)).mkdir(parents=True)
        # Not flushed to the disk: each start writes its own repository and never reads an earlier one.
        (folder / name / CONFIG_FILE).write_text(pbtxt.render(config), encoding="utf-8")


def placer(selection: Selection, folder: Path) -> verification.Reader:
    """Return a reader for bundles that puts chosen engines into the models' folders and hashes them there."""
    places = {source: place for choice in selection.chosen for source, place in _places(choice, selection, folder)}

    def read(source: Path) -> str:
        if source not in places:
            return digest.of_file(source)
        target, wanted = places[source]
        return _place(source, target, wanted)

    return read


def _places(choice: Choice, selection: Selection, folder: Path) -> Iterator[tuple[Path, tuple[Path, str]]]:
    """Yield each file of an engine with its place in the repository and its SHA-256.

    A file with weights keeps its name, by which the engine's file finds it.
    """
    version, record = folder / choice.model.name / str(_VERSION), choice.record
    yield choice.bundle.folder / record.file, (version / engine_file(selection.target), record.sha256)
    for each in record.data:
        yield choice.bundle.folder / each.file, (version / PurePosixPath(each.file).name, each.sha256)


def check(selection: Selection, repository: Path, threads: int) -> None:
    """Check that the repository can be assembled, without writing anything.

    Raise SettingError for a folder with other content or of another server, OutputError for one that this user may not
    write to, and BundleError or CatalogueError for an engine that cannot be configured.
    """
    _check_target(repository)
    _check_free(repository)
    parent = next(folder for folder in repository.absolute().parents if folder.exists())
    if not os.access(parent, os.W_OK | os.X_OK):
        raise as_output_error(PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(repository)))
    configurations(selection, threads)


def sources(selection: Selection) -> list[Bundle]:
    """Return the bundles that hold a chosen engine."""
    return list({choice.bundle.folder: choice.bundle for choice in selection.chosen}.values())


def configurations(selection: Selection, threads: int) -> dict[str, Config]:
    """Return the configuration of every model, by name, as dicts that pbtxt renders."""
    configs = {choice.model.name: _engine_config(choice, selection, threads) for choice in selection.chosen}
    records = {choice.model.name: choice.record for choice in selection.chosen}
    for model in selection.ensembles:
        configs[model.name] = _ensemble_config(model, configs, records)
    return configs


def engine_file(target: Target) -> str:
    """Return the file name of the engine in a model's version folder.

    Triton falls back to `model.plan` when no entry of cc_model_filenames fits the GPU. No file has that name, so Triton
    fails and never loads a plan of another architecture.
    """
    return "model.onnx" if target.platform.backend == "onnxruntime" else f"model.{target.arch.value}.plan"


def _check_target(repository: Path) -> None:
    # The folder is replaced as a whole: other content would be lost.
    if not repository.exists():
        return
    if not repository.is_dir() or any(not (entry / CONFIG_FILE).is_file() for entry in repository.iterdir()):
        cause = "it exists and is not a Triton repository; all of its content would be replaced"
        raise SettingError(f"--repository {repository}", cause, "Use a folder that holds only the repository")


def _lock_file(repository: Path) -> Path:
    return repository.with_name(f"{repository.name}{_LOCK_SUFFIX}")


def _check_free(repository: Path) -> None:
    try:
        descriptor = os.open(_lock_file(repository), os.O_RDWR)
    except OSError:
        return  # there is none, or `hold` reports why it cannot be opened
    try:
        if not _lock(descriptor):
            raise _in_use(repository)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (PermissionError, BlockingIOError):
        return False
    return True


def _in_use(repository: Path) -> SettingError:
    return SettingError(
        f"--repository {repository}", "another server uses it", "Stop that server, or name another folder"
    )


def _engine_config(choice: Choice, selection: Selection, threads: int) -> Config:
    model, record, target = choice.model, choice.record, selection.target
    _check_catalogue(model.family, selection.catalogue.folder / model.family.name / MODEL_FILE)
    _check_tensors(choice)
    groups, each_has = _instances(choice, target, threads)
    config: Config = {
        "name": model.name,
        "backend": target.platform.backend,
        "max_batch_size": record.max_batch,
        "version_policy": {"specific": {"versions": [_VERSION]}},
        "input": _tensors(choice, model.family.inputs, record.inputs),
        "output": _tensors(choice, model.family.outputs, record.outputs),
        **_scheduling(choice, target),
        "instance_group": groups,
    }
    capability = target.arch.capability
    if capability is not None:
        key = f"{capability[0]}.{capability[1]}"
        config["cc_model_filenames"] = [{"key": key, "value": engine_file(target)}]
    own = _session_parameters(each_has) if target.platform.backend == "onnxruntime" else {}
    return {**config, "parameters": _parameters(record.client, {**own, **_batching(config)})}


def _session_parameters(threads: int) -> dict[str, str]:
    return {
        "intra_op_thread_count": str(threads),
        "inter_op_thread_count": "1",
        # Spinning threads take the cores from the other models. On a busy machine they also starve the stub's
        # heartbeat: Triton then marks the stub unhealthy and never recovers it.
        "session.intra_op.allow_spinning": "0",
        # It would store the layout of its memory for every size of an input, forever, and be no faster.
        "enable_mem_pattern": "0",
    }


def _batching(*configs: Config) -> dict[str, str]:
    """Return the parameter for clients that states that no model with these configurations joins requests."""
    joins = any(key.endswith("_batching") for config in configs for key in config)
    return {} if joins else {BATCHING_PARAMETER: NO_BATCHING}


def _ensemble_config(model: Model, configs: Mapping[str, Config], records: Mapping[str, EngineRecord]) -> Config:
    steps = [model_name(step, model.operating_point) for step in model.family.steps]
    at_boundary = {
        tensor["name"]: {key: tensor[key] for key in ("name", "data_type", "dims")}
        for step in steps
        for tensor in (*configs[step]["input"], *configs[step]["output"])
    }
    return {
        "name": model.name,
        "platform": "ensemble",
        "max_batch_size": min(records[step].max_batch for step in steps),
        "version_policy": {"specific": {"versions": [_VERSION]}},
        "input": [at_boundary[tensor.name] for tensor in model.family.inputs],
        "output": [at_boundary[tensor.name] for tensor in model.family.outputs],
        "ensemble_scheduling": {"step": _steps(steps, model.family, configs)},
        # A client reads only the ensemble's configuration, so it holds what is to be known of every step.
        "parameters": _parameters(
            merge(records[step].client for step in steps), _batching(*(configs[step] for step in steps))
        ),
    }


def _steps(steps: Sequence[str], family: Family, configs: Mapping[str, Config]) -> list[Config]:
    # A request must name an output of every step, or no output at all: Triton skips a step when none of its outputs is
    # requested, even if a later step needs them (server #7482).
    wanted = {tensor.name for tensor in family.outputs}
    wanted |= {tensor["name"] for step in steps for tensor in configs[step]["input"]}
    return [
        {
            "model_name": step,
            "model_version": _VERSION,
            "input_map": _same_name(tensor["name"] for tensor in configs[step]["input"]),
            "output_map": _same_name(tensor["name"] for tensor in configs[step]["output"] if tensor["name"] in wanted),
        }
        for step in steps
    ]


def _same_name(names: Any) -> list[Config]:
    return [{"key": name, "value": name} for name in names]


def _scheduling(choice: Choice, target: Target) -> Config:
    """Return the Triton fields of the catalogue, with the states of sequences added.

    Triton initialises a state with zeros only if the configuration requires it, and pairs states by the sorted names of
    inputs and outputs.

    On a CPU a batch takes as long as its items one after another, and Triton's batcher polls while all instances of a
    model are busy: a fifth of the processor time of the reference networks. So a model that only joins requests there
    has the default scheduler. Other fields of the batcher, such as a limit of the queue, keep it.
    """
    fields, states = choice.model.family.triton, _mode(choice).states
    if not states:
        is_polled = target.arch is Arch.CPU and fields.get(_BATCHER, {}).keys() <= {_DELAY}
        return {key: value for key, value in fields.items() if not (is_polled and key == _BATCHER)}
    dims = {tensor.name: list(tensor.dims[1:]) for tensor in choice.record.inputs}
    rendered = []
    for state in states:
        value = {"data_type": f"TYPE_{state.type}", "dims": dims[STATE_PREFIX + state.name]}
        rendered.append(
            {
                "input_name": STATE_PREFIX + state.name,
                "output_name": NEXT_STATE_PREFIX + state.name,
                **value,
                "initial_state": [{**value, "zero_data": True, "name": f"no {state.name}"}],
            }
        )
    return {**fields, "sequence_batching": {**fields["sequence_batching"], "state": rendered}}


def _tensors(choice: Choice, tensors: Sequence[Tensor], bound: Sequence[BoundTensor]) -> list[Config]:
    # An axis with one size in this mode is written as that number, even if it is dynamic in the engine.
    found = {tensor.name: tensor.dims[1:] if choice.record.max_batch > 0 else tensor.dims for tensor in bound}
    fixed = _mode(choice).fixed_axes()
    return [
        _tensor(
            tensor,
            tuple(
                fixed.get(str(axis), dim) if dim < 0 else dim
                for axis, dim in zip(tensor.shape, found[tensor.name], strict=True)
            ),
        )
        for tensor in tensors
        if not is_state(tensor.name)
    ]


def _mode(choice: Choice) -> Mode:
    return choice.model.family.modes[choice.record.mode]


def _tensor(tensor: Tensor, dims: tuple[int, ...]) -> Config:
    entry: Config = {"name": tensor.name, "data_type": f"TYPE_{tensor.type}", "dims": list(dims)}
    # Triton has no empty dims: one number per item is sent as [batch, 1] and reshaped to [batch] for the engine.
    return entry if dims else {**entry, "dims": [1], "reshape": {"shape": []}}


def _instances(choice: Choice, target: Target, threads: int) -> tuple[list[Config], int]:
    """Return the instance groups of a model, and the threads of each instance.

    On a CPU two instances with a thread each do up to twice the work of one with two threads, because the runs of
    small networks are too short to divide. Every instance has its own copy of the weights, so a large network has one
    instance. So has that of a stream's steps: its sequences would be divided among several, and batches be smaller.
    """
    kind = "KIND_CPU" if target.arch is Arch.CPU else "KIND_GPU"
    groups = choice.model.family.triton.get("instance_group")
    if (
        groups
        or target.arch is not Arch.CPU
        or _mode(choice).is_streaming
        or choice.record.total_bytes > _LARGEST_REPEATED
    ):
        return [{"count": 1, "kind": kind, **group} for group in groups or [{}]], threads
    count = min(threads, _MOST_INSTANCES)
    return [{"count": count, "kind": kind}], threads // count


def _parameters(client: ClientSpec, own: Mapping[str, str] | None = None) -> list[Config]:
    texts = {PARAMETER: client.to_json(), **(own or {})}
    return [{"key": key, "value": {"string_value": text}} for key, text in sorted(texts.items())]


def _check_catalogue(family: Family, path: Path) -> None:
    for field in family.triton:
        if field in _OWN_FIELDS:
            raise CatalogueError(
                path,
                f"triton.{field}: this field follows from the rest of the file and from the engine",
                "Remove it",
            )
    if not isinstance(family.triton.get(_BATCHER, {}), Mapping):
        raise CatalogueError(path, f"triton.{_BATCHER}: it is not a table", f"Write [triton.{_BATCHER}]")
    for mode in family.modes.values():
        if mode.is_streaming and "sequence_batching" not in family.triton:
            raise CatalogueError(
                path,
                f"modes.{mode.name}: it has states, but no triton.sequence_batching that keeps them",
                f"Add modes.{mode.name}.triton.sequence_batching",
            )


def _check_tensors(choice: Choice) -> None:
    family, record = choice.model.family, choice.record
    for tensors, bound in ((family.inputs, record.inputs), (family.outputs, record.outputs)):
        found = {tensor.name: tensor for tensor in bound}
        wrong = sorted({tensor.name for tensor in tensors} ^ set(found))
        if wrong:
            raise _disagreement(choice, f"tensor {wrong[0]!r} is not in both the catalogue and the engine")
        for tensor in tensors:
            _check_tensor(choice, tensor, found[tensor.name])


def _check_tensor(choice: Choice, tensor: Tensor, bound: BoundTensor) -> None:
    if bound.type != tensor.type:
        raise _disagreement(choice, f"{tensor.name} is {bound.type}, but {tensor.type} in the catalogue")
    dims = bound.dims[1:] if choice.record.max_batch > 0 else bound.dims
    known = [axis if isinstance(axis, int) else choice.record.dims.get(axis) for axis in tensor.shape]
    same_rank = len(dims) == len(known)
    if not same_rank or any(size not in (None, dim, -1) for size, dim in zip(known, dims, strict=True) if dim != -1):
        shape = ", ".join(str(axis) for axis in tensor.shape)
        raise _disagreement(choice, f"{tensor.name} has dims {list(bound.dims)}, but [{shape}] in the catalogue")


def _disagreement(choice: Choice, cause: str) -> BundleError:
    return BundleError(choice.bundle.folder / MANIFEST_FILE, f"{choice.model.name}: {cause}", _REBUILD)


def _place(source: Path, target: Path, wanted: str) -> str:
    # A copy and no link: a writer to the bundle, such as `cp` onto an engine, must not reach what was hashed.
    try:
        found = digest.of_copy(source, target)
    except OSError as error:
        if not os.access(source, os.R_OK):
            raise  # the bundle's own fault
        raise as_output_error(error, target) from error
    if found != wanted and digest.of_file(source) == wanted:
        raise BundleError(source, "it changed while it was copied", "Start again while no process writes to the bundle")
    return found
