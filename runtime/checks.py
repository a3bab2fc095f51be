"""List the checks before assembly; none changes anything, and both the start and the doctor run them."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from contract import verification
from contract.platform import Platform
from runtime import embedded, launch, listening, repository
from runtime.selection import Selection
from runtime.settings import Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """A named check; `run` raises a VoxwrightError when it fails."""

    name: str
    run: Callable[[], object]


def before_assembly(chosen: Settings, selection: Selection) -> list[Check]:
    """Return the checks that run before the repository is changed, in this order."""
    starting = [
        Check(name="ports", run=lambda: listening.check_ports(chosen.ports, chosen.addresses)),
        Check(name="server", run=lambda: locate_server(selection.target.platform, chosen.repository)),
    ]
    config = Check(name="repository", run=lambda: repository.check(selection, chosen.repository, chosen.threads))
    return [*([] if chosen.assemble_only else starting), config]


def every(chosen: Settings, selection: Selection) -> list[Check]:
    """Return all checks, including the files of the bundles, which a start verifies during assembly."""
    files = Check(name="files", run=lambda: verify(selection))
    return [*before_assembly(chosen, selection), files]


def locate_server(platform: Platform, assembled: Path) -> None:
    """Raise ServerUnavailableError where the server of a platform is not installed.

    Raise SettingError where the folder of its backends, next to the repository, has other content.
    """
    if platform.cuda is not None:
        launch.installed(platform, os.environ)
    else:
        embedded.locate()
        embedded.check_backends(embedded.backends_of(assembled))


def verify(selection: Selection) -> None:
    """Hash every file of the bundles in use; raise BundleError for a file that differs from the manifest."""
    for bundle in repository.sources(selection):
        verification.check(bundle.folder, bundle.manifest)
