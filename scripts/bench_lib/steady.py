"""The steady state: one database in a hundred is changed by a live writer that keeps its connection, and so its `-wal`, open.

A cycle beside the sum of what it is made of, done bare: the scan, SQLite's backup API with LZ4, the puts of the very objects. Then how
long a commit takes to be stored, as its writer sees it: a commit is stored when the server has the first object of its database
whose `user_version`, which counts its commits, is not below its own.
"""
import contextlib, json, shutil, sqlite3, subprocess, time

from . import core, loop, server

TITLE = "Steady state"
INTERVAL_S = 30
WINDOWS = 4


def run(bench):
    count = 10_000 if bench.quick else 100_000
    yield from cycles(bench, count)
    if not bench.quick:
        yield from latency(bench, 150_000)


class Writers:
    """Live writers of every hundredth database."""

    def __init__(self, bench, fixtures):
        self.list = bench.work / "live-list"
        self.paths = [str(path) for number, path in enumerate(sorted(fixtures.glob("*/*.db"))) if number % 100 == 50]
        self.list.write_text("".join(f"{path}\n" for path in self.paths))
        self.process = subprocess.Popen([bench.floor_program, "live", self.list], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.answer("opening their databases")

    def ask(self, words):
        self.process.stdin.write(words + "\n")
        self.process.stdin.flush()
        return self.answer(words)

    def answer(self, words):
        answer = self.process.stdout.readline()
        if not answer:
            raise core.Failed(f"the writers ended at {words!r}")
        return json.loads(answer)


@contextlib.contextmanager
def live(bench, count):
    """(fixtures that may be changed, writers, state folder)."""
    fixtures = bench.fixtures("flat", count)
    state = bench.work / "steady-state"
    shutil.rmtree(state, ignore_errors=True)
    writers = Writers(bench, fixtures)
    try:
        yield fixtures, writers, state
    finally:
        writers.process.stdin.close()
        writers.process.wait(60)
        # They were changed: whoever comes next makes them anew.
        bench.remove(fixtures.name, "steady-state", f"store-{fixtures.name}", f"state-{fixtures.name}")
        (bench.work / f"stored-{fixtures.name}").unlink(missing_ok=True)
        bench.stores.pop(("flat", count), None)


def rows(state):
    """(number, ms, stored) of the last cycles."""
    with contextlib.closing(sqlite3.connect(f"file:{next(state.glob('*.db'))}?mode=ro", uri=True)) as db:
        return db.execute("SELECT no, elapsed_ms, stored FROM cycles ORDER BY no").fetchall()


def cycles(bench, count):
    bench.say(f"cycles with one in a hundred changed, {count}")
    interval = 4
    with live(bench, count) as (fixtures, writers, state), server.running(bench) as s3:
        command = bench.replicate(fixtures, s3.url("steady"), state, "--once")
        bench.run(*command, env=server.ENV)
        wanted, figures = len(writers.paths), {"litesnap": [], "scan": [], "backup API and LZ4": [], "bare puts": [], "sum of these": []}
        with loop.running(bench, fixtures, s3.url("steady"), state, "--interval", f"{interval}s", env=server.ENV) as running:
            running.wait_for(2)
            for number in range(bench.rounds + 1):
                figure, keys = one_cycle(running, writers, state, s3, wanted)
                # Between two cycles: nothing else runs meanwhile, and the loop's next cycle only looks.
                parts = bare(bench, fixtures, writers, s3, keys, number)
                if number:
                    for name, value in {"litesnap": figure, **parts}.items():
                        figures[name].append(value)
    yield core.Line(f"steady-cycle-{count}", f"a cycle over {count:,} databases, {wanted:,} of them with a live writer's commit", "s", figures,
                    [core.Target("litesnap", to="sum of these", at_most=1.3)],
                    "one after the other: litesnap reads, compresses and uploads at the same time", size=count)


def one_cycle(running, writers, state, s3, wanted):
    """Seconds of the cycle that stored a burst of commits, and the keys of its objects."""
    done, _ = running.cycles()
    running.wait_for(done + 1)
    before, known = rows(state)[-1][0], len(list(s3.puts()))
    writers.ask("burst")
    until = time.monotonic() + 60
    while time.monotonic() < until:
        found = [row for row in rows(state) if row[0] > before and row[2] > 0]
        if sum(stored for _, _, stored in found) >= wanted:
            if len(found) > 1:
                raise core.Failed(f"the burst fell into two cycles: {found}")
            return found[0][1] / 1000, [key for _, _, key in list(s3.puts())[known:]]
        time.sleep(0.1)
    raise core.Failed(f"{wanted} commits were not stored within a minute")


def bare(bench, fixtures, writers, s3, keys, number):
    keys_file = bench.work / "keys"
    keys_file.write_text("".join(f"{key}\n" for key in keys))
    parts = {"scan": bench.floor("scan", fixtures, 2)["seconds"],
             "backup API and LZ4": bench.floor("backup", writers.list, 2)["seconds"],
             "bare puts": bench.floor("put", s3.endpoint, server.BUCKET, f"bare-{number}", f"@{keys_file}", 100)["seconds"]}
    return parts | {"sum of these": sum(parts.values())}


def latency(bench, count):
    bench.say(f"from commit to stored: {WINDOWS} windows of {INTERVAL_S} s, {count}")
    with live(bench, count) as (fixtures, writers, state), server.running(bench, delay_ms=30) as s3:
        bench.run(*bench.replicate(fixtures, s3.url("steady"), state, "--once"), env=server.ENV)
        log = bench.work / "commits.log"
        with loop.running(bench, fixtures, s3.url("steady"), state, "--interval", f"{INTERVAL_S}s", env=server.ENV) as running:
            running.wait_for(1)
            cpu = running.cpu_s()
            writers.ask(f"spread {INTERVAL_S} {WINDOWS} {log}")
            cpu = (running.cpu_s() - cpu) / (INTERVAL_S * WINDOWS) * 100
            time.sleep(2 * INTERVAL_S)
        waits = matched(log, s3)
    percent = lambda share: waits[min(len(waits) - 1, int(len(waits) * share))]
    figures = {"p99": [percent(0.99)], "median": [percent(0.5)], "slowest": [waits[-1]]}
    yield core.Line("steady-latency", f"{len(waits):,} commits, {count:,} databases, 1 % a cycle, 30 ms of added latency: commit to stored", "s",
                    figures, [core.Target("p99", at_most=35.0)], "as each writer's clock and the server's, which is the same, tell it")
    yield core.Line("steady-cpu", f"CPU of the loop meanwhile, interval {INTERVAL_S} s", "% of one core", {"litesnap": [cpu]},
                    [core.Target("litesnap", at_most=5.0)])


def matched(log, s3):
    """Seconds from each commit to the first object that holds it, sorted."""
    stored = {}
    for time_ns, number, key in s3.puts():
        if number is not None:
            stored.setdefault(key.rsplit("/", 1)[0].removeprefix("steady/"), []).append((time_ns, number))
    waits = []
    for line in log.read_text().splitlines():
        committed_ns, number, path = line.split(" ", 2)
        times = [at for at, held in stored.get(path.lstrip("/"), []) if held >= int(number) and at >= int(committed_ns)]
        if not times:
            raise core.Failed(f"commit {number} of {path} was never stored")
        waits.append((min(times) - int(committed_ns)) / 1e9)
    return sorted(waits)
