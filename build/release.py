"""`python -m build.release`: join the bundles of several hosts into one release with an index, or reject them.

<out>/index.json                    the contents of the release; index.html shows the same as a page
<out>/<platform>/<arch>/            each bundle unchanged, so that runtime can serve the folder
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
# The parts of a key that may differ between architectures. Every other part must be equal, so that a new part is
# compared until it is added here.
MAY_DIFFER = frozenset({"arch", "compiler", "graph", "options", "precision", "toolchain"})
_NAME_SERVED = "Build the engines to release with `python -m build.engines --arch ARCH`, and name their folder"
_REBUILD = "Build both bundles from the same export, with the same release of Voxwright"


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """A bundle to release, and its folder."""

    folder: Path
    manifest: BundleManifest

    @property
    def engines(self) -> dict[str, EngineRecord]:
        """Return its engines by name: `body_standard/batch`."""
        return {f"{engine.model}/{engine.mode}": engine for engine in self.manifest.engines}

    @property
    def is_compile_check(self) -> bool:
        """Return whether no Triton backend loads its engines."""
        return platform(self.manifest.platform).backend is None

    @property
    def place(self) -> str:
        """Return its folder in a release."""
        return f"{self.manifest.platform}/{self.manifest.arch.value}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleasePolicy:
    """What a release may lack or include, and the keys that must have signed it."""

    with_embedded: bool = False
    allow_missing: frozenset[Arch] = frozenset()
    trusted_keys: tuple[Path, ...] = ()
    allow_unsigned: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexedBundle:
    """A bundle in the index."""

    folder: str
    platform: str
    arch: str
    manifest_sha256: str
    size_bytes: int
    """The size of all its files and its manifest."""
    models: dict[str, tuple[str, ...]]
    """The modes of every model."""
    signature_key: str | None
    """Fingerprint of the key that signed it; None for an unsigned one."""
    verified: bool
    """Whether that key is trusted and the signature is valid."""
    report: str | None
    """The path of its report below its folder; None without a report."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Index:
    """The contents of a release."""

    platform: str
    architectures: tuple[str, ...]
    missing: tuple[str, ...]
    """The architectures of the platform without a bundle, which the policy allowed."""
    bundles: tuple[IndexedBundle, ...]

    def to_json(self) -> str:
        """Return the index as JSON text."""
        return json.dumps({"schema_version": SCHEMA_VERSION, **asdict(self)}, indent=2) + "\n"


def find(folders: tuple[Path, ...]) -> list[Bundle]:
    """Read the bundles of folders: a bundle itself, a platform's folder of <arch>, or a folder of <platform>/<arch>.

    Compile checks inside a folder are left out, and a line on stderr states it. A compile check that is named itself
    raises ReleaseError, and so does a folder with nothing else. Raises BundleError for a folder without a bundle.
    """
    bundles = []
    for folder in folders:
        if (folder / MANIFEST_FILE).is_file():
            bundle = Bundle(folder=folder, manifest=load(folder))
            if bundle.is_compile_check:
                raise ReleaseError(folder, "it is a compile check, which no server can load", _NAME_SERVED)
            bundles.append(bundle)
        else:
            bundles += _inside(folder)
    return bundles


def _inside(folder: Path) -> list[Bundle]:
    manifests = (*folder.glob(f"*/{MANIFEST_FILE}"), *folder.glob(f"*/*/{MANIFEST_FILE}"))
    # A leading dot marks a bundle that a build is still writing. A folder without a manifest makes `load` raise.
    paths = sorted(path.parent for path in manifests if not path.parent.name.startswith(".")) or [folder]
    found = [Bundle(folder=path, manifest=load(path)) for path in paths]
    served = [bundle for bundle in found if not bundle.is_compile_check]
    if not served:
        raise ReleaseError(folder, "it contains only compile checks, which no server can load", _NAME_SERVED)
    for bundle in found:
        if bundle.is_compile_check:
            print(f"release leaves out {bundle.folder}: a compile check, which no server can load", file=sys.stderr)
    return served


def release(bundles: list[Bundle], policy: ReleasePolicy, out: Path) -> Index:
    """Join bundles atomically: a reader sees either the old release or the complete new one.

    Raises ReleaseError for bundles that do not belong together, BundleError for a damaged bundle, and SignatureError
    for a bundle without a valid signature of a trusted key.
    """
    name = _check_together(bundles, policy, out)
    verified = _signed(bundles, policy)
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
            pages.render("release.html.jinja", index=index, gpus={arch.value: arch.example_gpus for arch in Arch}),
        )
    return index


