"""The content of the databases under torture: any file that holds one proves which commit it is, and that it is one.

Not a program: shared by writer.py and checker.py.

    meta(birth, n, h, s)       one row: which database this is, number and hash of its last commit, sum over all bulk rows
    a(n, x, s, h)              the last KEPT commits; h goes on from the row before and covers birth, n, x and s; index on x
    b(n, x)                    the same once more
    bulk(id, crc, body)        padding; s is the sum of all crc, so that h vouches for every byte of it

A state is named `birth n h`; that of a database without tables `empty 0 0`. x is random, so that two attempts at the same number have different names.
"""
import hashlib
import zlib

KEPT = 16
SUM = 1 << 61
STATEMENTS = (
    "CREATE TABLE {}.meta(birth TEXT, n INTEGER, h INTEGER, s INTEGER)",
    "CREATE TABLE {}.a(n INTEGER PRIMARY KEY, x INTEGER, s INTEGER, h INTEGER)",
    "CREATE TABLE {}.b(n INTEGER PRIMARY KEY, x INTEGER)",
    "CREATE INDEX {}.a_x ON a(x)",
    "CREATE TABLE {}.bulk(id INTEGER PRIMARY KEY, crc INTEGER, body BLOB)",
)


def link(parent, birth, n, x, s):
    """The hash of commit `n`: 56 bits, so that SQLite keeps it as an integer."""
    named = f"{parent}:{birth}:{n}:{x}:{s}".encode()
    return int.from_bytes(hashlib.blake2b(named, digest_size=7).digest(), "big")


def create(q, schema, birth, source, rows, size):
    """Tables and commit 0, inside a transaction of the caller; returns its state."""
    for statement in STATEMENTS:
        q(statement.format(schema))
    s = sum(put(q, schema, id, source.randbytes(size)) for id in range(1, rows + 1)) % SUM
    h = link(0, birth, 0, 0, s)
    q(f"INSERT INTO {schema}.meta VALUES(?, 0, ?, ?)", birth, h, s)
    return birth, 0, h


def put(q, schema, id, body):
    crc = zlib.crc32(body)
    q(f"INSERT INTO {schema}.bulk VALUES(?, ?, ?)", id, crc, body)
    return crc


def advance(q, schema, source, changed, size, grow=0):
    """One commit's work, inside a transaction of the caller: rewrites `changed` rows of the padding, the first and the last
    among them, appends `grow` rows or removes `-grow`. Returns the new state and the hash of the one before."""
    (birth, n, parent, s), = q(f"SELECT birth, n, h, s FROM {schema}.meta")
    (last,), = q(f"SELECT max(id) FROM {schema}.bulk")
    removed = min(max(0, -grow), last - 2)
    if removed > 0:
        (gone,), = q(f"SELECT sum(crc) FROM {schema}.bulk WHERE id > ?", last - removed)
        q(f"DELETE FROM {schema}.bulk WHERE id > ?", last - removed)
        s, last = s - gone, last - removed
    for id in range(last + 1, last + 1 + max(0, grow)):
        s += put(q, schema, id, source.randbytes(size))
    for id in {1, last, *(source.randint(1, last) for _ in range(changed - 2))}:
        (before,), = q(f"SELECT crc FROM {schema}.bulk WHERE id = ?", id)
        body = source.randbytes(source.randint(1, size))
        q(f"UPDATE {schema}.bulk SET crc = ?, body = ? WHERE id = ?", zlib.crc32(body), body, id)
        s += zlib.crc32(body) - before
    n, x, s = n + 1, source.getrandbits(40), s % SUM
    h = link(parent, birth, n, x, s)
    q(f"INSERT INTO {schema}.a VALUES(?, ?, ?, ?)", n, x, s, h)
    q(f"INSERT INTO {schema}.b VALUES(?, ?)", n, x)
    q(f"DELETE FROM {schema}.a WHERE n <= ?", n - KEPT)
    q(f"DELETE FROM {schema}.b WHERE n <= ?", n - KEPT)
    q(f"UPDATE {schema}.meta SET n = ?, h = ?, s = ?", n, h, s)
    return (birth, n, h), parent


def state(q, schema="main"):
    """The state that a live database is in; nothing is checked."""
    (birth, n, h), = q(f"SELECT birth, n, h FROM {schema}.meta")
    return birth, n, h


def proven(q):
    """The state of the database that `q` queries; raises ValueError if no commit left what is there."""
    verdict = [row[0] for row in q("PRAGMA integrity_check(5)")]
    require(verdict == ["ok"], f"integrity_check: {'; '.join(verdict)}")
    if not q("SELECT 1 FROM sqlite_master"):
        return "empty", 0, 0
    metas = q("SELECT birth, n, h, s FROM meta")
    require(len(metas) == 1, f"meta has {len(metas)} rows")
    birth, n, h, s = metas[0]
    total = 0
    for id, crc, body in q("SELECT id, crc, body FROM bulk ORDER BY id"):
        require(zlib.crc32(body) == crc, f"bulk row {id} is not what its checksum says")
        total += crc
    require(total % SUM == s, "bulk and meta are of different commits")
    chain = q("SELECT n, x, s, h FROM a ORDER BY n")
    require([row[0] for row in chain] == list(range(max(1, n - KEPT + 1), n + 1)), "rows of a are missing or too many")
    for before, (number, x, sum_, hash_) in zip(chain, chain[1:]):
        require(link(before[3], birth, number, x, sum_) == hash_, f"commit {number} does not follow from the one before")
    if n == 0:
        require(link(0, birth, 0, 0, s) == h, "commit 0 is not what its hash says")
    else:
        require(chain[-1][2:] == (s, h), "a and meta are of different commits")
    require(q("SELECT n, x FROM b ORDER BY n") == [row[:2] for row in chain], "a and b are of different commits")
    require(len(q("SELECT n FROM a INDEXED BY a_x WHERE x >= 0")) == len(chain), "the index is not the table's")
    return birth, n, h


def require(holds, what):
    if not holds:
        raise ValueError(what)
