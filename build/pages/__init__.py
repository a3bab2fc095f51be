"""Render the HTML pages of bundles and releases with jinja2; a page loads no other file."""

import json
import math
from pathlib import Path
from typing import Any

from build import keys, units

_TIMES = "\N{MULTIPLICATION SIGN}"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def render(template: str, **values: Any) -> str:
    """Render a template of this folder; values are escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415 - `--help` works without it

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "mebibytes": units.mebibytes,
        "dims": lambda dims: f" {_TIMES} ".join("n" if size < 0 else str(size) for size in dims) or "scalar",
        "figure": figure,
        "power": lambda exponent: "1" if exponent == 0 else "10" + str(exponent).translate(_SUPERSCRIPTS),
        "anchor": lambda name: name.replace("/", "-"),
        "sentence": keys.sentence,
        "percent": lambda share: f"{100 * share:.3g} %" if math.isfinite(share) else "infinite",
        "pretty": lambda value: json.dumps(value, indent=2, ensure_ascii=False),
    }
    return environment.get_template(template).render(values)


def figure(value: float) -> str:
    """Return a measured number with two significant digits: 0, 0.25, 1.3e-05, 321."""
    if value == 0.0 or not math.isfinite(value):
        return "0" if value == 0.0 else {"nan": "not a number"}.get(str(value), "infinite")
    exponent = math.floor(math.log10(abs(value)))
    if exponent in range(-2, 1):
        return f"{value:.{1 - exponent}f}"
    return f"{value:,.0f}" if exponent in range(1, 7) else f"{value:.1e}"
