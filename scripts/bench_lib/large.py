"""One large database: how fast it is stored beside LZ4 in a single thread, in how much memory, and whether a writer waits for it."""
import shutil, sqlite3, threading, time

from . import core

TITLE = "Large databases"
WORDS = "invoice customer payment shipped pending address street number remark total amount currency article".split()


def run(bench):
    size_mb = 64 if bench.quick else 1000
    database = made(bench, size_mb)
    peaks = []

    def litesnap():
        ran = stored(bench, database)
        peaks.append(ran.peak_mb)
        return size_mb / ran.seconds

    def lz4():
        seconds = bench.floor("lz4", database, bench.work / "large.lz4")["seconds"]
        (bench.work / "large.lz4").unlink()
        bench.settle()
        return size_mb / seconds

    bench.say(f"a database of {size_mb} MB")
    # Into the kernel's cache, and not into this process: what it has resident would count as its children's peak.
    bench.run("dd", f"if={database}", "of=/dev/null", "bs=1M")
    figures = core.alternate(bench.rounds, {"litesnap": litesnap, "LZ4 frame, 1 thread": lz4})
    yield core.Line(f"large-{size_mb}", f"a database of {size_mb:,} MB into a folder, from start to end of the process", "MB/s", figures,
                    [core.Target("litesnap", to="LZ4 frame, 1 thread", at_least=0.9)],
                    "LZ4 frame: read, compressed and written, not synced; litesnap also hashes it twice and waits for the disk")
    yield core.Line(f"large-memory-{size_mb}", "the same: peak of the process", "MB", {"litesnap": peaks},
                    [core.Target("litesnap", at_most=64.0, stat="max")])
    yield from writer(bench, database, size_mb)
    shutil.rmtree(database.parent)


def made(bench, size_mb):
    """Rows of words and numbers, which LZ4 makes about half as large."""
    folder = bench.work / "large"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    db = sqlite3.connect(folder / "large.db", isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = OFF")
    db.execute("CREATE TABLE entries(id INTEGER PRIMARY KEY, note TEXT, payload BLOB)")
    notes = [" ".join(WORDS[(at * step) % len(WORDS)] for at in range(40)) for step in range(1, 12)]
    db.execute("BEGIN")
    rows = 0
    while db.execute("PRAGMA page_count").fetchone()[0] * 4096 < size_mb * 1_000_000:
        some = ((notes[n % len(notes)] + str(n),) for n in range(rows, rows + 20_000))
        db.executemany("INSERT INTO entries(note, payload) VALUES(?, randomblob(160))", some)
        rows += 20_000
    db.execute("COMMIT")
    db.close()
    bench.settle()
    return folder / "large.db"


def stored(bench, database):
    bench.remove("large-store", "large-state")
    command = [bench.litesnap, "replicate", database, "--store", bench.work / "large-store", "--state-dir", bench.work / "large-state", "--once"]
    ran = bench.run(*command)
    if "stored=1 " not in ran.said:
        raise core.Failed(f"it was not stored: {ran.said[-2000:]}")
    bench.remove("large-store", "large-state")
    bench.settle()
    return ran


def writer(bench, database, size_mb):
    """Commits one after another by a writer that does not wait for locks: alone, and while the database is stored through SQLite."""
    latencies = {"alone": [], "while it is stored": []}
    db = sqlite3.connect(database, isolation_level=None, timeout=0, check_same_thread=False)
    db.execute("PRAGMA synchronous = NORMAL")

    def commits(until, into):
        while not until():
            began = time.perf_counter()
            # A lock in its way would be an error at once.
            db.execute("INSERT INTO entries(note) VALUES('written meanwhile')")
            into.append((time.perf_counter() - began) * 1000)
            time.sleep(0.0005)

    for _ in range(bench.rounds):
        done = []
        thread = threading.Thread(target=lambda: done.append(stored(bench, database)))
        thread.start()
        commits(lambda: not thread.is_alive(), latencies["while it is stored"])
        if not done:
            raise core.Failed("the database was not stored while it was written")
        end = time.perf_counter() + done[0].seconds
        commits(lambda: time.perf_counter() > end, latencies["alone"])
    db.close()
    figures = {}
    for name, values in latencies.items():
        values.sort()
        figures[f"{name}: median"], figures[f"{name}: p99"] = [values[len(values) // 2]], [values[int(len(values) * 0.99)]]
        figures[f"{name}: slowest"] = [values[-1]]
    count = len(latencies["while it is stored"])
    yield core.Line(f"large-writer-{size_mb}", f"commits of a WAL-mode writer ({count:,} while it is stored, none refused)", "ms", figures, [],
                    "its busy timeout is 0: had it to wait for a lock, its commit would fail and so would the measurement; what it loses "
                    "besides is its share of two cores")
