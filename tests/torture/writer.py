#!/usr/bin/env python3
"""An application that writes to its databases in every way there is, and logs what it commits.

usage: writer.py SPEC LOG SEED

SPEC is a JSON list of databases, LOG a file that lines are appended to, each by one write:
`WORD NANOSECONDS ID BIRTH N H PARENT MODE`, WORD being `try` before and `done` after each commit, `rest` for the state when
told to be quiet, `busy` when somebody else's lock was in the way for longer than this application waits.

Commands on standard input, one a line: `quiet` finishes and answers `quiet {"ID": MODE, …}`, the databases that it keeps open;
`go` goes on; `die` is answered by SIGKILL outside of transactions, connections open. Ends with its input: exit code 0;
1 for an error that no application expects (a traceback says which), 2 usage.
"""
import json
import os
import pathlib
import random
import select
import signal
import sqlite3
import sys
import time

import chain
from engines import ENGINES, Watch, is_lock

SIDECARS = ("-wal", "-shm", "-journal")
CHECKPOINTS = ("PASSIVE", "FULL", "RESTART", "TRUNCATE")
PAGE_SIZES = (512, 1024, 4096, 8192, 65536)
# What a turn does, and how often, in a thousand; the rest are plain commits.
ODDITIES = {
    "big": 40, "savepoint": 60, "rollback": 40, "slow": 8, "vacuum": 8, "incremental": 15, "checkpoint": 50,
    "switch": 20, "repage": 6, "exclusive": 10, "replace": 12, "recreate": 12, "attach": 40, "reopen": 30,
}
# Longer than a stamp stays young for litesnap: a database that pauses so long is at rest.
AT_REST_S = 2.0


class Log:
    def __init__(self, path):
        self.out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, word, db, state=("-", 0, 0), parent=0):
        birth, n, h = state
        line = f"{word} {time.time_ns()} {db.id} {birth} {n} {h} {parent} {db.mode}\n"
        os.write(self.out, line.encode())


class Database:
    """One database of the application's, its connection if it has one, and when it is to be written next."""

    def __init__(self, spec):
        self.id, self.path, self.engine, self.keep = spec["id"], spec["path"], spec["engine"], spec["keep"]
        self.modes, self.pace, self.is_own, self.may_attach = spec["modes"], spec["pace"], spec["own"], spec["attach"]
        self.rows, self.size, self.page_size, self.vacuum = spec["rows"], spec["size"], spec["page"], spec["vacuum"]
        self.wanted, self.mode = self.modes[0], "-"
        self.connection, self.due, self.left, self.last = None, 0.0, 0, 0.0

    def open(self, source):
        if self.connection is None:
            self.connection = ENGINES[self.engine](self.path)
            self.q(f"PRAGMA synchronous={source.choice(('off',) * 6 + ('normal', 'full'))}")
            self.q(f"PRAGMA cache_size={source.choice((5, 10, 2000))}")

    def settle(self, mode):
        """Asks for a journal mode; somebody who reads can be in the way of leaving WAL."""
        self.wanted = mode
        if mode != "wal" and self.q("PRAGMA journal_mode") == [("wal",)]:
            # SQLite 3.40.1 takes what a connection has in its cache for current when that leaves WAL mode, also if another
            # has committed since: what is written next mixes two states. A new connection has nothing in its cache.
            self.close()
            self.open(random)
        try:
            ((self.mode,),) = self.q(f"PRAGMA journal_mode={mode}")
        except sqlite3.OperationalError as error:
            if not is_lock(error):
                raise
            ((self.mode,),) = self.q("PRAGMA journal_mode")

    def q(self, sql, *values):
        return self.connection.q(sql, *values)

    def close(self):
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def exists(self):
        return os.path.exists(self.path)

    def is_made(self):
        return bool(self.q("SELECT 1 FROM sqlite_master WHERE name = 'bulk'"))

    def plan(self, source, now):
        """When it is written next: many times in a burst, then a pause after its kind."""
        if self.left > 0:
            self.left -= 1
            self.due = now + source.choice((0.0, 0.002, 0.02))
            return
        self.left = {"ambush": 0, "hot": source.randint(0, 40)}.get(self.pace, source.randint(0, 12))
        pauses = {"hot": (0.0, 0.1), "burst": (0.1, 1.5), "sleepy": (AT_REST_S - 0.2, 2.8), "ambush": (3.0, 4.0)}
        self.due = now + source.uniform(*pauses[self.pace])


