"""python -m build.explain: what decided an engine of a bundle, and what changed since the one before it."""

import json
from pathlib import Path

import click

from build import keys
from contract import command_line
from contract.errors import SettingError
from contract.manifest import EngineRecord, load


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("model")
@click.option("--mode", default="batch", show_default=True, help="The mode of the engine.")
@click.option("--why", is_flag=True, help="Which part changed since the last build, rather than all parts.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--verbose", is_flag=True, help="Add the traceback to a refusal.")
def command(
    bundle: Path,
    model: str,
    mode: str,
    *,
    why: bool,
    as_json: bool,
    verbose: bool,  # noqa: ARG001 - contract.errors.guard reads it
) -> None:
    """Print the parts of the key of MODEL, such as body_standard, in a BUNDLE, such as dist/engines/26.08/sm86."""
    record = find(bundle, model, mode)
    if as_json:
        changed = {change.part: [change.before, change.after] for change in record.changes}
        print(json.dumps({"key": record.key, "parts": record.key_parts, "changes": changed}, indent=2))
        return
    print("\n".join(reasons(record) if why else parts(record)))


def find(bundle: Path, model: str, mode: str) -> EngineRecord:
    """Find an engine of a bundle; raise SettingError that lists those there are."""
    engines = load(bundle).engines
    for record in engines:
        if (record.model, record.mode) == (model, mode):
            return record
    known = ", ".join(f"{record.model} {record.mode}" for record in engines) or "none"
    raise SettingError(f"{model} {mode}", f"{bundle} holds no such engine", f"Choose one of: {known}")


def parts(record: EngineRecord) -> list[str]:
    """List the key and its parts, a line each."""
    flat = dict(keys.flat(record.key_parts))
    width = max(map(len, flat), default=0)
    return [f"key {record.key}", *(f"{name:<{width}}  {value}" for name, value in flat.items())]


def reasons(record: EngineRecord) -> list[str]:
    """Say what changed, a line each."""
    if not record.changes:
        return [f"{record.model} {record.mode} is the first engine here of this model, mode and bundle"]
    return [keys.sentence(change) for change in record.changes]


def main() -> None:
    """Run the command line."""
    command_line.run(command)


if __name__ == "__main__":
    main()
