"""All steps against one server: what passed, what is peculiar, what failed, what was not tried."""
import collections, os, subprocess, time, traceback

from servers import hardship, lifecycle, violence
from servers.driver import Failed, Untested, check
from servers.fleet import make_one
from servers.session import Session

PASSED, QUIRK, FAILED, UNTESTED = "passed", "quirk", "FAILED", "untested"
STEPS = lifecycle.STEPS + hardship.STEPS + violence.STEPS


class Result(collections.namedtuple("Result", "word note seconds")):
    """How a step ended."""


def label(step):
    return step.__name__.replace("_", " ")


class Run:
    """One server, and what the steps hand on to each other."""

    def __init__(self, server, binary, databases, quick):
        self.server, self.binary, self.databases = server, binary, databases
        self.many, self.kills = (1100, 2) if quick else (2500, violence.KILLS)
        self.has_s3 = server.scheme == "s3"
        self.results, self.said, self.main, self.sessions = {}, "", None, []

    def session(self, name):
        self.sessions.append(Session(self.server, self.binary, self.server.place / "sessions" / name, name))
        return self.sessions[-1]

    def small_session(self, name, count):
        """With so many databases of its own."""
        session = self.session(name)
        for n in range(count):
            make_one(str(session.source / f"db{n}.db"), wal=n % 2)
        return session

    def note(self, text):
        """A figure for the table."""
        self.said = text

    def rclone(self, verb, *args):
        """rclone, as a client that knows nothing of litesnap."""
        remote = {f"RCLONE_CONFIG_REMOTE_{name}": value for name, value in self.server.rclone_remote().items()}
        env = {k: v for k, v in os.environ.items() if k != "AWS_CA_BUNDLE"} | remote | {"RCLONE_CONFIG": "/dev/null"}
        ran = subprocess.run(["rclone", verb, *map(str, args)], env=env, capture_output=True, text=True, timeout=300)
        check(ran.returncode == 0, f"rclone {verb} ended with {ran.returncode}: {ran.stderr[-800:]}")
        return ran.stdout

    def step(self, step):
        self.said, began = "", time.monotonic()
        try:
            quirk = step(self)
            result = (QUIRK, str(quirk)) if quirk else (PASSED, self.said)
        except Untested as why:
            result = (UNTESTED, str(why))
        except (Failed, subprocess.TimeoutExpired) as failed:
            result = (FAILED, str(failed))
        except Exception as failed:  # A server's strange answer, or a mistake in here: either way it did not pass.
            traceback.print_exc()
            result = (FAILED, repr(failed))
        self.tidy()
        self.results[label(step)] = Result(*result, time.monotonic() - began)
        word, note = result
        print(f"{self.server.name}: {word}: {label(step)}{': ' + note if note else ''} "
              f"({time.monotonic() - began:.1f} s)", flush=True)

    def tidy(self):
        """After a step that failed half-way, the next one finds a server that runs, and nobody else at it."""
        for session in self.sessions:
            session.end_all()
        if not self.server.answers():
            self.server.stop()
            self.server.resume()

    def all(self, steps):
        """In order; without its first snapshots, the rest of the main fleet's life means nothing."""
        self.main = self.session("main")
        for step in steps:
            broken = [name for name in map(label, lifecycle.CRUCIAL) if self.word_of(name) == FAILED]
            if broken and step in lifecycle.STEPS:
                self.results[label(step)] = Result(UNTESTED, f"{broken[0]} failed", 0)
            else:
                self.step(step)
        return self.results

    def word_of(self, name):
        return self.results[name].word if name in self.results else None
