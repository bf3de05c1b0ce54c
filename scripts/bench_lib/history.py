"""How long a start takes with many databases known, how large a state is, what recording takes; and commands that read a store of
very many objects: seconds, memory and requests.

The states are filled by the floor program through litesnap's own library, under paths as the layout `classic` has them; the
databases themselves need not exist. The store is an S3 server in memory (`floor serve-many`) that takes 30 ms before every answer.
"""
import contextlib, json, os, shutil, sqlite3, subprocess, time

from . import core

TITLE = "Start and history"
# As many as are recorded at once at most, in scripts that record without a pause.
BATCHES = 10
LATENCY_MS = 30
WANTED_MB = 64.0


def run(bench):
    count = bench.counts[-1]
    state = Recorded(bench, count)
    yield from state.lines()
    with served(bench, 20_000 if bench.quick else 1_000_000) as store:
        yield from remote(bench, store)


# --- The state -------------------------------------------------------------------------------------------------------------

class Recorded:
    """A state of `count` databases that litesnap has made and the floor program filled."""

    def __init__(self, bench, count):
        self.bench, self.count = bench, count
        self.folder = bench.work / "history"
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "data").mkdir(parents=True)
        self.command = [bench.litesnap, "replicate", f"{self.folder}/data/*.db", "--store", self.folder / "store",
                        "--state-dir", self.folder / "state"]

    def lines(self):
        count, bench = self.count, self.bench
        bench.say(f"a state of {count} databases, and as many rows in a table of their own")
        bench.run(*self.command, "--once", "--allow-empty")
        state = next((self.folder / "state").glob("*.db"))
        ours = bench.floor("state", state, count, BATCHES)
        bare = bench.floor("bare", self.folder / "bare.db", count, BATCHES)
        bench.settle()
        yield core.Line(f"state-size-{count}", f"state.db of {count:,} databases, paths of 75 bytes", "bytes a database",
                        {"litesnap": [ours["bytes_per_database"]]}, [core.Target("litesnap", at_most=200.0)], size=count)
        figures = {"litesnap": ours["batch_ms"], "litesnap, CPU": ours["batch_cpu_ms"],
                   "bare rows": bare["batch_ms"], "bare rows, CPU": bare["batch_cpu_ms"]}
        yield core.Line(f"state-batch-{count}", f"10,000 confirmations recorded, {count:,} known", "ms", figures,
                        [core.Target("litesnap", at_most=100.0), core.Target("litesnap, CPU", to="bare rows, CPU", at_most=1.5)],
                        "one transaction, synced; bare rows: SQLite alone changes as many rows of that size", size=count)
        figures = {"litesnap": [self.start() for _ in range(bench.rounds)], "its rows read": [bare["read_seconds"]]}
        yield core.Line(f"start-{count}", f"from the start of the process to its first scan, {count:,} known", "s", figures,
                        [core.Target("litesnap", at_most=2.0)],
                        "every page checked for damage, then every row read; its rows read: SQLite alone reads as many", size=count)
        shutil.rmtree(self.folder)

    def start(self):
        """Seconds until the loop says how many databases it knows, which it does before its first scan."""
        began = time.monotonic()
        process = subprocess.Popen([str(word) for word in self.command], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        try:
            said = process.stderr.readline()
            seconds = time.monotonic() - began
        finally:
            # Nothing that it would do now is of interest, and the state is this section's own.
            process.kill()
            process.communicate()
        if f"knows {self.count} databases" not in said:
            raise core.Failed(f"the loop does not know {self.count} databases: {said}")
        return seconds


# --- The store -------------------------------------------------------------------------------------------------------------

class Served:
    """A store of `count` objects, served by a process of its own."""

    def __init__(self, process, count):
        self.process, self.count = process, count
        told = self.answer()
        self.url, self.path = told["url"], told["path"]

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise core.Failed("floor serve-many ended")
        return json.loads(line)

    def asked(self, word="counts"):
        """Requests by verb since this was asked last; `fill` also brings back what was deleted."""
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return self.answer()


@contextlib.contextmanager
def served(bench, count):
    bench.say(f"a store of {count} objects")
    like = an_object(bench)
    process = subprocess.Popen([str(word) for word in (bench.floor_program, "serve-many", count, LATENCY_MS, like)],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Served(process, count)
    finally:
        process.kill()
        process.communicate()


def an_object(bench):
    """One object that litesnap has stored, of a database of 100 KiB."""
    folder = bench.work / "history-object"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with contextlib.closing(sqlite3.connect(folder / "a.db")) as connection:
        connection.execute("CREATE TABLE t(x)")
        connection.executemany("INSERT INTO t VALUES(?)", [(f"row {n} of some text",) for n in range(3000)])
        connection.commit()
    bench.run(bench.litesnap, "replicate", folder / "a.db", "--once", "--store", folder / "store", "--state-dir", folder / "state")
    return next((folder / "store").rglob("*.db.lz4"))


def remote(bench, store):
    """Lines of one table: seconds, peak memory, requests of each command. The server shares the machine's cores."""
    env = os.environ | {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    target, told = bench.work / "history-back.db", bench.work / "history-told"
    older = store.count // 20
    commands = {
        "restore of one": (["restore", "--match", store.path, "-o", target], "restored=1 "),
        "list": (["list"], f"databases={store.count - older} snapshots={store.count} "),
        "prune": (["prune", "--keep-last", "1", "--delete-rate", "1000000"], f"removed={older} "),
    }
    ran = {name: [] for name in commands}

    def once(name):
        words, expected = commands[name]
        target.unlink(missing_ok=True)
        store.asked()
        # A list of everything is not kept in memory: what this process takes counts for those that it starts.
        into_file = ["sh", "-c", 'out=$1; shift; exec "$@" > "$out"', "sh", told, bench.litesnap]
        done = bench.run(*into_file, words[0], "--store", store.url, *words[1:], env=env)
        said = tail(told) + done.said
        if expected not in said:
            raise core.Failed(f"{name} does not say {expected!r}: {said[-2000:]}")
        ran[name].append((done.peak_mb, store.asked("fill")))
        return done.seconds

    bench.say(f"restore, list and prune, {store.count} objects")
    seconds = core.alternate(bench.rounds, {name: lambda name=name: once(name) for name in commands})
    for file in (target, told):
        file.unlink(missing_ok=True)
    what = f"a store of {store.count:,} objects, {LATENCY_MS} ms before every answer"
    yield core.Line(f"remote-seconds-{store.count}", what, "s", seconds, remark="prune removes a twentieth")
    memory = {name: [peak_mb for peak_mb, _ in all_done] for name, all_done in ran.items()}
    yield core.Line(f"remote-memory-{store.count}", f"peak memory, {what}", "MB", memory,
                    [core.Target(name, at_most=WANTED_MB, stat="max") for name in memory])
    yield requests(ran, store, what)


def tail(file):
    with open(file, "rb") as said:
        said.seek(max(0, file.stat().st_size - 4000))
        return said.read().decode(errors="replace")


def requests(ran, store, what):
    figures = {"pages of keys": [float(store.count // 1000)]}
    for name, all_done in ran.items():
        for verb in ("LIST", "GET", "POST"):
            counts = [float(asked[verb]) for _, asked in all_done]
            if any(counts):
                figures[f"{name}: {verb}"] = counts
    pages = store.count / 1000
    # What guesses at the borders of ranges may cost: see Listing in ARCHITECTURE.md.
    at_most = (pages + pages / 40 + 12) / pages
    targets = [core.Target(f"{name}: LIST", to="pages of keys", at_most=at_most) for name in ("list", "prune")]
    return core.Line(f"remote-requests-{store.count}", f"requests, {what}", "requests", figures, targets,
                     "a page is 1,000 keys, and so is a request to delete")
