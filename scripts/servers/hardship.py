"""What goes wrong between a host and its store, on any server; each has databases and a prefix of its own."""
import concurrent.futures, re, shutil, signal, time

from servers.driver import BUCKET, Untested, check, end, wait_until
from servers.fleet import commit, databases_below, look, make_noise, make_one, make_small
from servers.lifecycle import Quirk
from servers.session import asked_to_stop, encoded

NOISE_MIB = 48
SLOWLY = ("--limit-upload", "6MiB/s")
RACERS, RACES = 16, 6


def multipart(run):
    """a database of 48 MiB in parts; restored"""
    session = run.session("multipart")
    path = str(session.source / "large.db")
    make_noise(path, NOISE_MIB)
    session.replicate()
    (key, size), = session.snapshots().items()
    check(size > NOISE_MIB << 20, f"{size} bytes")
    session.restored(session.truth())
    session.run("verify", "--all")
    if run.has_s3:
        _, dash, parts = session.client.etag(BUCKET, key).partition("-")
        run.note(f"{parts} parts" if dash else "its ETag tells no parts")


def begin_multipart(run, name):
    """A replicate with some parts of a large object on the server, and the rest on their way."""
    session = run.session(name)
    make_noise(str(session.source / "large.db"), NOISE_MIB)
    make_one(str(session.source / "small.db"))
    process = session.start("--once", *SLOWLY)
    uploads = []

    def has_parts():
        check(process.poll() is None, f"it ended with {process.returncode} before: {session.log()[-600:]}")
        uploads[:] = session.client.uploads(BUCKET, session.prefix) or []
        return any(session.client.parts(BUCKET, *upload) for upload in uploads)
    if not run.has_s3 or session.client.uploads(BUCKET, session.prefix) is None:
        time.sleep(3)  # Nobody can be asked how far it is: half of eight seconds.
    else:
        wait_until(has_parts, "a first part is on the server")
    return session, process


def multipart_killed(run):
    """kill -9 amid the parts: not claimed, stored by the next run"""
    session, process = begin_multipart(run, "multipart-killed")
    end(process, signal.SIGKILL)
    large = encoded(session.source / "large.db")
    check(not any(large in key for key in session.snapshots()), "half an object is listed")
    check(not any(path.endswith("large.db") for path in session.claims().values()), "the state claims it")
    session.replicate()
    session.check_claims()
    session.restored(session.truth())
    uploads = session.client.uploads(BUCKET, session.prefix) if run.has_s3 else None
    if uploads is None:
        return Quirk("unfinished uploads cannot be listed here")
    check(len(uploads) == 1, f"{len(uploads)} unfinished uploads are left, not the one that was killed")
    for upload in uploads:
        session.client.abort(BUCKET, *upload)
    run.note("one unfinished upload is left for a bucket rule")


def multipart_stopped(run):
    """SIGTERM amid the parts: exit 143, and no parts are left"""
    session, process = begin_multipart(run, "multipart-stopped")
    check(asked_to_stop(process) == 143, f"exit code {process.returncode}: {session.log()[-600:]}")
    uploads = session.client.uploads(BUCKET, session.prefix) if run.has_s3 else None
    if uploads is None:
        return Quirk("unfinished uploads cannot be listed here")
    check(not uploads, f"{len(uploads)} unfinished uploads are left")


def many_keys(run):
    """more keys than a page of a listing has"""
    session = run.session("many")
    count = len(make_small(str(session.source), run.many))
    check(session.replicate().json["stored"] == count, f"{count} databases")
    check(len(session.snapshots()) == len(session.run("list", "--json").lines) == count, "list shows others")
    into = session.place / "back"
    summary = session.run("restore", "--into", into, "--json").json
    there = {path.removeprefix(str(into)) for path in databases_below(into)}
    check(summary["restored"] == count and there == set(databases_below(session.source)), f"{summary}")
    # They differ in little: to look at some is enough.
    some = sorted(there)[::20]
    check([look(str(into) + path) for path in some] == [look(path) for path in some], "another content")
    session.run("prune", "--keep-last", 1)
    run.note(f"{count} keys by {summary['lists']} LISTs")


def server_stopped(run):
    """server stopped: exit 3, one line, nothing claimed; started again: all stored"""
    session = run.small_session("stopped", 30)
    session.replicate()
    before = session.claims()
    for path in sorted(session.truth())[:10]:
        commit(path)
    run.server.stop()
    ran = session.replicate(want=3)
    lines = [line for line in ran.err.splitlines() if "INFO" not in line]
    check(len(lines) == 1, f"{len(lines)} lines of errors: {ran.err[-1500:]}")
    check(session.claims() == before, "the state claims what no server took")
    run.server.resume()
    if not run.server.is_durable:
        return Quirk("keeps objects in memory: what was stored is gone after a restart")
    session.check_claims()
    check(session.replicate().json["stored"] == 10, "ten had changed")
    session.check_claims()
    session.restored(session.truth())