def check(bundles: list[Bundle], policy: ReleasePolicy, out: Path) -> None:
    """Raise the error of `release` for bundles that would be rejected whatever their signatures are."""
    _check_together(bundles, policy, out)
    for bundle in bundles:
        verification.check(bundle.folder, bundle.manifest)


def _check_together(bundles: list[Bundle], policy: ReleasePolicy, out: Path) -> str:
    """Return the platform of the release; raise ReleaseError for bundles that do not form one."""
    name = _platform(bundles, policy)
    check_architectures(bundles, name, policy.allow_missing)
    for bundle in bundles:
        check_gates(bundle)
    for first, second in combinations(bundles, 2):
        check_alike(first, second)
    _check_out(out, bundles)
    return name


def architectures(platform_name: str) -> tuple[Arch, ...]:
    """List the architectures that a release of a platform must contain: all that its server runs on."""
    on_cpu = platform(platform_name).tensorrt is None
    return tuple(arch for arch in Arch if (arch.capability is None) == on_cpu)


def check_architectures(bundles: list[Bundle], platform_name: str, allow_missing: frozenset[Arch]) -> None:
    """Raise ReleaseError for two bundles of one architecture, and for an architecture without a bundle."""
    seen: dict[str, Bundle] = {}
    for bundle in bundles:
        if bundle.place in seen:
            cause = f"it is for {bundle.manifest.arch.value}, as is {seen[bundle.place].folder}"
            raise ReleaseError(bundle.folder, cause, "Name only one of the two")
        seen[bundle.place] = bundle
    wanted = [arch for arch in architectures(platform_name) if f"{platform_name}/{arch.value}" not in seen]
    missing = [arch for arch in wanted if arch not in allow_missing]
    if missing:
        build = f"Build it with `python -m build.engines --arch {missing[0].value} --platform {platform_name}`"
        without = " ".join(f"--allow-missing {arch.value}" for arch in missing)
        raise ReleaseError(
            f"release for platform {platform_name}",
            f"there is no bundle for {', '.join(f'{arch.value} ({arch.example_gpus})' for arch in missing)}",
            f"{build}, or release without it: {without}",
        )


def check_gates(bundle: Bundle) -> None:
    """Raise ReleaseError for an engine whose accuracy was not checked, and for a bundle without engines."""
    if not bundle.engines:
        raise ReleaseError(bundle.folder, "it contains no engine", "Build it again, or omit it")
    for name, engine in bundle.engines.items():
        if engine.gate.outcome != PASSED:
            raise ReleaseError(
                f"{bundle.folder} ({name})",
                f"its accuracy was not checked: {engine.gate.reason or engine.gate.outcome}",
                "Build it on a host that can run it, or omit the bundle",
            )


def check_alike(first: Bundle, second: Bundle) -> None:
    """Raise ReleaseError unless two bundles have the same models, weights and build rules."""
    for one, other in ((first, second), (second, first)):
        lacking = [name for name in other.engines if name not in one.engines]
        if lacking:
            raise ReleaseError(one.folder, f"it lacks {', '.join(lacking)}, which {other.folder} has", _REBUILD)
    for name, engine in first.engines.items():
        part = next(_differing(engine, second.engines[name], same_platform=_same_platform(first, second)), None)
        if part is not None:
            cause = f"its {part} differs from that of the same engine in {first.folder}"
            raise ReleaseError(f"{second.folder} ({name})", cause, _REBUILD)


def _platform(bundles: list[Bundle], policy: ReleasePolicy) -> str:
    """Return the platform of the release: `embedded` only where there is no other."""
    names = list(dict.fromkeys(bundle.manifest.platform for bundle in bundles))
    others = [name for name in names if name != EMBEDDED]
    if len(others) > 1:
        name = min(others)
        folders = " ".join(str(each.folder) for each in bundles if each.manifest.platform == name)
        raise ReleaseError(
            f"platforms {' and '.join(sorted(others))}",
            "a release is for one platform",
            f"Name the bundles of one: `python -m build.release {folders}`",
        )
    if others and EMBEDDED in names and not policy.with_embedded:
        folder = next(bundle.folder for bundle in bundles if bundle.manifest.platform == EMBEDDED)
        cause = f"it is for platform {EMBEDDED}, and the release for {others[0]}"
        raise ReleaseError(folder, cause, "Add --with-embedded to include it, or name only the other bundles")
    return (others or names)[0]


def _same_platform(first: Bundle, second: Bundle) -> bool:
    return first.manifest.platform == second.manifest.platform


