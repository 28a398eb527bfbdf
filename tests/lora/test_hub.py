"""`load_lora_weights` of the S2V pipeline with the id of a repository, as diffusers' documentation has it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save

from tests.lora.files import (
    NETWORKS,
    State,
    by_rank,
    deltas,
    merged,
    output,
    random_layers,
    reference_layers,
    written,
)
from tests.s2v.toy import relative_error
from tests.weights.fake_hub import ROOT, Client, Hub, open_hub

# in a process of its own: huggingface_hub reads its variables when it is imported
LOAD = """
import json, sys
from safetensors.torch import save_file
from tests.lora.files import NETWORKS, output
from tests.s2v.toy import toy_vae
from wanavatar_lab.s2v import WanSpeechToVideoPipeline

made = {}
for number, (source, options) in enumerate(json.loads(sys.argv[1])):
    network = NETWORKS["s2v"]()
    pipeline = WanSpeechToVideoPipeline(transformer=network, vae=toy_vae())
    pipeline.load_lora_weights(source, adapter_name="me", **options)
    made[str(number)] = output(network)
save_file(made, sys.argv[2])
"""


@pytest.fixture(name="hub")
def hub_fixture() -> Iterator[Hub]:
    hub, server = open_hub()
    yield hub
    server.shutdown()
    server.server_close()


def a_file(seed: int, own_modules: bool) -> tuple[bytes, State]:
    """A file in the reference's names with alphas and ranks of each layer, and the differences that it comes to."""
    network = NETWORKS["s2v"]()
    names = reference_layers(network)
    if not own_modules:  # those that diffusers knows
        names = {theirs: ours for theirs, ours in names.items() if theirs.startswith("blocks.")}
    layers = random_layers(network, names, seed)
    state = written(layers, lambda name: f"diffusion_model.{name}", "lora_down", "lora_up", "alpha")
    return save({name: tensor.contiguous() for name, tensor in state.items()}, {"format": "pt"}), deltas(
        layers, by_rank
    )


@pytest.mark.slow  # a process that imports all of it, and seven networks
def test_a_repository_a_folder_and_a_file_in_it_are_read(hub: Hub, tmp_path: Path) -> None:
    (me, face), (plain, style) = a_file(0, own_modules=True), a_file(1, own_modules=False)
    hub.repositories = {
        "ann/me": {"README.md": b"a LoRA", "me.safetensors": me},
        "ann/many": {"loras/me.safetensors": me, "style.safetensors": plain},
        "ann/secret": {"hidden.safetensors": me},
    }
    hub.gated.add("ann/secret")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "lora_weights.safetensors").write_bytes(me)
    calls: list[tuple[str, dict[str, Any], State]] = [
        ("ann/me", {}, face),
        ("ann/me", {"weight_name": "me.safetensors", "revision": "main"}, face),
        ("ann/many", {"weight_name": "me.safetensors", "subfolder": "loras"}, face),
        ("ann/many", {"weight_name": "style.safetensors"}, style),
        ("ann/secret", {"weight_name": "hidden.safetensors", "token": hub.token}, face),
        (str(tmp_path / "folder"), {}, face),
        (str(tmp_path / "folder"), {"weight_name": "lora_weights.safetensors"}, face),
    ]
    words = [json.dumps([call[:2] for call in calls]), str(tmp_path / "made.safetensors")]
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *words],
        cwd=ROOT,
        env={**Client(hub, tmp_path / "weights").environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    made, network = load_file(tmp_path / "made.safetensors"), NETWORKS["s2v"]()
    without = output(network)
    for number, (source, options, difference) in enumerate(calls):
        wanted = output(merged(network, difference))
        assert relative_error(wanted, without) > 1e-3
        assert relative_error(made[str(number)], wanted) <= 1e-5, (source, options)
    assert hub.starts["me.safetensors"] == [0], "fetched once"
    assert torch.equal(made["0"], made["1"])
