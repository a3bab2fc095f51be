"""python -m build.release: the bundles of several hosts become one release, with an index, or a reason why not.

<out>/index.json                    what the release holds; index.html says the same to people
<out>/<platform>/<arch>/            each bundle as it was built, so that runtime serves the folder as it is
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

import click

from build import pages
from build.report import REPORT_FILE
from contract import command_line, digest, files, signature, verification
from contract.arch import Arch
from contract.errors import ReleaseError, SettingError
from contract.manifest import MANIFEST_FILE, PASSED, BundleManifest, EngineRecord, load
from contract.platform import platform
from contract.signature import Verdict

SCHEMA_VERSION = 1
INDEX_FILE = "index.json"
INDEX_PAGE = "index.html"
EMBEDDED = "embedded"
# What decides an engine and may differ from one architecture to the next; every other part of a key must not, so that a
# part that is new is compared until someone says here that it may differ.
MAY_DIFFER = frozenset({"arch", "compiler", "graph", "options", "precision", "toolchain"})
_REBUILD = "Build both from the same export, with the same release of Voxwright"


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """A bundle that is to be released, and the folder it is in."""

    folder: Path
    manifest: BundleManifest

    @property
    def engines(self) -> dict[str, EngineRecord]:
        """Give its engines by name: `body_standard/batch`."""
        return {f"{engine.model}/{engine.mode}": engine for engine in self.manifest.engines}

    @property
    def place(self) -> str:
        """Give its folder in a release."""
        return f"{self.manifest.platform}/{self.manifest.arch.value}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """What a release is held to."""

    with_embedded: bool = False
    allow_missing: frozenset[Arch] = frozenset()
    trusted_keys: tuple[Path, ...] = ()
    allow_unsigned: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexedBundle:
    """What the index says of a bundle."""

    folder: str
    platform: str
    arch: str
    manifest_sha256: str
    size_bytes: int
    """All its files, the manifest included."""
    models: dict[str, tuple[str, ...]]
    """The modes of every model."""
    signature_key: str | None
    """Fingerprint of the key that signed it; None for an unsigned one."""
    verified: bool
    """Whether that key was a trusted one and the signature right."""
    report: str | None
    """Its report, a path below its folder; None where it has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Index:
    """What a release holds."""

    platform: str
    architectures: tuple[str, ...]
    missing: tuple[str, ...]
    """Architectures of the platform that it was allowed to lack."""
    bundles: tuple[IndexedBundle, ...]

    def to_json(self) -> str:
        """Write the index as text."""
        return json.dumps({"schema_version": SCHEMA_VERSION, **asdict(self)}, indent=2) + "\n"


def find(folders: tuple[Path, ...]) -> list[Bundle]:
    """Read the bundles of folders, each a bundle itself or holding <platform>/<arch>; raise BundleError for none."""
    bundles = []
    for folder in folders:
        inner = [path.parent for path in sorted(folder.glob(f"*/*/{MANIFEST_FILE}"))]
        # A name with a dot in front is a bundle that a build is still writing.
        whole = [path for path in inner if not path.name.startswith(".")]
        is_bundle = (folder / MANIFEST_FILE).is_file() or not whole
        bundles += [Bundle(folder=path, manifest=load(path)) for path in ([folder] if is_bundle else whole)]
    return bundles


def release(bundles: list[Bundle], terms: Terms, out: Path) -> Index:
    """Join bundles in one step: whoever looks finds the old release or the whole new one.

    Raise ReleaseError for bundles that do not belong together, BundleError for a damaged one, SignatureError for one
    that no trusted key signed.
    """
    name = _platform(bundles, terms)
    check_architectures(bundles, name, terms.allow_missing)
    for bundle in bundles:
        check_gates(bundle)
    for first, second in combinations(bundles, 2):
        check_alike(first, second)
    verified = _signed(bundles, terms)
    _check_out(out, bundles)
    with files.replacing(out) as staging:
        indexed = [_take(bundle, staging, verified=sure) for bundle, sure in zip(bundles, verified, strict=True)]
        here = {bundle.manifest.arch for bundle in bundles if bundle.manifest.platform == name}
        index = Index(
            platform=name,
            architectures=tuple(arch.value for arch in Arch if arch in here),
            missing=tuple(arch.value for arch in architectures(name) if arch not in here),
            bundles=tuple(sorted(indexed, key=lambda each: each.folder)),
        )
        files.write(staging / INDEX_FILE, index.to_json())
        files.write(
            staging / INDEX_PAGE,
            pages.render("release.html.jinja", index=index, gpus={arch.value: arch.gpus for arch in Arch}),
        )
    return index


