"""A whole run on two processes: started by the run itself, by torchrun; killed and resumed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric.plugins.environments.lightning import find_free_network_port

from tests.clips import make_folder
from tests.forked import wrp
from wrp.errors import WrpError
from wrp.runs.processes import Processes, launched
from wrp.runs.trainer import check_trainer, make_loggers

NETWORK = ["--train_teacher.network.encoder_name=resnet18", "--weights=none", "--train_teacher.crop=[32, 48]"]
TINY = [*NETWORK, "--teacher-steps=2", "--refiner-steps=4", "--train_teacher.batch=4", "--train_refiner.batch=2"]
TINY += ["--train_refiner.crop=[32, 32]", "--flow=dis-fast"]


def words(root: Path, out: Path, *arguments: str, processes: int = 1) -> list[str]:
    given = ["autolabel", str(root), f"--out={out}", *arguments]
    return [*given, "--trainer.accelerator=cpu", f"--trainer.devices={processes}"]


def command(root: Path, out: Path, *arguments: str) -> list[str]:
    """A run on two processes."""
    return [sys.executable, "-m", "wrp", *words(root, out, *arguments, processes=2)]


def single(root: Path, out: Path, *arguments: str) -> str:
    """Label on one process, and return what is printed."""
    done = wrp(*words(root, out, *arguments), folder=out.parent)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def run(given: list[str], folder: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(given, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == code, done.stderr[-3000:]
    return done


def files(out: Path) -> dict[str, bytes]:
    """Return the files of a run that do not tell how long it took and what it was called."""
    kinds = ("labels", "methods", "confidence", "provenance")
    names = [path for kind in kinds for path in sorted((out / kind).rglob("*.png"))]
    return {str(path.relative_to(out)): path.read_bytes() for path in [*names, out / "manifest.jsonl"]}


def scores(out: Path) -> dict[str, Any]:
    metrics = json.loads((out / "metrics.json").read_text())
    return {name: metrics[name] for name in ("overall", "clips")}


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of 9 and 5 labelled frames."""
    return make_folder(tmp_path_factory.mktemp("data") / "street", {"walk": 9, "run": 5})


@pytest.fixture(scope="module")
def alone(street: Path) -> Path:
    """The run of one process that trains its networks."""
    out = street.parent / "one"
    single(street, out, "--label-every=4", *TINY)
    return out


def networks(folder: Path) -> list[str]:
    return [f"--teacher={folder / 'teacher.ckpt'}", f"--refiner={folder / 'refiner.ckpt'}"]


@pytest.fixture(scope="module")
def given(street: Path, alone: Path) -> list[str]:
    """The arguments of a run with these networks."""
    return ["--label-every=4", *TINY, *networks(alone)]


@pytest.fixture(scope="module")
def expected(street: Path, given: list[str]) -> tuple[Path, str]:
    """What one process writes and prints with these networks."""
    out = street.parent / "expected"
    return out, single(street, out, *given)


@pytest.mark.slow
def test_two_processes_write_what_one_writes(
    street: Path, given: list[str], expected: tuple[Path, str], tmp_path: Path
) -> None:
    out, printed = expected
    second = run(command(street, tmp_path / "two", *given), tmp_path)
    assert files(out) == files(tmp_path / "two")
    assert scores(out) == scores(tmp_path / "two")
    assert (tmp_path / "two" / "report.html").is_file()
    # Results and messages come once.
    assert second.stdout.replace(str(tmp_path / "two"), str(out)) == printed
    assert second.stderr.count("Labelling 3 of 3 intervals") == 1
    assert "GLOBAL_RANK" not in second.stderr
    assert not list(tmp_path.rglob("*.tmp"))
    assert not (tmp_path / "two" / "wrp-temporary").exists()


@pytest.mark.slow
def test_torchrun_starts_them_as_well(
    street: Path, given: list[str], expected: tuple[Path, str], tmp_path: Path
) -> None:
    _, *arguments = command(street, tmp_path / "two", *given)
    run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *arguments], tmp_path)
    assert files(expected[0]) == files(tmp_path / "two")


