"""One litesnap against one server: runs the binary, reads what it says, and compares with other clients' words."""
import json, os, pathlib, re, shutil, signal, sqlite3, subprocess, time

from servers.driver import BUCKET, check, end, spawn
from servers.fleet import databases_below, files_below, look_at, rights

HANGS_AFTER_S = 300
KEPT = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.~!'()@=,/"


def encoded(path):
    """The key prefix of a database, as docs/FORMAT.md has it."""
    out = ""
    for char in os.fsencode(path).lstrip(b"/").decode(errors="surrogateescape"):
        raw = char.encode(errors="surrogateescape")
        is_kept = raw in KEPT if len(raw) == 1 and raw[0] < 128 else char.isprintable() and not 0xDC80 <= ord(char) <= 0xDCFF
        out += raw.decode() if is_kept else "".join(f"%{byte:02X}" for byte in raw)
    return out


class Ran:
    """A command that ended."""

    def __init__(self, code, out, err, seconds):
        self.code, self.out, self.err, self.seconds = code, out, err, seconds

    @property
    def json(self):
        return json.loads(self.out.splitlines()[-1])

    @property
    def lines(self):
        return [json.loads(line) for line in self.out.splitlines()]

    def __str__(self):
        return f"exit code {self.code}; {self.out[-1500:]} {self.err[-1500:]}"


class Session:
    """Databases below `source`, what litesnap remembers of them in `state`, and their objects below `prefix`."""

    def __init__(self, server, binary, place, prefix):
        self.server, self.binary, self.place, self.prefix = server, binary, pathlib.Path(place), prefix
        self.place.mkdir(parents=True)
        self.source, self.state = self.place / "source", self.place / "state"
        self.client = server.client()
        self.restores, self.started = 0, []

    def command(self, verb, *args, bucket=BUCKET, wrap=()):
        verb, *rest = verb.split()
        return [*wrap, self.binary, verb, *rest, *map(str, args), "--store", self.server.url(self.prefix, bucket),
                *self.server.flags()]

    def environment(self, **credentials):
        return {"PATH": os.environ["PATH"], "HOME": str(self.place), "RUST_LOG": "info"} | self.server.env(**credentials)

    def run(self, verb, *args, want=0, bucket=BUCKET, wrap=(), **credentials):
        """Runs it to its end; whatever it says, the secret must not be in it."""
        env, began = self.environment(**credentials), time.monotonic()
        ran = subprocess.run(self.command(verb, *args, bucket=bucket, wrap=wrap), capture_output=True, env=env,
                             timeout=HANGS_AFTER_S)
        ran = Ran(ran.returncode, ran.stdout.decode(errors="replace"), ran.stderr.decode(errors="replace"),
                  time.monotonic() - began)
        self.check_silence(ran.out + ran.err, credentials.get("secret"))
        check(want is None or ran.code == want, f"{verb}: exit code {ran.code} instead of {want}: {ran}")
        return ran

    def check_silence(self, text, other_secret):
        for secret in filter(None, (self.server.secret, other_secret)):
            check(secret not in text, "the secret key is in the output")

    def replicate(self, *args, want=0, **kwargs):
        return self.run("replicate", self.source, "--once", "--json", "--state-dir", self.state, *args, want=want, **kwargs)

    def start(self, *args, **kwargs):
        """Runs replicate beside this script; its log goes to a file."""
        log = open(self.place / "replicate.log", "ab")
        command = self.command("replicate", self.source, "--state-dir", self.state, *args, **kwargs)
        self.started.append(spawn(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment()))
        log.close()
        return self.started[-1]

    def end_all(self):
        """Ends what still runs of it."""
        while self.started:
            end(self.started.pop(), signal.SIGKILL)

    def log(self):
        text = (self.place / "replicate.log").read_text(errors="replace")
        self.check_silence(text, None)
        return text

    def truth(self, paths=None):
        """Content, format, owner and mode of every database now, or of these."""
        paths = databases_below(self.source) if paths is None else paths
        return {path: (seen, rights(path)) for path, seen in look_at(paths).items()}

    def objects(self):
        return self.client.objects(BUCKET, self.prefix)

    def snapshots(self):
        return {key: size for key, size in self.objects().items() if key.endswith(".db.lz4")}

    def restored(self, truth, *args):
        """Restores everything into a new folder and compares it; then the folder is removed. Returns the summary."""
        self.restores += 1
        into = self.place / f"restored-{self.restores}"
        ran = self.run("restore", "--into", into, "--json", *args)
        self.compare(truth, str(into))
        shutil.rmtree(into)
        return ran.json

    def compare(self, truth, root):
        there, expected = files_below(root), {root + path for path in truth}
        check(there == expected, f"missing: {sorted(expected - there)[:3]}, too many: {sorted(there - expected)[:3]}")
        seen = look_at(expected)
        wrong = [path for path, (what, owner) in truth.items() if (seen[root + path], rights(root + path)) != (what, owner)]
        check(not wrong, f"{len(wrong)} are not what they were: {wrong[:3]}")

    def claims(self):
        """Keys that the state says are stored."""
        keys = {}
        for database in self.state.glob("*.db"):
            connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=60)
            for path, key in connection.execute("SELECT path, last_key FROM snapshots WHERE last_key IS NOT NULL"):
                path = os.fsdecode(path)
                keys[f"{self.prefix}/{encoded(path)}/{key}"] = path
            connection.close()
        return keys

    def check_claims(self):
        """All that the state claims is in the bucket; says how many."""
        claims, there = self.claims(), self.snapshots()
        lost = sorted(set(claims) - {key for key, size in there.items() if size})
        check(not lost, f"the state claims {len(lost)} of {len(claims)} that are not in the bucket: {lost[:3]}")
        return len(claims)


def asked_to_stop(process, seconds=60):
    """SIGTERM, and the exit code."""
    process.send_signal(signal.SIGTERM)
    return process.wait(seconds)


def words(text, name):
    """The numbers that a log gives for one of its words, in order."""
    return [int(n) for n in re.findall(rf"\b{name}=(\d+)\b", text)]
