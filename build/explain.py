"""`python -m build.explain`: print the parts of an engine's key, or what changed since the previous engine."""

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
@click.option("--why", is_flag=True, help="Print only the parts that changed since the last build.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@command_line.verbose_option()
def command(
    bundle: Path,
    model: str,
    mode: str,
    *,
    why: bool,
    as_json: bool,
) -> None:
    """Print the parts of the key of MODEL, such as body_standard, in a BUNDLE, such as dist/engines/26.08/sm86."""
    record = find(bundle, model, mode)
    if as_json:
        changed = {change.part: [change.before, change.after] for change in record.changes}
        print(json.dumps({"key": record.key, "parts": record.key_parts, "changes": changed}, indent=2))
        return
    print("\n".join(reasons(record) if why else parts(record)))


def find(bundle: Path, model: str, mode: str) -> EngineRecord:
    """Return an engine's record from a bundle; raise SettingError with the list of its engines."""
    engines = load(bundle).engines
    for record in engines:
        if (record.model, record.mode) == (model, mode):
            return record
    known = ", ".join(f"{record.model} {record.mode}" for record in engines) or "none"
    raise SettingError(f"{model} {mode}", f"it is not in the bundle {bundle}", f"Choose one of: {known}")


def parts(record: EngineRecord) -> list[str]:
    """Return the key and its parts, one line each."""
    flat = dict(keys.flat(record.key_parts))
    width = max(map(len, flat), default=0)
    return [f"key {record.key}", *(f"{name:<{width}}  {value}" for name, value in flat.items())]


def reasons(record: EngineRecord) -> list[str]:
    """Return what changed, one line each."""
    if not record.changes:
        return [f"{record.model} {record.mode} is the first engine of this model and mode in this bundle"]
    return [keys.sentence(change) for change in record.changes]


def main() -> None:
    """Run the command line."""
    command_line.run(command)


if __name__ == "__main__":
    main()
