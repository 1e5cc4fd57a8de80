"""Writes the newest results into the tables of ``docs/performance.md``: ``python benchmarks/page.py``.

A record is a file in ``benchmarks/results/``. A table is the text between ``<!-- NAME -->`` and ``<!-- end -->``. A
table without results says "Not yet measured".
"""

import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from digitlab.config.compose import ROOT
from records import newest_record
from report import EPOCHS

PAGE = ROOT / "docs" / "performance.md"
_BLOCK = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> None:
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def filled(text: str) -> str:
    """Return ``text`` with its tables replaced by those of the newest results."""

    def block(match: re.Match[str]) -> str:
        begin, name, end = match.groups()
        record = newest_record(name)
        table = "Not yet measured." if record is None else f"{_TABLES[name](record)}\n\n{_source(record)}"
        return f"{begin}\n{table}\n\n{end}"

    return _BLOCK.sub(block, text)


def _source(record: dict[str, Any]) -> str:
    """Return the line below a table: hardware, versions, date, commit and load."""
    hardware, versions = record["hardware"], record["versions"] | record.get("peer_versions", {})
    packages = [name for name in ("torch", "lightning", "jax", "keras") if name in versions]
    version_text = ", ".join(f"{name} {versions[name]}" for name in packages)
    commit = (record["git_commit"] or "")[:7]
    gpu = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in record.get("gpu", {}).items())
    return (
        f"{hardware.get('gpu', hardware['cpu'])}, {hardware['cores']} cores; "
        f"Python {versions['python']}, {version_text}; {gpu + '; ' if gpu else ''}"
        f"{record['date'][:10]}, commit {commit}; load average before {record['load_average_before']:.1f}."
    )


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rule = "|---|" + "---:|" * (len(header) - 1)
    return "\n".join([_line(header), rule, *map(_line, rows)])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def epochs(record: dict[str, Any]) -> str:
    """Return the microseconds per step, one line per row of the benchmark, and then the ratios with their targets."""
    return _epochs(record[EPOCHS["cpu"]])


def epochs_on_gpu(record: dict[str, Any]) -> str:
    """Return the same tables for a GPU."""
    return _epochs(record[EPOCHS["cuda"]])


def _epochs(workloads: Sequence[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for each in workloads for name in (*each["rows"], *each["skipped"])))
    rows = [[name, *(_microseconds(each["rows"].get(name)) for each in workloads)] for name in names]
    header = [f"({each['workload']})" for each in workloads]
    return f"{_markdown(['µs a step', *header], rows)}\n\n{_ratios(workloads, header)}"


def _microseconds(row: dict[str, Any] | None) -> str:
    return "–" if row is None else f"{row['microseconds_per_step']:,.0f}"


def _ratios(workloads: Sequence[dict[str, Any]], header: Sequence[str]) -> str:
    """Return the table of ratios, one column per workload, and the list of what differs between the rows."""
    cells: dict[str, dict[str, str]] = {}
    for each in workloads:
        for target in each["bars"]:
            title = f"{target['row']} over {target['against']}, at most {target['at_most']:.2f}"
            ratio = f"{target['ratio']:.2f}"
            cells.setdefault(title, {})[each["workload"]] = ratio if target["passed"] else f"**{ratio}**"
        # Records of earlier versions have neither variants nor setups.
        for pair in each.get("variants", ()):
            cells.setdefault(f"{pair['row']} over {pair['against']}", {})[each["workload"]] = f"{pair['ratio']:.2f}"
    rows = [[title, *(ratios.get(each["workload"], "") for each in workloads)] for title, ratios in cells.items()]
    table = _markdown(["ratio of medians (bold: missed)", *header], rows)
    differences = _differences(workloads)
    return f"{table}\n\n{differences}" if differences else table


def _differences(workloads: Sequence[dict[str, Any]]) -> str:
    """List what differs between the two rows of each ratio: an item for each pair of rows and set of differences."""
    keys_by_item: dict[tuple[str, str], list[str]] = {}
    for each in workloads:
        for pair in (*each["bars"], *each.get("variants", ())):
            if "differences" in pair:
                item = f"{pair['row']} over {pair['against']}", pair["differences"] or "no difference"
                keys_by_item.setdefault(item, []).append(f"({each['workload']})")
    items = [f"- *{title}* {', '.join(keys)}: {text}" for (title, text), keys in keys_by_item.items()]
    return "\n".join(["What differs between the two rows of a ratio:", "", *items]) if items else ""


