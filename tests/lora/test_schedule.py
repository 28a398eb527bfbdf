"""When a LoRA's high-noise weight gives way to its low-noise weight."""

import pytest

from wanavatar_lab.lora.apply import shares_by_noise, shares_by_progress, weight_at


def test_the_boundary_belongs_to_high_noise() -> None:
    assert shares_by_noise([1.0, 0.95, 0.9, 0.899, 0.1]) == [0, 0, 0, 1, 1]


def test_the_ramp_is_the_middle_fifth_of_the_steps() -> None:
    shares = shares_by_progress(11)
    assert shares == pytest.approx([0, 0, 0, 0, 0, 0.5, 1, 1, 1, 1, 1])
    assert shares_by_progress(2) == [0, 1]
    assert shares_by_progress(1) == [0.5], "one step is both"


@pytest.mark.parametrize(
    ("noise", "share", "weight"),
    [
        ("both", 0.0, 1.2),
        ("both", 0.25, 1.0),
        ("both", 1.0, 0.4),
        ("high", 0.0, 1.2),
        ("high", 0.5, 0.6),
        ("high", 1.0, 0.0),
        ("low", 0.0, 0.0),
        ("low", 0.5, 0.2),
        ("low", 1.0, 0.4),
    ],
)
def test_a_file_for_one_noise_fades_with_it(noise: str, share: float, weight: float) -> None:
    assert weight_at(share, 1.2, 0.4, noise) == pytest.approx(weight)
