"""Memory that runs out on a processor: one line."""

import pytest
import torch

from digitlab.core.errors import ConfigError, DigitlabError, RunError
from digitlab.core.exit import exit_with
from digitlab.core.memory import device_memory
from digitlab.training.resuming import resume

# Its weights take 116 MB, and training takes them several times: what a process still has of freed memory does not do.
LARGE = ("model.hidden=[5000,5000]", "optimizer=sgd", "ema.decay=null", "trainer.max_epochs=1", "data.batch_size=80")


# At the smaller limits it is the training that does not fit, at the larger ones the first checkpoint's bytes.
@pytest.mark.parametrize("more_mb", [100, 200, 300, 400])
def test_a_run_that_does_not_fit_is_one_line(ready, in_child, tmp_path, one_line, more_mb):
    run = ready(tmp_path / "run", *LARGE)

    def act():
        try:
            resume(str(run.path), [])
        except DigitlabError as error:
            exit_with(error)

    ended = in_child(act, more_bytes=more_mb << 20)
    assert ended.code == 1
    assert one_line(ended.stderr), ended.stderr
    assert ended.stderr.startswith("out of memory: a smaller data.batch_size or model helps (")


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="must match the size") as caught, device_memory():
        torch.zeros(2) + torch.zeros(3)
    assert not isinstance(caught.value, RunError)


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("too many"), RuntimeError("std::bad_alloc")])
def test_whoever_says_that_memory_ran_out_is_heard(error):
    with pytest.raises(RunError, match=r"^out of memory: .* \(.+\)$"), device_memory():
        raise error


def test_where_it_runs_out_while_a_part_is_built_it_is_not_the_setting_that_is_wrong():
    with pytest.raises(RunError, match=r"^out of memory: "), device_memory():
        raise ConfigError("model", "MLP", "can't be built") from RuntimeError("std::bad_alloc")
