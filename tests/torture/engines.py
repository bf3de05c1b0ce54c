"""The foreign SQLites: Python's own, and the `sqlite3` shell at the other end of a pipe.

Not a program: shared by the programs beside it. Both engines take `q(sql, *values)` and give a list of rows.
"""
import ctypes
import os
import sqlite3
import subprocess

PATIENCE_S = 5.0
LOCKED = ("locked", "locking protocol")


def is_lock(error):
    """Whether somebody else's lock is all that is wrong."""
    return any(word in str(error) for word in LOCKED)


class Python:
    """A connection of this process."""

    def __init__(self, path):
        self.connection = sqlite3.connect(path, isolation_level=None, timeout=PATIENCE_S)

    def q(self, sql, *values):
        return self.connection.execute(sql, values).fetchall()

    def undo(self):
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")

    def close(self):
        self.connection.close()


class Shell:
    """A connection of the `sqlite3` shell; dies with the process group of this process."""

    END = "--end of answer--"
    WRONG = ("Error", "Runtime error", "Parse error")

    def __init__(self, path):
        self.child = subprocess.Popen(
            ["stdbuf", "-oL", "sqlite3", "-batch", path],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1,
        )
        self.ask(f".timeout {int(PATIENCE_S * 1000)}")

    def q(self, sql, *values):
        for value in values:
            sql = sql.replace("?", self.literal(value), 1)
        return self.ask(sql + ";")

    @staticmethod
    def literal(value):
        if isinstance(value, bytes):
            return f"X'{value.hex()}'"
        return str(value) if isinstance(value, int) else f"'{value}'"

    def ask(self, line):
        self.child.stdin.write(f"{line}\n.print {self.END}\n")
        self.child.stdin.flush()
        rows, wrong = [], None
        for answer in self.child.stdout:
            answer = answer.rstrip("\n")
            if answer == self.END:
                break
            if answer.startswith(self.WRONG):
                wrong = answer
            rows.append(tuple(int(word) if word.lstrip("-").isdigit() else word for word in answer.split("|")))
        else:
            raise sqlite3.OperationalError("the shell ended")
        if wrong:
            raise sqlite3.OperationalError(wrong)
        return rows

    def undo(self):
        try:
            self.ask("ROLLBACK;")
        except sqlite3.OperationalError as error:
            if "no transaction is active" not in str(error):
                raise

    def close(self):
        self.child.stdin.close()
        self.child.wait()
        self.child.stdout.close()


ENGINES = {"python": Python, "shell": Shell}


class Watch:
    """Tells when somebody else opens or reads a file: inotify, which the standard library does not have."""

    OPEN, ACCESS = 0x20, 0x01

    def __init__(self):
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.fd = self.libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self.keys = {}

    def add(self, path, key):
        wd = self.libc.inotify_add_watch(self.fd, os.fsencode(path), self.OPEN | self.ACCESS)
        if wd < 0:
            raise OSError(ctypes.get_errno(), "inotify_add_watch", path)
        self.keys[wd] = key

    def drain(self):
        """The keys of the files touched since the last time."""
        touched = set()
        try:
            events = os.read(self.fd, 1 << 16)
        except BlockingIOError:
            return touched
        while events:
            wd, length = int.from_bytes(events[:4], "little"), int.from_bytes(events[12:16], "little")
            touched.add(self.keys.get(wd))
            events = events[16 + length:]
        return touched
