"""Several processes that train one toy model together do what one does with all their batches: real processes, gloo."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from tests.training.forked import SERVER
from training.pocket.loop import Plan, Training
from training.pocket.ranks import Ranks

STEPS, WORLD = 4, 2


def loss_of(model: nn.Module, number: int) -> Tensor:
    data = torch.randn(8, 3, generator=torch.Generator().manual_seed(number))
    # only every second batch reaches the second layer
    made = model.get_submodule("0")(data)
    made = model.get_submodule("1")(made) if number % 2 else made
    return (made - data.roll(1)).square().mean()


def toy() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))


def train(folder: Path, ranks: Ranks) -> Training:
    model = toy()
    training = Training(model, folder, Plan(STEPS, 5.0, 5.0, 1e-2, warm_up=1), ranks=ranks)

    def each(number: int) -> dict[str, Tensor]:
        return {"loss": loss_of(model, number)}

    def alone(step: int) -> dict[str, Tensor]:
        return {"loss": torch.stack([loss_of(model, step * WORLD + rank) for rank in range(WORLD)]).mean()}

    training.run(each if ranks.world > 1 else alone)
    return training


@pytest.fixture(scope="module", params=["forked", pytest.param("torchrun", marks=pytest.mark.slow)])
def together(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("together")
    if request.param == "forked":  # from a server that has imported torch, as by the launcher but for its port
        processes = [SERVER.Process(target=join, args=(folder, rank), daemon=True) for rank in range(WORLD)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(200)
            assert process.exitcode == 0
        return folder
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(WORLD)]
    done = subprocess.run(
        [*command, "-m", "--", "tests.pocket.test_ranks", "--run", str(folder)],
        env=os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def join(folder: Path, rank: int) -> None:
    """Be one of the processes."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(WORLD), "LOCAL_RANK": str(rank), "GLOO_SOCKET_IFNAME": "lo"}
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=WORLD)
    train_together(folder)


def test_only_the_first_process_writes(together: Path) -> None:
    assert len(list(together.glob("events.out.*"))) == 1
    assert len(list(together.glob("state-*.safetensors"))) == 1


def test_no_thread_of_the_group_is_left_that_could_abort_the_process_when_it_exits(together: Path) -> None:
    for rank in range(WORLD):
        during, after = (set((together / f"{when}-{rank}.txt").read_text().split()) for when in ("during", "after"))
        assert "gloo_tcp_loop" in during
        assert not [name for name in after if "gloo" in name]


def test_two_processes_end_where_one_with_both_batches_ends(together: Path, tmp_path: Path) -> None:
    alone = train(tmp_path, Ranks())
    resumed = Training(toy(), together, Plan(STEPS, 5.0, 5.0, 1e-2))
    assert resumed.step == STEPS
    for name, parameter in alone.parameters.items():
        torch.testing.assert_close(resumed.parameters[name], parameter)


def test_a_process_alone_is_a_world_of_one() -> None:
    ranks = Ranks.joined(torch.device("cpu"))
    assert (ranks.first, ranks.world, ranks.own(7), ranks.agreed(0.5)) == (True, 1, 7, 0.5)


def train_together(folder: Path) -> None:
    """Train with the other processes, leave them, and note this process's threads before and after that."""

    def note_threads(when: str) -> None:
        names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
        (folder / f"{when}-{joined.rank}.txt").write_text("".join(names))

    joined = Ranks.joined(torch.device("cpu"))
    train(folder, joined)
    note_threads("during")
    joined.leave()
    note_threads("after")


if __name__ == "__main__":
    train_together(Path(sys.argv[2]))