@pytest.mark.slow
def test_slurm_starts_them_as_well(street: Path, given: list[str], expected: tuple[Path, str], tmp_path: Path) -> None:
    """Two tasks get what `srun --ntasks-per-node=2` gives them; there is no SLURM here that would start them."""
    started = command(street, tmp_path / "two", *given)
    port = find_free_network_port()
    job = {"SLURM_JOB_ID": "17", "SLURM_JOB_NAME": "labels", "SLURM_JOB_NODELIST": "localhost", "SLURM_NODEID": "0"}
    job |= {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1", "MASTER_PORT": str(port)}
    job |= {"SLURM_NODELIST": "localhost", "OMP_NUM_THREADS": "1"}
    tasks = [
        subprocess.Popen(
            started,
            cwd=tmp_path,
            env={**os.environ, **job, "SLURM_PROCID": str(number), "SLURM_LOCALID": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    (printed, said), (second, _) = (task.communicate(timeout=600) for task in tasks)
    assert [task.returncode for task in tasks] == [0, 0], said[-3000:]
    assert files(expected[0]) == files(tmp_path / "two")
    assert printed.replace(str(tmp_path / "two"), str(expected[0])) == expected[1]
    assert not second


@pytest.mark.slow
def test_a_refiner_learns_on_two_processes_what_it_learns_on_one(street: Path, alone: Path, tmp_path: Path) -> None:
    """Its normalisation does not depend on the batch, so that the division of the batch does not matter."""
    given = ["--label-every=4", *TINY, f"--teacher={alone / 'teacher.ckpt'}", "--limit=0", "--flow_args.threads=1"]
    logged = ["--trainer.logger=CSVLogger", "--trainer.log_every_n_steps=1"]
    single(street, tmp_path / "one", *given, *logged)
    run(command(street, tmp_path / "two", *given, *logged), tmp_path)
    one, two = (torch.load(tmp_path / name / "refiner.ckpt", weights_only=True) for name in ("one", "two"))
    for name, weights in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][name], weights, rtol=0, atol=4 * 1e-5)  # 1e-5 for each step


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))  # ends the other process late; the first one early, and late
def test_a_killed_process_costs_nothing(
    street: Path, given: list[str], expected: tuple[Path, str], tmp_path: Path, seed: int
) -> None:
    """Whichever process is killed, whenever: the run ends, and the same command goes on to the same files."""
    two = command(street, tmp_path / "two", *given)
    chance = random.Random(seed)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(two, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as main:
        while main.poll() is None and not children(main.pid):
            time.sleep(0.1)
        time.sleep(chance.uniform(0, 12))
        both = [main.pid, *children(main.pid)]
        victim = chance.choice(both)
        if main.poll() is None:
            os.kill(victim, signal.SIGKILL)
        _, said = main.communicate(timeout=120)
        assert main.returncode == 0 or victim == main.pid or said.count("wrp: error") == 1, said
    for pid in both[1:]:
        wait_for_end(pid)
    run(two, tmp_path)
    assert files(expected[0]) == files(tmp_path / "two")
    assert scores(expected[0]) == scores(tmp_path / "two")


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in found.read_text().split()] if found.exists() else []


def wait_for_end(pid: int) -> None:
    for _ in range(600):
        if not Path(f"/proc/{pid}").exists():
            return
        time.sleep(0.1)
    raise AssertionError(f"process {pid} goes on without the others")


@pytest.mark.slow
def test_an_error_ends_all_processes_with_one_message(street: Path, tmp_path: Path) -> None:
    done = run(command(street, tmp_path / "out", "--methods=motion", "--clips=gone"), tmp_path, code=2)
    assert done.stderr.count("wrp: error") == 1
    assert "Traceback" not in done.stderr


def test_a_batch_is_divided_among_the_processes() -> None:
    processes = Processes()
    processes.size = 4
    assert processes.divide(8, "train_teacher.batch") == 2
    with pytest.raises(WrpError, match=r"train_teacher\.batch is the batch of all .* a multiple of 4, got 6"):
        processes.divide(6, "train_teacher.batch")


def test_frames_are_decoded_ahead_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (Processes({"accelerator": "cpu"}).loaders(None), Processes().loaders(2)) == (0, 2)
    monkeypatch.setattr(Processes, "device", torch.device("cuda"))
    assert (Processes().loaders(None), Processes().loaders(0)) == (4, 0)


def test_results_of_shares_are_joined_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    items, parts = list(range(7)), []
    for rank in range(3):
        processes = Processes()
        processes.rank, processes.size = rank, 3
        parts.append(list(processes.part(items)))
    monkeypatch.setattr(processes, "gather", lambda _: parts)
    assert processes.join(parts[2]) == items


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_steps": 3}, "trainer.max_steps is set by the run itself: use --teacher-steps"),
        ({"device": 2}, r"no argument trainer.device; did you mean trainer.devices\?"),
        ({"precision": "bf17"}, r"--trainer\.precision: expected .*, got 'bf17'; did you mean bf16\?"),
        ({"logger": "CSVLoger"}, r"--trainer\.logger: there is no class 'CSVLoger'; did you mean CSVLogger\?"),
        ({"accelerator": "cpu", "strategy": "dpd"}, "cannot be started: You selected an invalid strategy name"),
        ({"logger.save_dir": "logs"}, "give its name as trainer.logger"),
        ({"accelerator": "cpu", "devices": "x"}, "cannot be started"),
    ],
)
def test_arguments_of_the_trainer_are_checked(given: dict[str, Any], message: str) -> None:
    with pytest.raises(WrpError, match=message) as caught, launched(given):
        pass
    assert "\n" not in str(caught.value)


def test_jobs_that_share_a_run_take_turns_with_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert [check_trainer({}, f"{shard}/6")["devices"] for shard in range(1, 7)] == [[0], [1], [2], [3], [0], [1]]
    assert check_trainer({})["devices"] == 1
    assert check_trainer({"devices": 2}, "3/6")["devices"] == 2


def test_loggers_are_made_for_each_stage(tmp_path: Path) -> None:
    arguments = check_trainer({"logger": "CSVLogger", "logger.name": "mine"})
    [logger] = make_loggers(arguments, "teacher", tmp_path)
    assert logger.save_dir == str(tmp_path)
    assert logger.name == "mine"
    logger.log_metrics({"loss": 1.0}, 0)
    logger.save()
    [table] = tmp_path.rglob("metrics.csv")
    assert "teacher-loss" in table.read_text()
