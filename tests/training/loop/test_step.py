"""What of a sample is left out, and how often; what the network is given."""

from typing import Any

import pytest
import torch

from training.loop.step import Draws, train_step

B, Z, T, H, W = 4, 2, 2, 4, 4


def batch() -> dict[str, torch.Tensor]:
    some = {"target": (Z, T, H, W), "reference": (Z, 1, H, W), "audio": (3, 5, 4 * T), "text": (6, 7)}
    random = torch.Generator().manual_seed(0)
    made = {name: torch.rand(B, *shape, generator=random) + 1 for name, shape in some.items()}
    masks = {name: torch.ones(B, T, H, W) for name in ("face", "lip")}
    return made | masks | {"no_text": torch.full((1, 6, 7), -1.0), "valid": torch.ones(B, T, dtype=torch.bool)}


class Network:
    """Keeps what it is given."""

    def __call__(self, **given: Any) -> tuple[torch.Tensor]:
        self.given = given
        return (torch.zeros_like(given["hidden_states"]),)


@pytest.mark.parametrize("left_out", ["no_reference", "no_audio", "no_text", None])
def test_what_is_left_out_the_network_does_not_see(left_out: str | None) -> None:
    data, network = batch(), Network()
    draws = Draws.of(3, 0, data["target"], 5.0, 0.0)
    assert not (draws.no_reference | draws.no_audio | draws.no_text).any()
    rows = torch.tensor([True, False, False, True])
    if left_out:
        getattr(draws, left_out).copy_(rows)
    train_step(network, data, draws)
    names = {"no_reference": "ref_latents", "no_audio": "audio_embeds", "no_text": "encoder_hidden_states"}
    sources = {"no_reference": "reference", "no_audio": "audio", "no_text": "text"}
    for kind, name in names.items():
        given, whole = network.given[name], data[sources[kind]]
        gone = data["no_text"].expand_as(whole) if kind == "no_text" else torch.zeros_like(whole)
        for row in range(B):
            assert torch.equal(given[row], gone[row] if kind == left_out and rows[row] else whole[row])


def test_the_network_sees_latents_between_picture_and_noise() -> None:
    data, network = batch(), Network()
    draws = Draws.of(3, 0, data["target"], 5.0, 0.0)
    train_step(network, data, draws)
    sigma = draws.sigma[:, None, None, None, None]
    wanted = (1 - sigma) * data["target"] + sigma * draws.noise
    assert torch.allclose(network.given["hidden_states"], wanted, atol=1e-6)
    assert torch.equal(network.given["timestep"], draws.sigma * 1000)
    assert network.given["drop_motion_frames"]


def test_each_is_left_out_in_one_of_ten_samples_apart_from_the_others() -> None:
    target = torch.zeros(1, 1, 1, 1, 1)
    drawn = [Draws.of(number, 0, target, 5.0, 0.1) for number in range(2000)]
    gone = torch.stack([torch.cat([each.no_reference, each.no_audio, each.no_text]) for each in drawn]).float()
    assert torch.allclose(gone.mean(dim=0), torch.full((3,), 0.1), atol=0.02)
    together = gone.T @ gone / len(gone)
    assert float((together - torch.diag(together.diag())).max()) < 0.02
