"""The idle cycle: nothing changed. What seeing that costs, against the system calls alone and against those who do the same."""
import os, time

from . import core, loop

TITLE = "Idle cycle"
# Cycles that one figure is the mean of, by number of databases; the first of a process is left out.
CYCLES = {10_000: 30, 100_000: 8, 1_000_000: 3}
FLOOR, FLOOR_1, FIND = "floor, 2 threads", "floor, 1 thread", "find -newermt"
# Beyond this, a peer's first run would take longer than all the rest.
PEERS_MAX = 100_000
WANTED = {("flat", 100_000): 1.5, ("deep", 100_000): 1.2, ("flat", 10_000): 1.5}


def run(bench):
    for layout in ("flat", "deep"):
        for count in bench.counts:
            if layout == "deep" and count > 100_000 and not bench.has_room(f"{count} databases, deep", count * 55e-6):
                continue
            yield from cycle(bench, layout, count)


def cycle(bench, layout, count):
    stored = bench.stored(layout, count)
    contenders = {"litesnap": lambda: litesnap(bench, stored, count)}
    for name, threads in ((FLOOR, 2), (FLOOR_1, 1)):
        contenders[name] = lambda threads=threads: bench.floor("scan", stored[0], threads)["seconds"]
    contenders[FIND] = lambda: find(bench, stored[0])
    if count <= PEERS_MAX and bench.with_peers:
        contenders |= peers(bench, stored[0], f"{layout}-{count}")
    bench.say(f"idle cycle, {layout}, {count}")
    # Not counted: it brings the folders into the kernel's caches.
    bench.floor("scan", stored[0], 2)
    figures = core.alternate(bench.rounds, contenders)
    targets = [core.Target("litesnap", FLOOR, at_most=WANTED.get((layout, count), 1.5))]
    if layout == "flat":
        targets.append(core.Target("litesnap", FIND, at_most=1.0))
    if (layout, count) == ("flat", 1_000_000):
        targets.append(core.Target("litesnap", at_most=1.5))
    yield core.Line(f"idle-{layout}-{count}", f"{layout}, {count:,} databases, nothing changed", "s", figures, targets,
                    "restic and rclone compare with a list of their own; restic also writes a snapshot", size=count)
    if count == 1_000_000 and layout == "flat":
        yield at_thirty_seconds(bench, stored, count)


def litesnap(bench, stored, count):
    wanted = CYCLES.get(count, 3)
    with loop.running(bench, *stored, "--interval", "10ms") as running:
        first, spent = running.wait_for(1)
        done, all_spent = running.wait_for(first + wanted)
    return (all_spent - spent) / (done - first)


def find(bench, fixtures):
    return bench.run("find", fixtures, "-name", "*.db", "-newermt", "2038-01-01").seconds


def peers(bench, fixtures, name):
    """Those that look for changes as well, once they have stored everything."""
    found = {}
    if bench.tool("rclone"):
        copy = bench.work / f"rclone-{name}"
        command = ["rclone", "copy", fixtures, copy, "--quiet", "--transfers", "8"]
        bench.run(*command)
        found["rclone copy"] = lambda: bench.run(*command).seconds
    if bench.tool("restic"):
        env = restic_env(bench, name)
        if not (bench.work / f"restic-{name}" / "config").exists():
            bench.run("restic", "init", "-q", env=env)
            bench.run("restic", "backup", "-q", fixtures, env=env)
        found["restic backup"] = lambda: bench.run("restic", "backup", "-q", fixtures, env=env).seconds
    bench.tool("litestream")
    bench.settle()
    return found


def restic_env(bench, name):
    folders = {"RESTIC_REPOSITORY": bench.work / f"restic-{name}", "RESTIC_CACHE_DIR": bench.work / "restic-cache"}
    return os.environ | {"RESTIC_PASSWORD": "bench"} | {key: str(value) for key, value in folders.items()}


def at_thirty_seconds(bench, stored, count, intervals=3):
    """CPU time at the interval that people run it with."""
    bench.say("CPU at an interval of 30 s")
    with loop.running(bench, *stored, "--interval", "30s") as running:
        running.wait_for(1)
        # Half an interval from any cycle, and nobody asks meanwhile: that would be CPU time as well.
        time.sleep(15)
        shares = [running.cpu_s()]
        for _ in range(intervals):
            time.sleep(30)
            shares.append(running.cpu_s())
    percent = [(after - before) / 30 * 100 for before, after in zip(shares, shares[1:])]
    return core.Line(f"idle-cpu-{count}", f"{count:,} databases, nothing changed, every 30 s: CPU", "% of one core",
                     {"litesnap": percent}, [core.Target("litesnap", at_most=10.0)])
