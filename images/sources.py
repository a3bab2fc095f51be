"""What pip needs on this host, as secrets of a build."""

import os
import sys
from pathlib import Path

from images.host import run

CA_FILE = Path(os.environ.get("PIP_CERT") or "/etc/ssl/certs/ca-certificates.crt")


def secrets(folder: Path) -> list[str]:
    """Give the build what pip needs here, as secrets: they are there while a step runs and in no layer."""
    lines = ["[global]"]
    for key in ("index-url", "extra-index-url", "trusted-host"):
        for name in (f"global.{key}", f":env:.{key}"):
            found = run(sys.executable, "-m", "pip", "config", "get", name, check=False)
            # An index on this host's disk is not there in the build.
            values = [each for each in found.stdout.split() if not each.startswith("file:")]
            if found.returncode == 0 and values:
                lines.append(f"{key} = {' '.join(values)}")
    given = []
    if CA_FILE.is_file():
        lines.append("cert = /etc/ca.pem")
        given.append(f"--secret=id=ca.pem,src={CA_FILE}")
    configuration = folder / "pip.conf"
    configuration.write_text("\n".join(lines) + "\n")
    return [f"--secret=id=pip.conf,src={configuration}", *given]
