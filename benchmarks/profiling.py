"""Where the time of a row goes: the operations with the longest time of their own."""

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.rows import PROFILED

__all__ = ["table"]

LONGEST = 10
REPEATS = 3


def table(row: str, model: str, device: str, threads: int) -> str:
    """Profile a few turns after a first one.

    Args:
        row: one of :data:`benchmarks.rows.PROFILED`.
        model: one of :data:`benchmarks.models.VARIANTS`.
        device: ``cpu`` or ``cuda``.
        threads: of torch.

    Returns:
        Markdown table.
    """
    torch.set_num_threads(threads)
    work = PROFILED[row](model, device)
    work()
    activities = [ProfilerActivity.CPU]
    if device == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as measured:
        for _ in range(REPEATS):
            work()
    key = f"self_{'device' if device == 'cuda' else 'cpu'}_time_total"
    events = sorted(measured.key_averages(), key=lambda e: getattr(e, key), reverse=True)
    total = sum(getattr(event, key) for event in events)
    lines = ["| operation | share of time | calls |", "|---|---:|---:|"]
    for event in events[:LONGEST]:
        share = getattr(event, key) / total
        lines.append(f"| `{event.key}` | {share:.1%} | {event.count // REPEATS} |")
    return "\n".join(lines)
