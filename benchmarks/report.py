"""Markdown from the JSON of a run."""

from collections.abc import Iterable
from typing import Any

__all__ = ["failed", "markdown", "one_line"]

Result = dict[str, Any]
TITLES = {
    "energy": "energy + forces, {} atoms",
    "train": "training step, {} ethanol",
    "epoch": "epoch of 1,000 ethanol, batch {}",
    "md": "ASE MD, {} atoms",
    "help": "`spktrain --help`",
    "peers": "energy + forces, {} atoms, other packages",
}


def failed(result: Result) -> bool:
    """Whether a row crashed, or a model in it is wrong.

    Args:
        result: of one row.

    Returns:
        True where nothing may be claimed.
    """
    return "error" in result or any(
        entry.get("correct") is False for entry in result.get("models", {}).values()
    )


def title(result: Result) -> str:
    """Name of a row for readers.

    Args:
        result: of one row.

    Returns:
        Text.
    """
    kind, _, size = result["row"].partition("-")
    return TITLES[kind].format(f"{int(size):,}" if size else "")


def duration(seconds: float) -> str:
    """Three digits, in ms or s."""
    return f"{1e3 * seconds:.3g} ms" if seconds < 0.9995 else f"{seconds:.3g} s"


def cells(entry: dict[str, Any]) -> list[str]:
    """Time, ratio, spread, memory, its ratio, and errors of one model.

    Args:
        entry: of one model in one row.

    Returns:
        Texts.
    """
    if "seconds" not in entry:
        return [entry.get("note", "WRONG"), "", "", "", "", errors(entry)]
    low, high = entry.get("ratio_quartiles", (None, None))
    memory, memory_ratio = entry.get("memory_mib"), entry.get("memory_ratio")
    return [
        duration(entry["seconds"]),
        f"{entry['ratio']:.2f}" if "ratio" in entry else "",
        f"{low:.2f} - {high:.2f}" if low else "",
        f"{memory:,.0f} MiB" if memory else "",
        f"{memory_ratio:.1f}" if memory_ratio else "",
        errors(entry),
    ]


def errors(entry: dict[str, Any]) -> str:
    """Deviations from the stock model in float32."""
    return ", ".join(
        f"{key.removeprefix('md_')} {value:.0e}" for key, value in entry.get("errors", {}).items()
    )


def one_line(result: Result) -> str:
    """What to print when a row is done.

    Args:
        result: of one row.

    Returns:
        Text.
    """
    if "models" not in result:
        return f"  {result.get('error') or result.get('note')}"
    return "\n".join(
        f"  {name:38} " + "  ".join(filter(None, cells(entry)))
        for name, entry in result["models"].items()
    )


def markdown(report: dict[str, Any]) -> str:
    """The machine and one table for each allocator, number of threads and device.

    Args:
        report: content of the JSON file.

    Returns:
        Text for docs/benchmarks/speed.md.
    """
    machine = ", ".join(f"{key} {value}" for key, value in report["machine"].items())
    lines = [f"`{report['command']}`", "", machine]
    groups: dict[str, list[Result]] = {}
    for result in report["results"]:
        threads = f"{result['threads']} thread{'s' if result['threads'] > 1 else ''}"
        group = f"{result.get('gpu', 'CPU')}, {threads}, {result['malloc']} malloc"
        groups.setdefault(group, []).append(result)
    for group, results in groups.items():
        lines += ["", f"### {group}", "", *table(results)]
    return "\n".join(lines)


def table(results: Iterable[Result]) -> list[str]:
    """Lines of one table.

    Args:
        results: of rows.

    Returns:
        Markdown.
    """
    lines = [
        "| work | model | kernel | time | faster by | quartiles | memory | less by | errors |",
        "|---|---|---|---:|---:|---|---:|---:|---|",
    ]
    for result in results:
        work = title(result)
        if "models" not in result:
            lines.append(f"| {work} | {result.get('error') or result.get('note')} |||||||")
            continue
        for name, entry in result["models"].items():
            row = [work, name, entry.get("backend", ""), *cells(entry)]
            lines.append("| " + " | ".join(row) + " |")
            work = ""
    return lines