def commands(record: dict[str, Any]) -> str:
    """Return the wall and processor seconds of whole commands."""
    measured = record["commands"]
    rows = [
        [
            f"`{name}`" if name.startswith(("import", "train.py")) else name,
            f"{row['median_wall_seconds']:.2f}", f"{row['median_processor_seconds']:.2f}", str(len(row["rounds"])),
        ]
        for name, row in measured["rows"].items()
    ]  # fmt: skip
    table = _markdown(["command", "s", "processor s", "rounds"], rows)
    verdict = "held" if measured["passed"] else "missed"
    ratio = f"{measured['start_up_ratio']:.2f}, at most {measured['at_most']} ({verdict})"
    return f"{table}\n\nUntil the first step over the imports: {ratio}."


def curves(record: dict[str, Any]) -> str:
    """Return one table for each number that was changed."""
    tables = []
    for curve in record["curves"]:
        names = [f"{way}, {unit}" for way in curve["ways"] for unit in ("µs a step", "peak MiB")]
        rows = [
            [f"{value:,}", *(text for way in curve["ways"].values() for text in _point(way, index))]
            for index, value in enumerate(curve["values"])
        ]
        tables.append(_markdown([curve["title"], *names], rows))
    return "\n\n".join(tables)


def _point(way: dict[str, Sequence[float]], index: int) -> tuple[str, str]:
    return f"{way['microseconds_per_step'][index]:,.0f}", f"{way['peak_bytes'][index] / 2**20:,.0f}"


def profiles(record: dict[str, Any]) -> str:
    """Return the microseconds per step of each part, one column per workload and way, and the lower limits."""
    measured = record["profiles"]
    parts = list(dict.fromkeys(part for each in measured for part in each["microseconds_per_step"]))
    header = [f"({each['workload']}){' compiled' if each['compiled'] else ''}" for each in measured]
    cells = [[each["microseconds_per_step"].get(part) for each in measured] for part in parts]
    rows = [
        [part, *("" if cell is None else f"{cell:,.0f}" for cell in row)]
        for part, row in zip(parts, cells, strict=True)
    ]
    rows += [
        [f"*floor by {name}*", *(f"{each['floors'][name]:,.0f}" if "floors" in each else "" for each in measured)]
        for name in ("arithmetic", "memory")
    ]
    return _markdown(["µs a step", *header], rows)


def members(record: dict[str, Any]) -> str:
    """Return the processor time per step of a member, and the target of the compiled population."""
    rows = [
        [
            f"({each['key']}), {each['members']} members",
            *(f"{statistics.median(each[name]):,.0f}" for name in ("bare", "eager", "compiled")),
            f"{each['ratio']:.3f}, at most {each['bar']:.2f}",
        ]
        for each in record["members"]
    ]
    return _markdown(["µs of one thread", "bare loop", "population", "population compiled", "compiled over bare"], rows)


def members_on_gpu(record: dict[str, Any]) -> str:
    """Return the milliseconds for the steps of many members of (a) and of one member, and the target."""
    measured = record["members_on_gpu"]
    rows = [
        [f"{measured['members']} members", f"{1000 * measured['many_seconds']:.1f}"],
        ["one", f"{1000 * measured['one_seconds']:.1f}"],
        [f"ratio, at most {measured['at_most']:.0f}", f"{measured['ratio']:.2f}"],
    ]
    return _markdown([f"{measured['steps']} steps of (a)", "ms"], rows)


# The function that makes each table. Its name in the page is also the key of the record.
_TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    EPOCHS["cpu"]: epochs,
    EPOCHS["cuda"]: epochs_on_gpu,
    "members": members,
    "members_on_gpu": members_on_gpu,
    "commands": commands,
    "curves": curves,
    "profiles": profiles,
}


if __name__ == "__main__":
    main()