def wrong_secret(run):
    """exit 3 from replicate, list and restore; no secret in any output"""
    session = run.small_session("secret", 10)
    # As long as the right one, and in the same alphabet.
    wrong = run.server.secret[::-1]
    env = {"secret": wrong}
    ran = session.replicate(want=None, **env)
    if ran.code == 0:
        return Quirk("checks no signatures")
    check(ran.code == 3 and not session.claims(), f"{ran}")
    session.run("list", want=3, **env)
    session.run("restore", "--into", session.place / "nothing", want=3, **env)
    session.replicate()
    session.check_claims()


def missing_bucket(run):
    """a bucket that is not there: exit 3, said in words"""
    session = run.small_session("bucket", 10)
    ran = session.replicate(want=None, bucket="litesnap-no-such-bucket")
    if ran.code == 0:
        return Quirk("makes a bucket at the first put into it")
    check(ran.code == 3 and not session.claims(), f"{ran}")
    session.run("list", want=3, bucket="litesnap-no-such-bucket")


def create_only(run):
    """If-None-Match: * lets one of 16 at once win, by another client"""
    if not run.has_s3:
        raise Untested("a condition of S3's; see two states, one key")
    client = run.server.client()
    wins = []
    for race in range(RACES):
        key, bodies = f"create-only/{race}", [bytes([n]) * 1000 for n in range(RACERS)]
        with concurrent.futures.ThreadPoolExecutor(RACERS) as pool:
            won = list(pool.map(lambda body: client.put_if_absent(BUCKET, key, body), bodies))
        wins.append(sum(won))
        there = client.objects(BUCKET, key)
        if not there:
            return Quirk(f"{sum(won)} of {RACERS} puts of one key at once were confirmed, and then there was no object")
        if sum(won) == 1:
            check(client.get(BUCKET, key) == bodies[won.index(True)], "the object is not the winner's")
    if client.put_if_absent(BUCKET, "create-only/0", b"later"):
        return Quirk("ignores If-None-Match: * and overwrites")
    if set(wins) != {1}:
        return Quirk(f"create-only, but not atomic: {wins} of {RACERS} at once were told that they won")


def one_key_twice(run):
    """two states at the same millisecond: neither object is lost"""
    if not shutil.which("faketime"):
        raise Untested("needs faketime")
    one = run.small_session("twice", 5)
    frozen = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime())
    wrap = ["env", "FAKETIME_DONT_FAKE_MONOTONIC=1", "faketime", "-f", frozen]
    one.replicate(wrap=wrap)
    for path in one.truth():
        commit(path)
    first, one.state = one.state, one.place / "other-state"
    one.replicate(wrap=wrap)
    count, claims = len(one.snapshots()), one.claims()
    one.check_claims()
    one.state = first
    one.check_claims()
    both = len(set(claims) & set(one.claims()))
    if both:
        check(count == 5, f"{count} objects")
        return Quirk("the later object replaces the earlier one of the same key")
    check(count == 10, f"{count} objects of ten")


def clock_skew(run):
    """a host's clock two hours off: exit 3"""
    if not shutil.which("faketime"):
        raise Untested("needs faketime")
    session = run.small_session("skew", 5)
    ran = session.replicate(want=None, wrap=["faketime", "-f", "-2h"])
    if ran.code == 0:
        return Quirk("does not look at the time of a request")
    check(ran.code == 3 and not session.claims(), f"{ran}")
    check(re.search("skew|expired|request time", ran.err + ran.out, re.IGNORECASE), f"the reason is not named: {ran}")


def least_rights(run):
    """put alone replicates, get and list restore, neither can do the other's"""
    if not hasattr(run.server, "policed"):
        raise Untested("no users with policies here")
    accounts = run.server.policed()
    putter, getter = ({"access": a, "secret": s} for a, s in (accounts["putter"], accounts["getter"]))
    session = run.small_session("rights", 20)
    truth = session.truth()
    session.replicate(want=3, **getter)
    check(not session.claims(), "the state claims what was refused")
    session.replicate(**putter)
    session.check_claims()
    session.run("list", want=3, **putter)
    into = session.place / "back"
    session.run("restore", "--into", into, **getter)
    session.compare(truth, str(into))
    session.run("prune", "--keep-last", 1, **getter)
    for path in truth:
        commit(path)
    session.replicate(**putter)
    ran = session.run("prune", "--keep-last", 1, want=None, **getter)
    check(ran.code in (1, 3) and len(session.snapshots()) == 2 * len(truth), f"prune without rights to delete: {ran}")


STEPS = (multipart, multipart_killed, multipart_stopped, many_keys, create_only, one_key_twice, wrong_secret, missing_bucket,
         clock_skew, least_rights, server_stopped)
