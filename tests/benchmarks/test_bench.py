"""The benchmark: the loop for CUDA graphs learns what the bare loop learns, and a missed target ends it with 1."""

import os
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import bench
import members
import page
import peers
import records
from bare import BareLoop, GraphLoop
from digitlab.core.abilities import ABILITIES
from report import BARE, BARE_CHANNELS_LAST, BARE_THREADS, DIGITLAB, Measurement
from setups import bare_setup, digitlab_setup
from workloads import WORKLOADS, TrainingSplit

CPU = torch.device("cpu")
BY_KEY = {workload.key: workload for workload in WORKLOADS}


def random_split(workload, count):
    """``count`` random images of the workload's shape."""
    shape = (3, 32, 32) if workload.data == "cifar10" else (1, 28, 28)
    pixels = torch.randint(256, (count, *shape), dtype=torch.uint8)
    return TrainingSplit(
        pixels=pixels, images=pixels / 255, labels=torch.randint(10, (count,)), mean=[0.0], std=[1.0],
        train_indices=torch.arange(count), val_indices=torch.arange(0), root="",
    )  # fmt: skip


def trained_weights(loop, epochs=2):
    torch.manual_seed(1)
    model = loop.new_model()
    epoch = loop.prepare(model, loop.new_optimizer(model))
    for _ in range(epochs):
        epoch()
    return [parameter.detach() for parameter in model.parameters()]


# Mini-batches: whole calls only; calls and single updates; both and a smaller mini-batch; less than one of them.
@pytest.mark.sample(4)
@pytest.mark.parametrize("count", [16 * 10, 19 * 10, 19 * 10 + 3, 7])
@pytest.mark.parametrize("key", ["a", "b", "c"])
def test_the_loop_of_graphs_learns_the_same_bits_as_the_bare_loop(key, count):
    workload = replace(BY_KEY[key], batch_size=10)
    split = random_split(workload, count)
    bare, graph = (trained_weights(kind(workload, split, CPU)) for kind in (BareLoop, GraphLoop))
    assert all(map(torch.equal, bare, graph))


def test_eight_updates_go_into_one_call():
    workload, calls = replace(BY_KEY["c"], batch_size=10), []

    class Counting(GraphLoop):
        def _updates(self, model, optimizer, buffer):
            calls.append(tuple(buffer.shape))
            super()._updates(model, optimizer, buffer)

    trained_weights(Counting(workload, random_split(workload, 183), CPU), epochs=1)
    assert calls == [(8, 10)] * 2 + [(1, 10)] * 2 + [(1, 3)]


def test_peers_on_jax_leave_the_memory_of_a_gpu_to_the_other_rows(monkeypatch):
    # JAX reads this when it is imported, so it must be set before.
    seen = {}

    def import_module(name):
        seen[name] = os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"]
        return SimpleNamespace(**dict.fromkeys(("JaxScan", "KerasFit"), lambda workload, device: BareLoop))

    monkeypatch.setattr(peers, "import_module", import_module)
    monkeypatch.setattr(BareLoop, "epoch_seconds", lambda: [1.0])
    monkeypatch.setattr(peers, "_built_peers", {})
    monkeypatch.setattr(os, "environ", dict(os.environ))
    for name in (peers.JAX_SCAN, peers.KERAS_JAX):
        peers._turn(peers.PEERS[name], BY_KEY["a"], "cuda")
    assert seen == {"peers_jax": "false", "peers_keras": "false"}


