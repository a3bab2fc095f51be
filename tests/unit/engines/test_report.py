"""The report: every figure of a manifest on the page, nothing fetched, nothing injected, the plots in their places."""

import dataclasses
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from build import keys, pages, report
from build.report import LogScale, Run
from contract import digest
from contract.arch import Arch
from contract.differences import Difference
from contract.manifest import NOT_RUN, Activation, BundleManifest, Change, Gate, GateCase, Signature
from tests.unit.engines import commands, made_up

ROOT = Path(__file__).parents[3]
TIMES = "\N{MULTIPLICATION SIGN}"
VOID = {"meta", "circle", "line", "br"}


class _Page(HTMLParser):
    """Reads a page: its text, its links and anchors, and whether every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            self.attributes.append((tag, name, value or ""))
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.links += [value for name, value in attrs if name == "href" and value]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


RUN = Run(
    ended="2026-11-02 09:30 UTC",
    machine="build-07 (Linux 6.1, x86_64)",
    built=("body_standard/batch",),
    reused=("lm_enhanced/batch",),
)


def _with_gate(gate: Gate) -> BundleManifest:
    made = made_up.manifest()
    return dataclasses.replace(made, engines=(dataclasses.replace(made.engines[0], gate=gate),))


def test_page_is_well_formed_and_links_resolve() -> None:
    page = _Page(report.render(made_up.manifest(), RUN))
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    assert {"body_standard-batch", "lm_enhanced-batch"} <= set(page.ids)


def test_page_loads_no_other_file() -> None:
    text = report.render(made_up.manifest(), RUN)
    assert not re.search(r"https?:|url\(|@import|<(script|link|img|iframe|object)\b|\bsrc=", text)


def test_page_contains_everything_in_the_manifest() -> None:
    made = made_up.manifest()
    text = _Page(report.render(made, RUN)).text
    assert "sm86 on 26.08" in text
    assert "tensorrt 11.2.1.2" in text
    assert "gpu NVIDIA A10, driver 580.65.06" in text
    assert "2026-11-02 09:30 UTC on build-07 (Linux 6.1, x86_64)" in text
    assert "1 built, 1 reused" in text
    assert "Every engine passed the gate. Each of the 9 engines agrees with its graph" in text
    for engine in made.engines:
        assert engine.key in text
        assert all(tensor.name in text for tensor in (*engine.inputs, *engine.outputs))
        assert all(case.name in text for case in engine.gate.cases)
    for each in made.every_file():
        assert each.file in text
        assert each.sha256 in text
    assert "1 * 32000 8 * 128000 16 * 320000".replace("*", TIMES) in text
    assert "72.0 MiB of device memory" in text


def test_page_compares_word_error_rates() -> None:
    text = _Page(report.render(made_up.manifest())).text
    assert "standard batch 5,210 7.72 % 7.62 % +0.10 +0.20" in text


def test_page_shows_headroom_of_activation() -> None:
    activation = Activation(value=-655.04, tensor="/h/Add_output_0", node="/h/Add", operator="Add")
    gate = dataclasses.replace(made_up.manifest().engines[0].gate, activation=activation)
    text = _Page(report.render(_with_gate(gate))).text
    assert f"-655 {TIMES} 100 Add /h/Add_output_0" in text


@pytest.mark.parametrize("value", [70_000.0, math.inf, math.nan])
def test_activation_beyond_fp16_has_no_headroom(value: float) -> None:
    activation = Activation(value=value, tensor="t", node="n", operator="Exp")
    gate = dataclasses.replace(made_up.manifest().engines[0].gate, activation=activation)
    text = report.render(_with_gate(gate))
    assert '<span class="bad">none</span>' in text
    assert 'class="dot beyond"' in text


def test_page_lists_changes_since_previous_engine() -> None:
    made = made_up.manifest()
    change = Change(part="toolchain.tensorrt", before='"11.2.1.1"', after='"11.2.1.2"')
    changed = dataclasses.replace(made.engines[0], changes=(change,))
    text = _Page(report.render(dataclasses.replace(made, engines=(changed,)))).text
    assert f"Changes since the previous engine of this model and mode: {keys.sentence(change)}" in text


def test_page_states_which_figures_are_absent() -> None:
    gate = Gate(outcome=NOT_RUN, reason="tensorrt_rtx engines run only on a GPU", parity=())
    made = dataclasses.replace(_with_gate(gate), accuracy=(), files=())
    bare = dataclasses.replace(
        made.engines[0], profile=None, device_memory_bytes=None, built_on={}, files=(), inputs=(), outputs=()
    )
    text = _Page(report.render(dataclasses.replace(made, engines=(bare,)))).text
    assert "Not ready for serving. The gate has not run on 1 of 1 engines" in text
    assert "○ not run · tensorrt_rtx engines run only on a GPU" in text
    for sentence in ("Nothing was measured.", "Activations were not measured.", "No word error rate was measured"):
        assert sentence in text
    assert "not recorded: this page was rendered from the manifest" in text


def test_empty_bundle_is_not_reported_as_passed() -> None:
    text = _Page(report.render(dataclasses.replace(made_up.manifest(), engines=(), files=(), accuracy=()))).text
    assert "The bundle contains no engine." in text
    assert "passed" not in text


def test_gate_without_cases_shows_largest_difference() -> None:
    parity = (Difference(output="scores", measure="relative", value=1e-5, limit=1e-4),)
    drawn = report.plot(Gate(outcome="passed", reason="4 inputs", parity=parity))
    ((case, (point,)),) = drawn.cases()
    assert (case, point.difference) == ("worst of all inputs", parity[0])
    assert point.difference.limit_ratio == pytest.approx(0.1)


def test_page_escapes_values() -> None:
    evil = "</script><b onload='x'>&"
    gate = Gate(outcome="passed", reason=evil, parity=(), cases=(GateCase(name=evil, parity=()),))
    made = dataclasses.replace(_with_gate(gate), platform=evil, toolchain={evil: evil})
    engine = dataclasses.replace(made.engines[0], model=evil, key_parts={evil: evil}, built_on={evil: evil})
    text = report.render(dataclasses.replace(made, engines=(engine,)), dataclasses.replace(RUN, machine=evil))
    assert "<b onload" not in text
    assert "&lt;b onload" in text


def test_page_does_not_call_signature_verified() -> None:
    signature = Signature(key="0a1b2c3d", value="c2lnbmVk")
    text = _Page(report.render(dataclasses.replace(made_up.manifest(), signature=signature))).text
    assert (
        "Key 0a1b2c3d Ed25519 signature c2lnbmVk Copied from the manifest; this page does not verify the signature."
        in text
    )


def test_plots_have_titles_and_tables_have_headers() -> None:
    text = report.render(made_up.manifest(), RUN)
    assert text.count("<svg") == text.count("<title>") - 1 > 50
    assert len(re.findall(r"<th\b(?![^>]*scope=)", text)) == 0
    assert text.count('<div class="scroll"') == text.count("<table")


def _luminance(colour: str) -> float:
    """Return the relative luminance of WCAG 2."""
    channels = [
        int((colour if len(colour) == 6 else "".join(digit * 2 for digit in colour))[index : index + 2], 16) / 255
        for index in (0, 2, 4)
    ]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_has_enough_contrast_in_light_dark_and_print() -> None:
    """WCAG 2 requires a contrast of 4.5 between text and background."""
    style = (ROOT / "build" / "pages" / "style.css").read_text()
    palettes = [
        dict(re.findall(r"--(\w+): #(\w+);", block)) for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    ]
    assert len(palettes) == 3
    for palette in palettes:
        for ground in ("paper", "panel"):
            for text in ("ink", "soft", "accent", "good", "open", "bad"):
                dark, light = sorted(_luminance(palette[name]) for name in (ground, text))
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (ground, text)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (0.0, "0"),
        (0.25, "0.25"),
        (1.0, "1.0"),
        (0.05, "0.050"),
        (1.26e-5, "1.3e-05"),
        (321.4, "321"),
        (32_100.0, "32,100"),
        (1.5e9, "1.5e+09"),
        (-3.25, "-3.2"),
        (math.inf, "infinite"),
        (math.nan, "not a number"),
    ],
)
def test_figures_have_two_significant_digits(value: float, wanted: str) -> None:
    assert pages.figure(value) == wanted


@pytest.mark.parametrize(
    ("value", "limit", "ratio"), [(0.0, 0.0, 0.0), (0.0, 1.0, 0.0), (1.0, 4.0, 0.25), (1.0, 0.0, math.inf)]
)
def test_largest_ratio_of_one_difference(value: float, limit: float, ratio: float) -> None:
    parity = (Difference(output="y", measure="absolute", value=value, limit=limit),)
    assert report.largest_ratio(Gate(outcome="passed", reason="", parity=parity)) == ratio


def test_nan_is_the_largest_ratio() -> None:
    parity = tuple(
        Difference(output="y", measure="absolute", value=value, limit=1.0) for value in (0.5, math.nan, 0.25)
    )
    gate = Gate(outcome="passed", reason="", parity=parity)
    assert report.largest_ratio(gate) == math.inf
    assert "infinite of its limit" in report.render(_with_gate(gate))
    assert report.largest_ratio(dataclasses.replace(gate, parity=())) is None


def test_scale_is_monotonic_and_clamps_values() -> None:
    scale = LogScale(least=-3, most=1)
    places = [scale.place(value) for value in (0.0, 1e-9, 1e-3, 1e-2, 0.5, 1.0, 10.0, 1e9)]
    assert places == sorted(places)
    assert places[1] == places[2]
    assert places[-1] == places[-2] == scale.place(math.inf) == scale.place(math.nan)
    assert places[3] - places[2] == pytest.approx(scale.place(0.1) - places[3], abs=0.02)


@pytest.mark.parametrize("least", range(-9, -1))
def test_ticks_are_at_most_five_and_include_one(least: int) -> None:
    exponents = [exponent for _, exponent in LogScale(least=least, most=1).ticks()]
    assert 0 in exponents
    assert len(exponents) <= 5


def test_manifest_lists_its_report(tmp_path: Path) -> None:
    made = report.add(made_up.manifest(), RUN, tmp_path)
    again = report.add(made, RUN, tmp_path)
    page = (tmp_path / "report.html").read_bytes()
    assert [each.file for each in again.files] == ["timing.cache", "report.html"]
    assert (again.files[-1].sha256, again.files[-1].size_bytes) == (digest.of_file(tmp_path / "report.html"), len(page))
    assert again == made


def _report(*arguments: object) -> commands.Finished:
    return commands.run("build.report", *arguments)


def test_renders_report_again_from_manifest(tmp_path: Path) -> None:
    bundle = made_up.write(tmp_path / "26.08" / "sm86", made_up.manifest())
    result = _report(bundle)
    assert (result.returncode, result.stderr) == (0, f"report {tmp_path / '26.08' / 'sm86.report.html'}\n")
    assert (tmp_path / "26.08" / "sm86.report.html").read_text() == report.render(made_up.manifest())
    assert _report(bundle, "--output", tmp_path / "other.html").returncode == 0
    assert (tmp_path / "other.html").is_file()


def test_does_not_write_page_into_bundle(tmp_path: Path) -> None:
    bundle = made_up.write(tmp_path / "sm86", made_up.manifest(Arch.SM86))
    result = _report(bundle, "--output", bundle / "report.html")
    assert (result.returncode, result.stderr) == (
        10,
        f"error: --output {bundle / 'report.html'}: it is in the bundle {bundle}, whose manifest contains the hash of "
        "every file. Choose a place outside the bundle.\n",
    )


def test_rejects_folder_without_bundle(tmp_path: Path) -> None:
    result = _report(tmp_path)
    assert (result.returncode, result.stderr) == (
        42,
        f"error: {tmp_path}: it holds no manifest.json, so it is not a bundle. "
        "Build the bundle again with `python -m build.engines`.\n",
    )
