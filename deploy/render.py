"""`python -m deploy.render`: writes deploy/kubernetes from the charts, for those who have no Helm."""

import sys
from pathlib import Path
from typing import Any

from contract import files
from contract.arch import Arch
from contract.errors import guard

_DEPLOY = Path(__file__).parent
CHARTS = _DEPLOY / "helm"
MANIFESTS = _DEPLOY / "kubernetes"
NAMESPACE = "voxwright"
_HEAD = "# Made by `python -m deploy.render` from deploy/helm/{chart}; change that instead.\n"
# Every architecture with a GPU, so that a reader deletes what he lacks rather than writes what he needs.
VALUES: dict[str, dict[str, Any]] = {
    "voxwright": {
        "architectures": {arch.value: {"replicas": 1, "maxReplicas": 4} for arch in Arch if arch is not Arch.CPU},
        "licence": {"secretName": "voxwright-licence"},
    },
    "voxwright-bulk": {"list": "# One recording a line, below the volume of recordings.\ncalls/0001.wav\n"},
}


def manifests(chart: str, values: dict[str, Any]) -> str:
    """Render a chart as one text of YAML documents; raise HelmError, Helm's own, for values that it refuses."""
    # Helm's library is large, and only those who change a chart have it.
    from helm_python import Chart  # noqa: PLC0415

    with Chart.load(CHARTS / chart) as loaded:
        rendered = loaded.render(values, name=chart, namespace=NAMESPACE)
    texts = (text.strip() for path, text in sorted(rendered.items()) if path.endswith(".yaml"))
    return "\n---\n".join(text.removeprefix("---").strip() for text in texts if text) + "\n"


def run() -> None:
    """Write one file a chart."""
    for chart, values in VALUES.items():
        target = MANIFESTS / f"{chart}.yaml"
        files.write(target, _HEAD.format(chart=chart) + manifests(chart, values))
        print(target, file=sys.stderr)


if __name__ == "__main__":
    guard(run)
