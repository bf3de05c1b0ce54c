"""The databases that are backed up, and what a foreign SQLite (the shell's) says of them."""
import concurrent.futures, itertools, os, pathlib, random, shutil, sqlite3, subprocess, tempfile

from servers.driver import check

SCRIPTS = pathlib.Path(__file__).resolve().parent.parent
SIDECARS = ("-wal", "-journal", "-shm")
IS_ROOT = os.geteuid() == 0
OWNERS, MODES = ((1001, 1001), (65534, 65534), (0, 1003)), (0o600, 0o640, 0o660, 0o644)
PAGE_SIZES = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
ENCODINGS = ("UTF-8", "UTF-16le", "UTF-16be")
# SQLite opens paths of up to 512 bytes; each + is three characters in a key, which may have 1,024.
LONG_KEY = "/".join(["folder" + "+" * 70] * 3) + "/deep.db"
ODD_NAMES = (
    "with space.db", " space at both ends .db", "plus+plus.db", "100%.db", "%2B%41.db", "ü composed.db", "u\u0308 composed.db",
    "日本語 🐘.db", "it's.db", 'say "so".db', "amp&eq=q?h#.db", "semi;colon:star*.db", "back\\slash.db", "~tilde!@$^().db",
    "[brackets]{braces}.db", "-dash.db", "..dots...db", "new\nline\ttab.db", os.fsdecode(b"not-utf8-\xff\xfe.db"),
    "UPPER.db", "upper.db", "l" * 200 + ".db", LONG_KEY, "a db", "x.deleted", "x.db.lz4",
)
# All that SQLite's shell tells of content and format, in one go.
ASK = (".sha3sum --schema", "PRAGMA integrity_check", "PRAGMA journal_mode", "PRAGMA page_size", "PRAGMA encoding",
       "PRAGMA auto_vacuum", "PRAGMA user_version", "PRAGMA application_id")


def files_below(folder):
    return {os.path.join(where, name) for where, _, names in os.walk(folder) for name in names}


def is_database(path):
    with open(path, "rb") as main:
        return main.read(16) == b"SQLite format 3\0"


def databases_below(folder):
    return sorted(path for path in files_below(folder) if not path.endswith(SIDECARS) and is_database(path))


def look(path):
    """What the shell says, of a copy: opening the original would leave a trace, or need its -wal emptied."""
    with tempfile.TemporaryDirectory(prefix="look-") as folder:
        copy = os.path.join(folder, "copy.db")
        for end in ("", "-wal", "-journal"):
            if os.path.exists(path + end):
                shutil.copyfile(path + end, copy + end)
        told = subprocess.run(["sqlite3", copy, *ASK], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines = told.stdout.splitlines()
    check(told.returncode == 0 and len(lines) == len(ASK) and lines[1] == "ok", f"{path!r} is not sound: {lines}")
    return tuple(lines)


def look_at(paths):
    paths = list(paths)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        return dict(zip(paths, pool.map(look, paths)))


def rights(path):
    stat = os.stat(path)
    return stat.st_uid, stat.st_gid, oct(stat.st_mode & 0o7777)


def make_one(path, page_size=4096, encoding="UTF-8", auto_vacuum=0, wal=True, rows=3):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous=off")
    connection.execute(f"PRAGMA page_size={page_size}")
    connection.execute(f"PRAGMA encoding='{encoding}'")
    connection.execute(f"PRAGMA auto_vacuum={auto_vacuum}")
    connection.execute(f"PRAGMA journal_mode={'wal' if wal else 'delete'}").fetchall()
    connection.execute("CREATE TABLE t(n INTEGER PRIMARY KEY, said, pad)")
    for n in range(rows):
        connection.execute("INSERT INTO t VALUES(?, ?, randomblob(900))", (n, os.fsencode(path)))
    connection.close()


def commit(path):
    """One transaction, as an application makes it."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=60)
    connection.execute("PRAGMA synchronous=off")
    connection.execute("CREATE TABLE IF NOT EXISTS committed(n INTEGER PRIMARY KEY, pad)")
    connection.execute("INSERT INTO committed(pad) VALUES(randomblob(2000))")
    connection.close()


def remove(path):
    for end in ("",) + SIDECARS:
        pathlib.Path(path + end).unlink(missing_ok=True)


def make_noise(path, mebibytes):
    """A database that does not compress."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous=off")
    connection.execute("PRAGMA journal_mode=wal").fetchall()
    connection.execute("CREATE TABLE noise(n INTEGER PRIMARY KEY, bytes)")
    connection.execute("BEGIN")
    for _ in range(mebibytes):
        connection.execute("INSERT INTO noise(bytes) VALUES(?)", (os.urandom(1 << 20),))
    connection.execute("COMMIT")
    connection.close()


def make_small(folder, count):
    """Many alike: they differ in their names and in one row."""
    first = os.path.join(folder, "00000.db")
    make_one(first, wal=False, rows=1)
    for n in range(1, count):
        shutil.copyfile(first, os.path.join(folder, f"{n:05}.db"))
    return databases_below(folder)


def make_all_formats(folder, count, seed):
    """At least `count` databases: the mix of generate-fixtures, every format that CREATE knows, and odd names."""
    formats = itertools.product(PAGE_SIZES, ENCODINGS, (0, 1, 2))
    for n, (page_size, encoding, auto_vacuum) in enumerate(formats):
        make_one(os.path.join(folder, f"formats/{page_size}-{encoding}-{auto_vacuum}.db"), page_size, encoding, auto_vacuum, n % 2)
    for name in ODD_NAMES:
        make_one(os.path.join(folder, "odd", name))
    rest = max(20, count - len(ODD_NAMES) - n - 1)
    made = subprocess.run([SCRIPTS / "generate-fixtures", "--out", f"{folder}/mix", "--count", str(rest), "--seed", str(seed)],
                          capture_output=True, text=True)
    check(made.returncode == 0, f"generate-fixtures ended with {made.returncode}: {made.stderr}")
    paths, source = databases_below(folder), random.Random(seed)
    for path in source.sample(paths, len(paths) // 5):
        owner, mode = source.choice(OWNERS), source.choice(MODES)
        for file in filter(os.path.exists, (path + end for end in ("",) + SIDECARS)):
            if IS_ROOT:
                os.chown(file, *owner)
            os.chmod(file, mode)
    return paths