class Writer:
    def __init__(self, specs, log, seed):
        self.all = [Database(spec) for spec in specs]
        self.log, self.source, self.watch = log, random.Random(seed), Watch()
        self.watched = False

    # --- What it does with one database -----------------------------------------------------------------------------

    def connect(self, db):
        """Opens it, makes it if it is not there, or is there without content, as a killed writer leaves it."""
        if db.connection is not None:
            return
        db.open(self.source)
        if not db.is_made():
            self.make(db)
        ((mode,),) = db.q("PRAGMA journal_mode")
        db.mode = mode
        if mode != db.wanted:
            db.settle(db.wanted)

    def make(self, db):
        db.mode = "delete"
        db.q(f"PRAGMA page_size={db.page_size}")
        if db.vacuum:
            # Commits one page without a table in it.
            self.log.note("try", db, ("empty", 0, 0))
            db.q(f"PRAGMA auto_vacuum={db.vacuum}")
            self.log.note("done", db, ("empty", 0, 0))
        db.q("BEGIN IMMEDIATE")
        if db.is_made():
            return db.q("COMMIT")  # Another process of this application was faster.
        birth = os.urandom(6).hex() + "x"
        state = chain.create(db.q, "main", birth, self.source, db.rows, db.size)
        self.finish([(db, state, 0)], db)

    def finish(self, states, through):
        for db, state, parent in states:
            self.log.note("try", db, state, parent)
        through.q("COMMIT")
        for db, state, parent in states:
            self.log.note("done", db, state, parent)

    def begin(self, db):
        # Without a journal nothing can be undone: whoever is in the way must be so before the first write.
        kinds = ("EXCLUSIVE",) if db.mode == "off" else ("IMMEDIATE", "IMMEDIATE", "IMMEDIATE", "EXCLUSIVE")
        db.q(f"BEGIN {self.source.choice(kinds)}")

    def advance(self, db, changed=None, schema="main", through=None):
        changed = changed or self.source.randint(2, 6)
        grow = self.source.choice((0, 0, 0, 0, 3, -3)) if db.pace != "ambush" else 0
        return chain.advance((through or db).q, schema, self.source, changed, db.size, grow)

    def commit(self, db, changed=None):
        self.begin(db)
        state, parent = self.advance(db, changed)
        self.finish([(db, state, parent)], db)

    def big(self, db):
        self.commit(db, changed=3 * db.rows)

    def slow(self, db):
        """A transaction that has spilled its cache and then waits, longer than a stamp is young."""
        db.q("PRAGMA cache_size=5")
        self.begin(db)
        state, parent = self.advance(db, changed=3 * db.rows)
        time.sleep(self.source.choice((0.05, 0.3, AT_REST_S + 0.4)))
        self.finish([(db, state, parent)], db)

    def savepoint(self, db):
        if db.mode == "off":
            return self.commit(db)
        if db.mode == "wal":
            # SQLite 3.40.1, once a spilled transaction has gone back to a savepoint, may leave frames in the -wal without
            # checksums: a crash then loses the commit, whoever reads (mended by 3.54).
            db.q("PRAGMA cache_spill=off")
        self.begin(db)
        db.q("SAVEPOINT once")
        self.advance(db, changed=2 * db.rows)
        db.q("ROLLBACK TO once")
        db.q("RELEASE once")
        state, parent = self.advance(db)
        self.finish([(db, state, parent)], db)
        db.q("PRAGMA cache_spill=on")

    def rollback(self, db):
        if db.mode == "off":
            return self.commit(db)
        self.begin(db)
        self.advance(db, changed=2 * db.rows)
        db.q("ROLLBACK")

    def vacuum(self, db):
        db.q("VACUUM")

    def incremental(self, db):
        if db.mode == "off":
            return  # It may meet a lock in its midst.
        db.q("PRAGMA incremental_vacuum(5)")

    def checkpoint(self, db):
        if db.mode == "wal":
            db.q(f"PRAGMA wal_checkpoint({self.source.choice(CHECKPOINTS)})")

    def switch(self, db):
        db.settle(self.source.choice(db.modes))

    def repage(self, db):
        if db.mode != "wal":
            db.q(f"PRAGMA page_size={self.source.choice(PAGE_SIZES)}")
            db.q(f"PRAGMA auto_vacuum={self.source.choice((0, 1, 2))}")
            db.q("VACUUM")

    def exclusive(self, db):
        db.q("PRAGMA locking_mode=EXCLUSIVE")
        try:
            for _ in range(self.source.randint(1, 8)):
                self.commit(db)
            time.sleep(self.source.choice((0, 0, 0.05, 0.4)))
        finally:
            db.connection.undo()
            db.q("PRAGMA locking_mode=NORMAL")
            db.q("SELECT n FROM meta")

    def reopen(self, db):
        db.close()
        self.connect(db)
        self.commit(db)

    def attach(self, db):
        others = [o for o in self.all if o.may_attach and o is not db and o.exists() and o.mode != "-"]
        if not (db.may_attach and others):
            return self.commit(db)
        other = self.source.choice(others)
        db.q("ATTACH ? AS other", other.path)
        try:
            if not db.q("SELECT 1 FROM other.sqlite_master WHERE name = 'bulk'"):
                return
            db.q("PRAGMA other.synchronous=off")
            db.q("BEGIN IMMEDIATE")
            states = [(d, *self.advance(d, schema=s, through=db)) for d, s in ((db, "main"), (other, "other"))]
            self.finish(states, db)
        finally:
            db.connection.undo()
            db.q("DETACH other")

    def fold(self, db):
        """Closes it with everything in the main file and nothing beside; false if a reader was in the way."""
        db.settle("delete")
        folded = db.mode == "delete"
        if folded:
            db.close()
            pathlib.Path(db.path + "-journal").unlink(missing_ok=True)
        db.wanted = self.source.choice(db.modes)
        return folded

    def replace(self, db):
        """`mv` of another database, prepared elsewhere and closed, over this one."""
        if not db.is_own or not self.fold(db):
            return
        prepared = Database({**vars(db), "path": f"{db.path}.prepared", "own": True, "attach": False,
                             "page": self.source.choice(PAGE_SIZES), "vacuum": self.source.choice((0, 1, 2))})
        remove(prepared.path)
        prepared.open(self.source)
        self.log, logged = Log(os.devnull), self.log
        try:
            self.make(prepared)
            prepared.settle(self.source.choice(db.modes))
            for _ in range(self.source.randint(0, 3)):
                self.commit(prepared)
            state = chain.state(prepared.q)
            prepared.close()
        finally:
            self.log = logged
        for end in SIDECARS:
            pathlib.Path(prepared.path + end).unlink(missing_ok=True)
        self.log.note("try", db, state)
        os.rename(prepared.path, db.path)
        self.log.note("done", db, state)

    def recreate(self, db):
        """Deleted as `rm` does it, main file first; made anew under the same name, at once or a little later."""
        if not db.is_own:
            return
        if self.source.random() < 0.5 and not self.fold(db):
            return
        db.close()
        self.log.note("try", db, ("gone", 0, 0))
        remove(db.path)
        self.log.note("done", db, ("gone", 0, 0))
        if self.source.random() < 0.5:
            self.connect(db)
        else:
            db.left, db.due = 0, time.monotonic() + self.source.uniform(0, 1.0)
            db.mode = "-"

    # --- The turns ---------------------------------------------------------------------------------------------------

    def turn(self, db):
        try:
            self.connect(db)
            odd = self.source.randrange(1000) if db.pace != "ambush" else 999
            for name, share in ODDITIES.items():
                if odd < share:
                    getattr(self, name)(db)
                    break
                odd -= share
            else:
                self.commit(db, changed=2 if db.pace == "ambush" else None)
        except sqlite3.OperationalError as error:
            if not is_lock(error):
                raise
            self.log.note("busy", db)
            if db.connection is not None:
                db.connection.undo()
        finally:
            if not db.keep:
                db.close()
        db.last = time.monotonic()

    def run(self):
        while True:
            now = time.monotonic()
            due = [db for db in self.all if db.due <= now]
            wait = 0 if due else min(0.05, max(0.0, min(db.due for db in self.all) - now))
            ready, _, _ = select.select([sys.stdin, self.watch.fd], [], [], wait)
            if sys.stdin in ready and not self.command():
                return
            if self.watch.fd in ready:
                self.ambush()
            if due:
                db = self.source.choice(due)
                self.turn(db)
                db.plan(self.source, time.monotonic())
                if db.pace == "ambush" and not self.watched:
                    self.lie_in_wait()

    def lie_in_wait(self):
        ambushed = [db for db in self.all if db.pace == "ambush"]
        if all(db.last for db in ambushed):
            for db in ambushed:
                self.watch.add(db.path, db.id)
            self.watched = True

    def ambush(self):
        """Somebody opened or read a database that was at rest: now is the moment to write to it."""
        touched = self.watch.drain()
        for db in self.all:
            if db.id in touched and time.monotonic() - db.last > AT_REST_S:
                self.turn(db)
                db.plan(self.source, time.monotonic())
        self.watch.drain()

    # --- Commands ----------------------------------------------------------------------------------------------------

    def command(self):
        word = sys.stdin.readline().strip()
        if word == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "quiet":
            self.rest()
            return sys.stdin.readline().strip() == "go"
        return False

    def rest(self):
        open_ones = {}
        for db in self.all:
            while not self.come_to_rest(db):
                time.sleep(0.01)
            if not db.keep or self.source.random() < 0.5:
                db.close()
            else:
                open_ones[db.id] = db.mode
        print("quiet", json.dumps(open_ones), flush=True)

    def come_to_rest(self, db):
        """Whatever a killed one left is recovered by this; false if somebody's lock was in the way."""
        try:
            self.connect(db)
            db.q("BEGIN IMMEDIATE")
            state = chain.state(db.q)
            db.q("COMMIT")
        except sqlite3.OperationalError as error:
            if not is_lock(error):
                raise
            if db.connection is not None:
                db.connection.undo()
            return False
        self.log.note("rest", db, state)
        return True


def remove(path):
    for end in ("",) + SIDECARS:
        pathlib.Path(path + end).unlink(missing_ok=True)


def main():
    if len(sys.argv) != 4:
        print(__doc__, file=sys.stderr)
        return 2
    with open(sys.argv[1], encoding="utf-8") as spec:
        specs = json.load(spec)
    if any(spec["pace"] == "ambush" for spec in specs) and os.geteuid() == 0:
        os.nice(-10)  # An ambush has less than a millisecond.
    Writer(specs, Log(sys.argv[2]), sys.argv[3]).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
