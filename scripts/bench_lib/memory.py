"""Resident memory: of the loop at rest, over many cycles, and at its peak in a first run."""
import re

from . import core, loop

TITLE = "Memory"
WANTED_MB = {100_000: 24.0, 1_000_000: 64.0}
FLAT_CYCLES = 1000
# Beyond these, nothing is left that grows once.
SETTLED_CYCLES = 20


def run(bench):
    for count in bench.counts:
        yield at_rest(bench, count)
    yield peak(bench, 10_000 if bench.quick else 100_000)


def at_rest(bench, count):
    cycles = 60 if bench.quick else FLAT_CYCLES
    bench.say(f"memory over {cycles} cycles, {count}")
    with loop.running(bench, *bench.stored("flat", count), "--interval", "10ms") as running:
        running.wait_for(SETTLED_CYCLES)
        early = running.rss_mb()
        running.wait_for(cycles, at_most_s=3600)
        late, most = running.rss_mb(), core.status_mb(running.pid, "VmHWM")
    figures = {f"after {SETTLED_CYCLES} cycles": [early], f"after {cycles} cycles": [late], "peak": [most]}
    targets = [core.Target(f"after {cycles} cycles", f"after {SETTLED_CYCLES} cycles", at_most=1.02)]
    if count in WANTED_MB:
        targets.append(core.Target("peak", at_most=WANTED_MB[count]))
    return core.Line(f"memory-{count}", f"the loop, {count:,} idle databases", "MB", figures, targets, size=count)


def peak(bench, count):
    """A first run, with its default limits."""
    fixtures = bench.fixtures("flat", count)
    limit = re.search(r"--memory-limit <[^>]*>.*?\[default: ([^\]]+)\]", bench.run(bench.litesnap, "replicate", "--help").said, re.DOTALL)
    if not limit:
        raise core.Failed("--help names no default of --memory-limit")
    limit_mb = {"MiB": 1, "GiB": 1024}[limit[1][-3:]] * float(limit[1][:-3])
    bench.remove("peak-store", "peak-state")
    ran = bench.run(*bench.replicate(fixtures, bench.work / "peak-store", bench.work / "peak-state", "--once"))
    bench.remove("peak-store", "peak-state")
    return core.Line(f"memory-first-{count}", f"first run over {count:,} databases, --memory-limit {limit[1]}", "MB", {"peak": [ran.peak_mb]},
                     [core.Target("peak", at_most=limit_mb + 32)])
