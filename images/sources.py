"""Pass this host's pip configuration to a build as secrets."""

import os
import sys
from pathlib import Path

from images.host import run

CA_FILE = Path(os.environ.get("PIP_CERT") or "/etc/ssl/certs/ca-certificates.crt")


def secrets(folder: Path) -> list[str]:
    """Return the options that pass this host's pip configuration to a build as secrets.

    A secret is mounted while a step runs and is stored in no layer.
    """
    lines = ["[global]"]
    for key in ("index-url", "extra-index-url", "trusted-host"):
        for name in (f"global.{key}", f":env:.{key}"):
            found = run(sys.executable, "-m", "pip", "config", "get", name, check=False)
            # A package index on this host's disk is not reachable during the build.
            values = [each for each in found.stdout.split() if not each.startswith("file:")]
            if found.returncode == 0 and values:
                lines.append(f"{key} = {' '.join(values)}")
    certificate = []
    if CA_FILE.is_file():
        lines.append("cert = /etc/ca.pem")
        certificate.append(f"--secret=id=ca.pem,src={CA_FILE}")
    configuration = folder / "pip.conf"
    configuration.write_text("\n".join(lines) + "\n")
    return [f"--secret=id=pip.conf,src={configuration}", *certificate]
