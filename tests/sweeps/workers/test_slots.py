"""How jobs share a machine with any number of GPUs."""

import pytest

from digitlab.core.system import available_cores
from digitlab.sweeps.workers.slots import slot_count, slot_environment, visible_gpus


@pytest.mark.parametrize(("gpus", "count"), [([], 6), (["0"], 1), (["0", "1", "2"], 3)])
def test_slots_are_one_per_gpu_or_one_per_core_without_gpus(gpus, count):
    assert slot_count("auto", cores=6, gpus=gpus) == count
    assert slot_count(4, cores=6, gpus=gpus) == 4


@pytest.mark.parametrize("gpus", [["0", "1"], ["3", "1", "GPU-8f2a"]])
def test_slots_share_the_gpus_evenly(gpus):
    given = [slot_environment(slot, slots=7, cores=8, gpus=gpus, given={}) for slot in range(7)]
    seen = [environment["CUDA_VISIBLE_DEVICES"] for environment in given]
    assert seen[: len(gpus)] == gpus
    counts = [seen.count(gpu) for gpu in gpus]
    assert sum(counts) == 7
    assert max(counts) - min(counts) <= 1


def test_without_gpus_the_environment_names_none():
    assert slot_environment(0, slots=2, cores=2, gpus=[], given={}) == {"OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize(("slots", "cores"), [(1, 8), (3, 8), (8, 8), (9, 8), (2, 1)])
def test_slots_share_the_cores_and_have_at_least_one_thread(slots, cores):
    threads = int(slot_environment(0, slots=slots, cores=cores, gpus=[], given={})["OMP_NUM_THREADS"])
    assert threads >= 1
    assert threads * slots <= cores or threads == 1
    assert (threads + 1) * slots > cores


def test_a_number_of_threads_that_the_user_set_stays():
    assert slot_environment(0, slots=2, cores=8, gpus=[], given={"OMP_NUM_THREADS": "3"}) == {}


@pytest.mark.parametrize(
    ("variable", "gpus"), [("", []), ("2,0", ["2", "0"]), ("1, GPU-8f", ["1", "GPU-8f"]), ("0,-1,1", ["0"]), ("-1", [])]
)
def test_the_gpus_in_the_environment_are_visible(variable, gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert visible_gpus() == gpus


def test_at_least_one_core_is_available():
    assert available_cores() >= 1
