"""If memory runs out on a CPU, digitlab prints one line."""

import pytest
import torch

from digitlab.core.errors import ConfigError, DigitlabError, RunError
from digitlab.core.exit import exit_with
from digitlab.core.memory import report_out_of_memory
from digitlab.training.resuming import resume

# The weights take 116 MB and training needs several copies: memory that the process has freed before is not enough.
LARGE = ("model.hidden=[5000,5000]", "optimizer=sgd", "ema.decay=null", "trainer.max_epochs=1", "data.batch_size=80")


@pytest.mark.sample(2)
# With the smaller limits training fails; with the larger ones the first checkpoint does.
@pytest.mark.sample(4)
@pytest.mark.parametrize("more_mb", [100, 200, 300, 400])
def test_a_run_that_needs_too_much_memory_gives_one_line(ready, in_child, tmp_path, one_line, more_mb):
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


def test_other_errors_are_not_changed():
    with pytest.raises(RuntimeError, match="must match the size") as caught, report_out_of_memory():
        torch.zeros(2) + torch.zeros(3)
    assert not isinstance(caught.value, RunError)


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("too many"), RuntimeError("std::bad_alloc")])
def test_all_errors_about_memory_are_recognised(error):
    with pytest.raises(RunError, match=r"^out of memory: .* \(.+\)$"), report_out_of_memory():
        raise error


def test_too_little_memory_while_building_a_part_is_not_a_wrong_setting():
    with pytest.raises(RunError, match=r"^out of memory: "), report_out_of_memory():
        raise ConfigError("model", "MLP", "can't be built") from RuntimeError("std::bad_alloc")