def architectures(platform_name: str) -> tuple[Arch, ...]:
    """List the architectures that a release of a platform has to hold: all that its server runs on."""
    on_cpu = platform(platform_name).tensorrt is None
    return tuple(arch for arch in Arch if (arch.capability is None) == on_cpu)


def check_architectures(bundles: list[Bundle], platform_name: str, allow_missing: frozenset[Arch]) -> None:
    """Raise ReleaseError for two bundles of one architecture, and for an architecture that has none."""
    seen: dict[str, Bundle] = {}
    for bundle in bundles:
        if bundle.place in seen:
            cause = f"it is for {bundle.manifest.arch.value}, as {seen[bundle.place].folder} is"
            raise ReleaseError(bundle.folder, cause, "Name one of the two")
        seen[bundle.place] = bundle
    wanted = [arch for arch in architectures(platform_name) if f"{platform_name}/{arch.value}" not in seen]
    missing = [arch for arch in wanted if arch not in allow_missing]
    if missing:
        build = f"Build it with `python -m build.engines --arch {missing[0].value} --platform {platform_name}`"
        without = " ".join(f"--allow-missing {arch.value}" for arch in missing)
        raise ReleaseError(
            f"release for platform {platform_name}",
            f"there is no bundle for {', '.join(f'{arch.value} ({arch.gpus})' for arch in missing)}",
            f"{build}, or release without: {without}",
        )


def check_gates(bundle: Bundle) -> None:
    """Raise ReleaseError for an engine whose accuracy was not checked, and for a bundle without any."""
    if not bundle.engines:
        raise ReleaseError(bundle.folder, "it holds no engine", "Build it again, or leave it out")
    for name, engine in bundle.engines.items():
        if engine.gate.outcome != PASSED:
            raise ReleaseError(
                f"{bundle.folder} ({name})",
                f"its accuracy was not checked: {engine.gate.reason or engine.gate.outcome}",
                "Build it on a host that can run it, or leave the bundle out",
            )


def check_alike(first: Bundle, second: Bundle) -> None:
    """Raise ReleaseError unless two bundles hold the same models, made from the same weights under the same rules."""
    for one, other in ((first, second), (second, first)):
        lacking = [name for name in other.engines if name not in one.engines]
        if lacking:
            raise ReleaseError(one.folder, f"it lacks {', '.join(lacking)}, which {other.folder} has", _REBUILD)
    for name, engine in first.engines.items():
        part = next(_differing(engine, second.engines[name], same_platform=_same_platform(first, second)), None)
        if part is not None:
            cause = f"its {part} is not that of the same engine in {first.folder}"
            raise ReleaseError(f"{second.folder} ({name})", cause, _REBUILD)


def _platform(bundles: list[Bundle], terms: Terms) -> str:
    """Name the platform of the release; the embedded one counts only where there is no other."""
    names = list(dict.fromkeys(bundle.manifest.platform for bundle in bundles))
    others = [name for name in names if name != EMBEDDED]
    if len(others) > 1:
        raise ReleaseError(
            f"platforms {' and '.join(sorted(others))}", "a release is for one platform", "Make a release of each"
        )
    if others and EMBEDDED in names and not terms.with_embedded:
        folder = next(bundle.folder for bundle in bundles if bundle.manifest.platform == EMBEDDED)
        cause = f"it is for platform {EMBEDDED}, and the release for {others[0]}"
        raise ReleaseError(folder, cause, "Let it accompany the release with --with-embedded, or leave it out")
    return (others or names)[0]


def _same_platform(first: Bundle, second: Bundle) -> bool:
    return first.manifest.platform == second.manifest.platform


def _differing(first: EngineRecord, second: EngineRecord, *, same_platform: bool) -> Iterator[str]:
    """Name the parts of two keys that should be equal and are not, in words."""
    ours, theirs = first.key_parts, second.key_parts
    wanted = ["reference", *(part for part in {**ours, **theirs} if part not in {"reference", *MAY_DIFFER})]
    wanted += ["graph"] if first.precision == second.precision else []
    wanted += ["toolchain"] if same_platform else []
    for part in wanted:
        # A key that does not name its graph proves nothing about it.
        if part not in ours or part not in theirs or ours[part] != theirs[part]:
            yield {"reference": "graph in FP32", "graph": f"graph in {first.precision.upper()}"}.get(part, part)