@pytest.mark.parametrize("row", ["bare", "members"])
def test_the_rows_of_a_gpu_compute_products_in_tf32(row, monkeypatch):
    monkeypatch.setitem(ABILITIES, "cpu", replace(ABILITIES["cpu"], tf32=True))
    before, seen = torch.get_float32_matmul_precision(), []

    class Noting:
        steps = 1

        def __init__(self, *arguments, **named):
            self.run_round()  # updates are captured here

        def run_round(self, *arguments):
            seen.append(torch.get_float32_matmul_precision())

    if row == "bare":
        workload = replace(BY_KEY["c"], batch_size=10, epochs=1)
        monkeypatch.setattr(BareLoop, "step", Noting.run_round)
        BareLoop(workload, random_split(workload, 20), CPU).epoch_seconds()
    else:
        monkeypatch.setattr(members, "Members", Noting)
        members.measure_on(CPU, rounds=1)
    assert len(seen) >= 2
    assert set(seen) == {"high"}
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.numerics
def test_the_memory_format_changes_nothing_but_rounding():
    workload = replace(BY_KEY["b"], batch_size=20, optimizer="sgd", learning_rate=0.01)
    split = random_split(workload, 40)
    loops = [BareLoop(workload, split, CPU, channels_last=each) for each in (False, True)]
    assert loops[1].new_model()[3].weight.is_contiguous(memory_format=torch.channels_last)
    for first, last in zip(*(trained_weights(loop, epochs=1) for loop in loops), strict=True):
        torch.testing.assert_close(first, last, rtol=1e-4, atol=1e-5)


@pytest.fixture
def two_threads(monkeypatch):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_a_bare_loop_with_digitlabs_threads_and_layout_is_added_where_the_plain_one_differs(two_threads):
    loops = {key: bench.bare_loops(workload, random_split(workload, 20), CPU) for key, workload in BY_KEY.items()}
    assert list(loops["c"]) == [BARE, BARE_THREADS]
    assert loops["c"][BARE_THREADS].threads == 1
    assert BARE_CHANNELS_LAST in loops["b"]
    assert list(loops["d"]) == [BARE]


def test_the_threads_of_a_loop_hold_only_while_it_runs(two_threads):
    workload, seen = replace(BY_KEY["c"], epochs=1), []

    class Watching(BareLoop):
        def step(self, model, optimizer, index):
            seen.append(torch.get_num_threads())

    Watching(workload, random_split(workload, 10), CPU, threads=1).epoch_seconds()
    assert (seen, torch.get_num_threads()) == ([1], 2)


def measurement(*, ratio):
    """Workload (c): digitlab takes ``ratio`` times what the bare loop takes."""
    made = Measurement(workload=BY_KEY["c"], device="cpu", images=55_000)
    made.add(BARE, [1.0, 1.0])
    made.add(BARE_THREADS, [0.5, 0.5])
    made.add(DIGITLAB, [ratio, ratio])
    made.setups = {
        BARE: bare_setup(CPU, threads=2), BARE_THREADS: bare_setup(CPU, threads=1),
        DIGITLAB: replace(digitlab_setup(BY_KEY["c"], (1, 28, 28), CPU, compiled=False), threads="1"),
    }  # fmt: skip
    return made


@pytest.mark.runs  # it asks git for the commit
@pytest.mark.parametrize(("ratio", "code"), [(1.05, 0), (1.15, 1)])
def test_the_exit_code_is_one_if_a_target_is_missed(monkeypatch, tmp_path, capsys, ratio, code):
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    monkeypatch.setattr(bench, "measure", lambda *arguments, **named: measurement(ratio=ratio))
    monkeypatch.setattr("sys.argv", ["bench.py", "--only", "c"])
    assert bench.main() == code
    assert ("MISSED" in capsys.readouterr().out) == (code == 1)
    (path,) = tmp_path.iterdir()
    assert records.newest_record("epochs") is not None, path


def test_beside_a_ratio_stands_what_differs():
    text = page._ratios([measurement(ratio=1.15).as_dict()], ["(c)"])
    assert "| digitlab over bare loop, at most 1.10 | **1.15** |" in text
    assert "| digitlab over bare loop, digitlab's threads | 2.30 |" in text
    assert "- *digitlab over bare loop* (c): threads: 1, not 2; images: uint8, normalised in the step, not" in text
    alike = next(
        line for line in text.splitlines() if line.startswith("- *digitlab over bare loop, digitlab's threads*")
    )
    assert "threads: 1" not in alike


def test_driver_and_power_limit_are_those_of_the_first_gpu():
    assert records.parse_driver("570.12, 700.00 W\n570.12, 350.00 W\n") == {
        "driver": "570.12",
        "power_limit": "700.00 W",
    }
    assert records.parse_driver("") == {"driver": "unknown", "power_limit": "unknown"}


def test_the_page_still_has_the_tables_of_earlier_records():
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.filled(text) == text
