"""What must hold before a start: each can be tried without changing anything, by the start itself and by the doctor."""

import os
from collections.abc import Callable
from dataclasses import dataclass

from contract import verification
from contract.platform import Platform
from runtime import embedded, launch, repository
from runtime.selection import Selection
from runtime.settings import Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """Something that holds, or raises a VoxwrightError."""

    name: str
    run: Callable[[], object]


def before_assembly(chosen: Settings, selection: Selection) -> list[Check]:
    """List what is tried before the repository is touched, in this order."""
    starting = [
        Check(name="ports", run=lambda: launch.check_ports(chosen.ports)),
        Check(name="server", run=lambda: locate_server(selection.target.platform)),
    ]
    config = Check(name="repository", run=lambda: repository.check(selection, chosen.repository, chosen.threads))
    return [*([] if chosen.assemble_only else starting), config]


def every(chosen: Settings, selection: Selection) -> list[Check]:
    """List all of it: the files of the bundles, which assembly verifies, as well."""
    files = Check(name="files", run=lambda: verify(selection))
    return [*before_assembly(chosen, selection), files]


def locate_server(platform: Platform) -> None:
    """Raise ServerUnavailableError where the server of a platform is not here."""
    if platform.cuda is not None:
        launch.installed(platform, os.environ)
    else:
        embedded.locate()


def verify(selection: Selection) -> None:
    """Read every file of the bundles that are served from; raise BundleError for one that is not as recorded."""
    for bundle in repository.sources(selection):
        verification.check(bundle.folder, bundle.manifest)