def _signed(bundles: list[Bundle], terms: Terms) -> list[bool]:
    """Say of each bundle whether a trusted key signed it; raise SignatureError for one that needs it and is not."""
    if not terms.trusted_keys and not terms.allow_unsigned:
        cause = "it is not given, so no signature can be verified"
        raise SettingError("--trusted-key", cause, "Name a public key, or release what is not signed: --allow-unsigned")
    trusted = [signature.public_key(path) for path in terms.trusted_keys]
    verdicts = [signature.judge(bundle.manifest, trusted) for bundle in bundles]
    for bundle, verdict in zip(bundles, verdicts, strict=True):
        if not (verdict is Verdict.UNSIGNED and terms.allow_unsigned):
            verification.check_signature(bundle.folder, verdict)
    return [verdict is Verdict.TRUSTED for verdict in verdicts]


def _check_out(out: Path, bundles: list[Bundle]) -> None:
    # It is replaced as a whole: a folder of something else would be lost, and so would a bundle inside.
    subject, remedy = f"--out {out}", "Name a folder that is for the release alone"
    if out.exists() and not (out / INDEX_FILE).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise SettingError(subject, "it exists and is no release, and it would be replaced as a whole", remedy)
    for bundle in bundles:
        if bundle.folder.resolve().is_relative_to(out.resolve()):
            raise SettingError(subject, f"{bundle.folder} lies in it, and it would be replaced as a whole", remedy)


def _take(bundle: Bundle, staging: Path, *, verified: bool) -> IndexedBundle:
    target, manifest = staging / bundle.place, bundle.manifest
    verification.check(bundle.folder, manifest)
    for file in (MANIFEST_FILE, *(each.file for each in manifest.every_file())):
        files.link_or_copy(bundle.folder / file, target / file)
    # What was copied rather than linked is read again: the release itself is what has to be whole.
    verification.check(target, manifest)
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    models: dict[str, tuple[str, ...]] = {}
    for engine in manifest.engines:
        models[engine.model] = (*models.get(engine.model, ()), engine.mode)
    return IndexedBundle(
        folder=bundle.place,
        platform=manifest.platform,
        arch=manifest.arch.value,
        manifest_sha256=digest.of_file(target / MANIFEST_FILE),
        size_bytes=size,
        models=models,
        signature_key=manifest.signature.key if manifest.signature else None,
        verified=verified,
        report=next((each.file for each in manifest.files if each.file == REPORT_FILE), None),
    )


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="BUNDLE...")
@click.option("--out", type=click.Path(path_type=Path), default=Path("dist/release"), show_default=True)
@click.option("--with-embedded", is_flag=True, help="Let the CPU bundle accompany those of a GPU platform.")
@click.option("--allow-missing", multiple=True, metavar="ARCH", help="Release without it; may be repeated.")
@click.option(
    "--trusted-key",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A public key that every bundle must be signed with, or with another that is named; may be repeated.",
)
@click.option("--allow-unsigned", is_flag=True, help="Release bundles that nobody signed as well.")
@click.option("--verbose", is_flag=True, help="Add the traceback to a refusal.")
def command(
    folders: tuple[Path, ...],
    out: Path,
    allow_missing: tuple[str, ...],
    trusted_key: tuple[Path, ...],
    *,
    with_embedded: bool,
    allow_unsigned: bool,
    verbose: bool,  # noqa: ARG001 - contract.errors.guard reads it
) -> None:
    """Join bundles, or folders that hold them as <platform>/<arch>, into one release for one platform."""
    terms = Terms(
        with_embedded=with_embedded,
        allow_missing=frozenset(map(Arch.parse, allow_missing)),
        trusted_keys=trusted_key,
        allow_unsigned=allow_unsigned,
    )
    index = release(find(folders), terms, out)
    for bundle in index.bundles:
        signed = f"signed by {bundle.signature_key}" if bundle.verified else "not verified"
        print(f"release {bundle.folder:<16} {len(bundle.models)} models, {signed}", file=sys.stderr)
    print(f"release {out}: platform {index.platform}, {', '.join(index.architectures)}", file=sys.stderr)


def main() -> None:
    """Run the command line."""
    command_line.run(command)


if __name__ == "__main__":
    main()
