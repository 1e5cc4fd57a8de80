"""How many operations a captured update has. On a GPU each is a kernel: most of the time that a small network takes."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from digitlab.core.abilities import ABILITIES
from digitlab.engine.cuda_graph import CudaGraph


class Operations(TorchDispatchMode):
    """Counts the operations that compute something. Views are free."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        result = function(*arguments, **(named or {}))
        aliases = [each.alias_info for each in function._schema.returns]
        if not all(alias is not None and not alias.is_write for alias in aliases):
            self.found[str(function.overloadpacket)] += 1
        return result


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Counter[str]]:
    """The operations of each call that is captured, of the first time that it is called."""
    counts: list[Counter[str]] = []
    init = CudaGraph.__init__

    def watched(graph: CudaGraph, call: Callable[[list[Tensor]], list[Tensor]], **named: Any) -> None:
        seen: list[int] = []

        def counting(inputs: list[Tensor]) -> list[Tensor]:
            if seen:
                return call(inputs)
            seen.append(1)
            with Operations() as mode:
                results = call(inputs)
            counts.append(mode.found)
            return results

        init(graph, counting, **named)

    monkeypatch.setattr(CudaGraph, "__init__", watched)
    return counts


@pytest.fixture(params=[True, False], ids=["fused", "one by one"])
def fused_rules(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether update rules have fused kernels, as on a GPU for one network in float32."""
    monkeypatch.setitem(ABILITIES, "cpu", replace(ABILITIES["cpu"], fused_rules=request.param))
    used: bool = request.param
    return used


# The most operations of an update of workload (a) without its rule, which has six parameters.
_WITHOUT_RULE = 26
# The most operations of the rule, fused or not: each optimizer's own for a parameter, and the conversion of numbers.
RULES = {
    "optimizer=sgd": (3, 9),
    "optimizer=sgd optimizer.momentum=0.9 optimizer.weight_decay=0.1": (4, 24),
    "optimizer=adam": (4, 60),
    "optimizer=adamw optimizer.weight_decay=0.1": (5, 69),
}


@pytest.mark.sample(4)
@pytest.mark.parametrize(("overrides", "most"), RULES.items(), ids=RULES)
def test_a_captured_update_has_few_operations(
    run: Callable[..., Any],
    captured: list[str],
    counted: list[Counter[str]],
    fused_rules: bool,
    overrides: str,
    most: tuple[int, int],
) -> None:
    run(
        "model=mlp", "model.hidden=[64,64]", *overrides.split(), "data.train_size=160", "data.batch_size=20",
        "trainer.max_epochs=1",
    )  # fmt: skip
    (count,) = counted
    # Losses and logits of the eight updates are stacked once.
    per_update = (count.total() - 2) / 8
    assert per_update <= _WITHOUT_RULE + most[not fused_rules], count


# One of them is a copy that only a CPU needs, after the first product of so few images.
@pytest.mark.parametrize(("optimizer", "most"), [("sgd", 58), ("adam", 106)])
def test_a_populations_captured_update_has_few_operations(
    stacked: Callable[..., Any], graph_capture: Any, counted: list[Counter[str]], optimizer: str, most: int
) -> None:
    runner, chunks = stacked("model=mlp", "model.hidden=[64,64]", f"optimizer={optimizer}", graph_capture=graph_capture)
    runner.prepare([chunk.part(0, 8) for chunk in chunks], first=0, steps_ahead=64)
    (count,) = counted
    assert (count.total() - 2) / 8 <= most, count