def _differing(first: EngineRecord, second: EngineRecord, *, same_platform: bool) -> Iterator[str]:
    """Yield the parts of two keys that must be equal and differ, as words for a sentence."""
    ours, theirs = first.key_parts, second.key_parts
    wanted = ["reference", *(part for part in {**ours, **theirs} if part not in {"reference", *MAY_DIFFER})]
    wanted += ["graph"] if first.precision == second.precision else []
    wanted += ["toolchain"] if same_platform else []
    for part in wanted:
        # A key without a part proves nothing about that part.
        if part not in ours or part not in theirs or ours[part] != theirs[part]:
            yield {"reference": "graph in FP32", "graph": f"graph in {first.precision.upper()}"}.get(part, part)


def _signed(bundles: list[Bundle], policy: ReleasePolicy) -> list[bool]:
    """Return for each bundle whether a trusted key signed it; raise SignatureError where that is required."""
    if not policy.trusted_keys and not policy.allow_unsigned:
        cause = "it is missing, so that no signature can be verified"
        raise SettingError(
            "--trusted-key", cause, "Name a public key, or release unsigned bundles with --allow-unsigned"
        )
    trusted = [signature.load_public_key(path) for path in policy.trusted_keys]
    verdicts = [signature.verify(bundle.manifest, trusted) for bundle in bundles]
    for bundle, verdict in zip(bundles, verdicts, strict=True):
        if not (verdict is Verdict.UNSIGNED and policy.allow_unsigned):
            verification.check_signature(bundle.folder, verdict)
    return [verdict is Verdict.TRUSTED for verdict in verdicts]


def _check_out(out: Path, bundles: list[Bundle]) -> None:
    # The whole folder is replaced: files of something else, or a bundle inside, would be lost.
    subject, remedy = f"--out {out}", "Name a folder that is used only for the release"
    if out.exists() and not (out / INDEX_FILE).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise SettingError(subject, "it exists and is not a release, and the whole folder would be replaced", remedy)
    for bundle in bundles:
        if bundle.folder.resolve().is_relative_to(out.resolve()):
            raise SettingError(subject, f"{bundle.folder} is in it, and the whole folder would be replaced", remedy)
    verification.check_outside_bundles(out, "--out")


def _take(bundle: Bundle, staging: Path, *, verified: bool) -> IndexedBundle:
    target, manifest = staging / bundle.place, bundle.manifest
    verification.check(bundle.folder, manifest)
    for file in (MANIFEST_FILE, *(each.file for each in manifest.every_file())):
        files.link_or_copy(bundle.folder / file, target / file)
    # Files may have been copied rather than linked, so the release itself is checked again. A build may have replaced
    # the bundle since its manifest was read and the signature verified.
    if load(target).to_json() != manifest.to_json():
        raise ReleaseError(bundle.folder, "it changed while it was released", "Run the command again")
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
@click.option("--with-embedded", is_flag=True, help="Include the CPU bundle with those of a GPU platform.")
@click.option("--allow-missing", multiple=True, metavar="ARCH", help="Release without this architecture; repeatable.")
@click.option(
    "--trusted-key",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A public key, PEM; every bundle must be signed by one of the keys. Repeatable.",
)
@click.option("--allow-unsigned", is_flag=True, help="Also release unsigned bundles.")
@click.option("--check", "only_check", is_flag=True, help="Check all but the signatures, print BUNDLEs, write nothing.")
@command_line.verbose_option()
def command(
    folders: tuple[Path, ...],
    out: Path,
    allow_missing: tuple[str, ...],
    trusted_key: tuple[Path, ...],
    *,
    with_embedded: bool,
    allow_unsigned: bool,
    only_check: bool,
) -> None:
    """Join BUNDLEs, or folders of bundles such as dist/engines, into one release for one platform."""
    policy = ReleasePolicy(
        with_embedded=with_embedded,
        allow_missing=frozenset(map(Arch.parse, allow_missing)),
        trusted_keys=trusted_key,
        allow_unsigned=allow_unsigned,
    )
    bundles = find(folders)
    if only_check:
        check(bundles, policy, out)
        print(*(bundle.folder for bundle in bundles), sep="\n")
        return
    index = release(bundles, policy, out)
    for bundle in index.bundles:
        signed = f"signed by {bundle.signature_key}" if bundle.verified else "not verified"
        print(f"release {bundle.folder:<16} {len(bundle.models)} models, {signed}", file=sys.stderr)
    print(f"release {out}: platform {index.platform}, {', '.join(index.architectures)}", file=sys.stderr)


def main() -> None:
    """Run the command line."""
    command_line.run(command)


if __name__ == "__main__":
    main()
