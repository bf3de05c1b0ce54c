"""The run: every role on every server, one line a proof."""
import json

from . import attempts, duties, theft
from .common import FILL, PREFIX, Failed, Place
from .ceph import Ceph
from .servers import Moto, Unavailable

SERVERS = {"moto": Moto, "ceph": Ceph}


def policy(role, bucket, ceph, without=None):
    """The policy of `role` as a person would fill it in; without one statement, if asked."""
    whole = json.loads(FILL(role, bucket, PREFIX, ceph))
    left = [s for s in whole["Statement"] if s["Sid"] != without]
    taken = [s["Action"] for s in whole["Statement"] if s["Sid"] == without]
    assert len(taken) == (without is not None), without
    for refused in (s for s in left if s["Effect"] == "Deny"):
        refused["Action"] += taken
    return {**whole, "Statement": left}


class Run:
    """All proofs on one server."""

    def __init__(self, server, folder):
        self.server, self.folder, self.failures, self.n = server, folder, 0, 0

    def place(self, role, without=None):
        self.n += 1
        bucket = self.server.bucket(f"proof{self.n:03}")
        key = self.server.grant(policy(role, bucket, self.server.is_ceph, without))
        return Place(self.folder / f"{self.n:03}", self.server, bucket, key)

    def prove(self, what, proof, *arguments):
        """Runs one proof and says how it ended."""
        try:
            said = proof(*arguments)
            print(f"{self.server.name}: {what}{': ' + said if said else ''}", flush=True)
        except Failed as failed:
            self.failures += 1
            print(f"{self.server.name}: FAILED: {what}: {failed}", flush=True)

    def role(self, role):
        statements = {s["Sid"] for s in policy(role, "any", self.server.is_ceph)["Statement"]}
        for sid, duty in duties.DUTIES[role].items():
            self.prove(f"{role}: can {duty.__doc__}", lambda: duty(self.place(role), True))
            if sid in statements:
                self.prove(f"{role}: and without {sid} cannot", lambda: duty(self.place(role, sid), False))
        self.prove(f"{role}: its key lets through", self.table, role)

    def table(self, role):
        self.n += 1
        let_through, excused = attempts.table(
            self.server, role, lambda bucket: policy(role, bucket, self.server.is_ceph), f"table{self.n:03}")
        not_told = f" (this server does not tell: {', '.join(excused)})" if excused else ""
        return f"{', '.join(let_through)}; refused: the {len(attempts.ATTEMPTS) - len(let_through)} others{not_told}"

    def all(self):
        print(f"{self.server.name}: {self.server.version()}", flush=True)
        unchecked = {s["Sid"] for role in duties.DUTIES for s in policy(role, "any", False)["Statement"]
                     if s["Sid"] not in duties.DUTIES[role]}
        assert not unchecked, f"statements that nothing shows to be needed: {unchecked}"
        for role in duties.DUTIES:
            self.role(role)
        for proof, needs in theft.PROOFS.items():
            what = f"{proof.__name__}: a stolen key {proof.__doc__}"
            if needs in self.server.lacks:
                print(f"SKIPPED {self.server.name}: {what}: it has no {needs}", flush=True)
            else:
                self.prove(what, lambda: proof(self.place("replicate")))


def run(names, folder):
    """Returns the exit code."""
    failures, ran = 0, 0
    for name in names:
        place = folder / name
        place.mkdir()
        try:
            server = SERVERS[name](place)
        except Unavailable as why:
            print(f"SKIPPED {name}: {why}", flush=True)
            continue
        try:
            one = Run(server, place)
            one.all()
            failures, ran = failures + one.failures, ran + 1
        finally:
            server.stop()
    if not ran:
        print("policies: no server was there: nothing is proven", flush=True)
    return 0 if ran and not failures else 1


def markdown():
    """The table of roles and attempts."""
    roles = list(attempts.ALLOWED)
    lines = [f"| | {' | '.join(roles)} |", "|---" * (len(roles) + 1) + "|"]
    for name in attempts.ATTEMPTS:
        marks = ["yes" if name in attempts.ALLOWED[role] else "–" for role in roles]
        if "yes" in marks:
            lines.append(f"| {name} | {' | '.join(marks)} |")
    return "\n".join(lines)
