"""Running litesnap as a person would, and saying what did not hold."""
import importlib.machinery, importlib.util, json, os, pathlib, random, re, shutil, sqlite3, subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
LITESNAP = os.environ.get("LITESNAP") or str(ROOT / "target/release/litesnap")
PREFIX = "backups"
# Compresses into two parts: random bytes stay as they are, and a part has 8 MiB.
LARGE_ROWS, LARGE_ROW = 12, 1 << 20


def filler():
    """contrib/policies/fill, as a module."""
    loader = importlib.machinery.SourceFileLoader("fill", str(ROOT / "contrib/policies/fill"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("fill", loader))
    loader.exec_module(module)
    return module.fill


FILL = filler()


class Failed(Exception):
    """A claim that did not hold."""


def check(holds, what):
    if not holds:
        raise Failed(what)


class Ran:
    """One run that is over."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    def __str__(self):
        return f"exit code {self.code}\n{self.out}{self.err}".strip()

    def expect(self, code, *patterns):
        """Ended with `code`, and said something like each of `patterns`."""
        check(self.code == code, f"exit code {code} expected: {self}")
        for pattern in patterns:
            check(re.search(pattern, self.out + self.err), f"{pattern!r} expected: {self}")
        return self


class Place:
    """A folder with databases and a state, and a bucket that one key is used for."""

    def __init__(self, folder, server, bucket, key):
        self.folder, self.server, self.bucket, self.key = folder, server, bucket, key
        # Variables besides those that every run has.
        self.more = {}
        self.data, self.state = folder / "data", folder / "state"
        shutil.rmtree(folder, ignore_errors=True)
        self.data.mkdir(parents=True)

    def policy(self, role):
        """The policy of a role for this bucket."""
        return json.loads(self.text(role))

    def text(self, name):
        return FILL(name, self.bucket, PREFIX, self.server.is_ceph and not name.startswith("bucket-"))

    def command(self, verb, *arguments, endpoint=None):
        store = f"s3://{self.bucket}/{PREFIX}"
        common = ["--store", store, "--endpoint", endpoint or self.server.endpoint, "--allow-http"]
        return [LITESNAP, verb, *map(str, arguments), *common]

    def environment(self):
        access, secret = self.key
        return {
            "PATH": os.environ["PATH"],
            "AWS_ACCESS_KEY_ID": access,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_REGION": "us-east-1",
            "RUST_LOG": "info",
            "TMPDIR": str(self.folder),
            **self.server.environment,
            **self.more,
        }

    def litesnap(self, verb, *arguments, endpoint=None):
        command = self.command(verb, *arguments, endpoint=endpoint)
        ran = subprocess.run(command, env=self.environment(), capture_output=True, text=True, timeout=120)
        return Ran(ran.returncode, ran.stdout, ran.stderr)

    def replicate(self, *arguments, **how):
        return self.litesnap("replicate", self.data, "--once", "--state-dir", self.state, *arguments, **how)

    def make(self, name, rows=3):
        """A small database."""
        with sqlite3.connect(self.data / name) as connection:
            connection.execute("CREATE TABLE t(x)")
        self.add(name, rows)
        connection.close()

    def add(self, name, rows=1):
        connection = sqlite3.connect(self.data / name)
        with connection:
            connection.executemany("INSERT INTO t VALUES(?)", [(f"row {random.random()}",) for _ in range(rows)])
        connection.close()

    def make_large(self, name):
        """A database that is uploaded in parts."""
        self.make(name)
        connection = sqlite3.connect(self.data / name)
        with connection:
            connection.executemany("INSERT INTO t VALUES(randomblob(?))", [(LARGE_ROW,)] * LARGE_ROWS)
        connection.close()

    def name(self, name):
        """What the store calls a database."""
        return str(self.data / name)

    def prefix(self, name):
        """What the keys of a database begin with."""
        return f"{PREFIX}{self.data / name}/"


def rows(path):
    """All that is in a small database."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute("SELECT x FROM t ORDER BY rowid").fetchall()
    finally:
        connection.close()
