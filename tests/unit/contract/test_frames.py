"""Numbers and times of frames, against counts made by hand and by brute force."""

import pytest

from contract.frames import FrameRule, Stride

SHIPPED = FrameRule.of((400, 160), (3, 2), (3, 2))
# wav2vec 2.0: Baevski et al. 2020, section 4.2.
WAV2VEC = FrameRule.of((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))
PADDED = FrameRule.of((400, 160, 400), (3, 2, 2))


@pytest.mark.parametrize(
    ("rule", "hop", "shortest", "first_centre"),
    [
        (SHIPPED, 640, 1360, 680.0),
        (WAV2VEC, 320, 400, 200.0),
        (PADDED, 320, 1, 0.0),
        (FrameRule.of((1, 1)), 1, 1, 0.5),
    ],
)
def test_hop_and_centre(rule: FrameRule, hop: int, shortest: int, first_centre: float) -> None:
    assert (rule.hop, rule.shortest, rule.first_centre) == (hop, shortest, first_centre)


@pytest.mark.parametrize("rule", [SHIPPED, WAV2VEC, PADDED])
def test_shortest_is_the_first_size_with_a_frame(rule: FrameRule) -> None:
    assert rule.count(rule.shortest) == 1
    assert rule.count(rule.shortest - 1) == 0 or rule.shortest == 1


@pytest.mark.parametrize(
    ("samples", "frames"), [(0, 0), (1359, 0), (1360, 1), (1999, 1), (2000, 2), (5840, 8), (32_000, 48)]
)
def test_count(samples: int, frames: int) -> None:
    assert SHIPPED.count(samples) == frames


def test_stride_counts_windows() -> None:
    stride = Stride(kernel=3, stride=2, padding=2)
    for size in range(20):
        padded = [0, *range(size), 0]
        assert stride.count(size) == sum(start + 3 <= len(padded) for start in range(0, len(padded), 2))
