"""Command line `python -m runtime`: assemble a Triton repository from bundles and start tritonserver."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click

from contract.catalogue import Catalogue
from contract.platform import Platform
from runtime import checks, embedded, flags, launch, listening, log, options, repository, shared_memory
from runtime.decision import DETECTION_SKIPPED, Decision, observe
from runtime.selection import Selection, explain
from runtime.server import Server
from runtime.settings import Settings


def parse(arguments: Sequence[str]) -> Settings:
    """Return the settings of a command line and the environment; raise SettingError, or SystemExit for --help."""
    return options.read(options.parse(command(), arguments))


def command() -> click.Command:
    """Return the click command."""
    about = "Select the engines that fit this machine, assemble a Triton repository and start tritonserver."
    return options.command("voxwright-serve", about)


def run(chosen: Settings) -> None:
    """Decide, verify, assemble and start; does not return when the server starts."""
    decision = observe(chosen, os.environ)
    log_target(decision, chosen.catalogue)
    selection = decision.selection_or_raise()
    log_selection(selection)
    # All checks run before the repository changes: a failed start must not disturb the server that reads it.
    for check in checks.before_assembly(chosen, selection):
        check.run()
    # Never closed: tritonserver, which replaces this process, holds it until it ends.
    repository.hold(chosen.repository)
    repository.assemble(selection, chosen.repository, chosen.threads)
    if not chosen.assemble_only:
        log_addresses(chosen)
        server = find_server(selection.target.platform, chosen.repository)
        launch.start(server, launch.arguments(server, chosen, pool_flags(decision)))


def pool_flags(decision: Decision) -> tuple[str, ...]:
    """Return the flags of Triton's memory pools; a CPU platform has none."""
    budget = decision.budget
    if budget is None or decision.platform.cuda is None:
        return ()
    return flags.pools(budget.cuda_pool_bytes, budget.pinned_pool_bytes)


def find_server(platform: Platform, assembled: Path) -> Server:
    """Return the server of a platform; the embedded one gets a backend folder next to the repository."""
    if platform.cuda is not None:
        return launch.installed(platform, os.environ)
    shared_memory.sweep()
    return embedded.prepare(embedded.locate(), embedded.backends_of(assembled), os.environ)


def log_target(decision: Decision, catalogue: Catalogue) -> None:
    """Log the licence, the target architecture and the warnings."""
    if decision.licensing.refusal is None:
        log.info(decision.licensing.describe(catalogue))
    if decision.target is not None:
        arch = decision.target.arch.value
        for gpu in decision.detection.gpus:
            log.info(f"GPU {gpu.name}: serving arch {arch}")
        reason = decision.detection.reason
        if reason:
            selected = (
                "as selected with --platform" if reason == DETECTION_SKIPPED else f"because no GPU was found: {reason}"
            )
            log.info(f"serving arch {arch}, {selected}")
    for warning in decision.warnings:
        log.warning(str(warning))


def log_selection(selection: Selection) -> None:
    """Log what is served, in which precision, and what is not served."""
    for point, missing in selection.left_out.items():
        log.info(f"operating point {point} is not served: no engine for {', '.join(missing)}")
    for absence in selection.absent:
        log.info(str(absence))
    if selection.rejected:
        log.info(f"not used: {explain(selection.rejected)}")
    log.info(f"serving {' and '.join(selection.operating_points)}: {', '.join(selection.models())}")
    for precision, names in selection.precisions().items():
        log.info(f"precision {precision.upper()}: {', '.join(names)}")


def log_addresses(chosen: Settings) -> None:
    """Log where the server listens on one family of addresses only."""
    remark = listening.remark(chosen.addresses, listening.families())
    if remark is not None:
        log.info(remark)


def main() -> NoReturn:
    """Run the command line."""
    log.guard(lambda: run(parse(sys.argv[1:])))


if __name__ == "__main__":
    main()
