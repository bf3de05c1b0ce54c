"""What each role does with litesnap: with its policy it can, and without any one statement of it, it cannot.

A duty is a function of a place and of whether the statement it is named after is there. It raises Failed if what should
work does not, or what should not does.
"""
import signal, subprocess

from .common import PREFIX, check, rows
from .proxy import LosesFirstAnswer
from .servers import wait_for


def as_admin(place):
    """The same place, used with all rights."""
    place.key, kept = place.server.admin_key, place.key
    return kept


def prepared(place, *names):
    """Databases that are stored, by somebody who may."""
    kept = as_admin(place)
    for name in names:
        place.make(name)
    place.replicate().expect(0, f"stored={len(names)}")
    place.key = kept


def snapshots(place, name):
    return [key for key in place.server.keys(place.bucket, place.prefix(name)) if key.endswith(".db.lz4")]


# --- replicate ----------------------------------------------------------------------------------------------------------

def store_snapshots(place, allowed):
    """store small ones, and large ones in parts"""
    place.make("a.db")
    place.make_large("large.db")
    ran = place.replicate()
    if not allowed:
        ran.expect(3, "store-refused.*403")
        return check(not place.server.keys(place.bucket), "something was stored without the right to")
    ran.expect(0, "stored=2")
    check(len(snapshots(place, "large.db")) == 1, "the large one is not there")
    kept = as_admin(place)
    out = place.folder / "back.db"
    place.litesnap("restore", "--match", place.name("a.db"), "-o", out).expect(0)
    check(rows(out) == rows(place.data / "a.db"), "what came back is not what was stored")
    place.key = kept


def note_deleted(place, allowed):
    """put a tombstone beside the snapshots of the same cycle"""
    place.make("a.db")
    place.make("gone.db")
    place.replicate().expect(0, "stored=2")
    (place.data / "gone.db").unlink()
    place.add("a.db")
    ran = place.replicate()
    told = () if allowed else ("gone, but the store could not be told by a tombstone.*403",)
    ran.expect(0 if allowed else 1, "stored=1", *told)
    check(len(snapshots(place, "a.db")) == 2, "a refused tombstone kept a snapshot from being stored")
    tombstones = [key for key in place.server.keys(place.bucket) if key.endswith(".deleted")]
    check(len(tombstones) == (1 if allowed else 0), f"tombstones: {tombstones}")


def clear_unfinished(place, allowed):
    """leave no part behind when an upload is interrupted"""
    place.make_large("large.db")
    command = place.command("replicate", place.data, "--once", "--state-dir", place.state, "--limit-upload", "1MiB/s")
    run = subprocess.Popen(
        command, env=place.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: run.poll() is not None or place.server.unfinished(place.bucket), "the upload in parts")
        run.send_signal(signal.SIGTERM)
        out, err = run.communicate(timeout=60)
    finally:
        run.kill()
    check(run.returncode == 143, f"exit code 143 expected: {run.returncode}\n{out}{err}")
    left = len(place.server.unfinished(place.bucket))
    said = "its unfinished parts could not be removed" in err
    check((left, said) == ((0, False) if allowed else (1, True)), f"{left} uploads left, {err}")


def heartbeats(place):
    return [key for key in place.server.keys(place.bucket) if key.startswith(f"{PREFIX}/litesnap-heartbeats/")]


def tell_how_it_fares(place, allowed):
    """put a heartbeat beside the snapshots"""
    place.make("a.db")
    ran = place.replicate("--heartbeat-object", "1h").expect(0, "stored=1")
    check(len(heartbeats(place)) == (1 if allowed else 0), f"heartbeats: {heartbeats(place)}")
    check(allowed or "the heartbeat object is not stored" in ran.err, f"a refused heartbeat was not told of: {ran}")


def compare_after_lost_answer(place, allowed):
    """tell an object whose confirmation was lost, instead of storing it a second time"""
    place.make("a.db")
    with LosesFirstAnswer(place.server.endpoint, "PUT") as between:
        place.replicate(endpoint=between.endpoint).expect(0, "stored=1")
        check(between.lost == 1, "no answer was lost")
    copies = len(snapshots(place, "a.db"))
    check(copies == (1 if allowed else 2), f"{copies} copies")


# --- restore, list, show, verify ----------------------------------------------------------------------------------------

def find_snapshots(place, allowed):
    """list what there is"""
    prepared(place, "a.db", "b.db")
    ran = place.litesnap("list")
    ran.expect(0, "a.db", "b.db") if allowed else ran.expect(3, "refused|403")


def read_snapshots(place, allowed):
    """restore, show, list --long and verify --no-mark"""
    prepared(place, "a.db")
    key = snapshots(place, "a.db")[0].removeprefix(PREFIX + "/")
    restored = place.litesnap("restore", "--into", place.folder / "back")
    others = [place.litesnap(*verb) for verb in
              (("show", key), ("list", "--long"), ("verify", "--all", "--no-mark"))]
    for ran in [restored, *others]:
        ran.expect(0) if allowed else check(ran.code in (1, 3) and "403" in ran.out + ran.err, f"refusal expected: {ran}")
    if allowed:
        back = f"{place.folder}/back{place.data}/a.db"
        check(rows(back) == rows(place.data / "a.db"), "what came back is not what was stored")


def mark_bad(place, allowed):
    """verify, and mark what is damaged"""
    prepared(place, "a.db")
    key = snapshots(place, "a.db")[0]
    body = bytearray(place.server.admin.get_object(Bucket=place.bucket, Key=key)["Body"].read())
    body[len(body) // 2] ^= 1
    place.server.admin.put_object(Bucket=place.bucket, Key=key, Body=bytes(body))
    ran = place.litesnap("verify", "--all").expect(1, "undecodable|wrong-hash")
    is_marked = key + ".bad" in place.server.keys(place.bucket)
    check(is_marked == allowed, f"marked: {is_marked}: {ran}")
    check(allowed or "cannot mark" in ran.err, f"a refused marker was not told of: {ran}")


# --- status from another machine ----------------------------------------------------------------------------------------

def ask_from_elsewhere(place, allowed):
    """tell how a host fares by its heartbeats"""
    kept = as_admin(place)
    place.make("a.db")
    place.replicate("--heartbeat-object", "1h").expect(0, "stored=1")
    place.key = kept
    ran = place.litesnap("status", "--from-store", "--stale", "2h")
    ran.expect(0, "fresh ") if allowed else ran.expect(3, "refused|403")


# --- prune and purge ----------------------------------------------------------------------------------------------------

def with_everything(place):
    """A database with two snapshots, a marker and a tombstone, that is gone; and one that is there."""
    prepared(place, "a.db", "b.db")
    kept = as_admin(place)
    place.add("a.db")
    place.replicate().expect(0, "stored=1")
    (place.data / "a.db").unlink()
    place.replicate().expect(0)
    place.key = kept
    place.server.admin.put_object(Bucket=place.bucket, Key=snapshots(place, "a.db")[0] + ".bad", Body=b"{}")


def list_to_prune(place, allowed):
    """decide what to prune"""
    with_everything(place)
    ran = place.litesnap("prune", "--keep-last", "1", "--dry-run")
    ran.expect(0, "removed=1") if allowed else ran.expect(3, "refused|403")


def left_after_purge(place, allowed, kind):
    with_everything(place)
    ran = place.litesnap("purge", place.name("a.db"), "--yes")
    if allowed:
        ran.expect(0)
    else:
        check(ran.code in (1, 3) and "AccessDenied" in ran.out + ran.err, f"refusal expected: {ran}")
    left = place.server.keys(place.bucket, place.prefix("a.db"))
    check(bool(left) != allowed, f"left: {left}")
    check(allowed or any(key.endswith(kind) for key in left), f"{kind} went without the right to: {left}")
    check(len(snapshots(place, "b.db")) == 1, "another database lost its snapshot")


def remove_snapshots(place, allowed):
    """purge"""
    left_after_purge(place, allowed, ".db.lz4")


def remove_markers(place, allowed):
    """purge of a database with a marker"""
    left_after_purge(place, allowed, ".bad")


def remove_tombstones(place, allowed):
    """purge of a database with a tombstone"""
    left_after_purge(place, allowed, ".deleted")


def remove_heartbeats(place, allowed):
    """prune heartbeats of long ago"""
    prepared(place, "a.db")
    old = [f"{PREFIX}/litesnap-heartbeats/h/2020010{day}T000000.000Z.heartbeat" for day in (1, 2)]
    for key in old:
        place.server.admin.put_object(Bucket=place.bucket, Key=key, Body=b"{}")
    # No store lets anybody choose when it was given an object.
    ran = place.litesnap("prune", "--keep-last", "1", "--trust-clock")
    if allowed:
        ran.expect(0, "heartbeats=1")
    else:
        check(ran.code in (1, 3) and "AccessDenied" in ran.out + ran.err, f"refusal expected: {ran}")
    check(heartbeats(place) == (old[1:] if allowed else old), f"left: {heartbeats(place)}")


REPLICATE = {
    "StoreSnapshots": store_snapshots,
    "NoteDeletedDatabases": note_deleted,
    "ClearUnfinishedUploads": clear_unfinished,
}
RESTORE = {"FindSnapshots": find_snapshots, "ReadSnapshots": read_snapshots}

# For each policy: what each of its statements is for.
DUTIES = {
    "replicate": REPLICATE,
    "replicate-compare": {**REPLICATE, "CompareAfterLostAnswers": compare_after_lost_answer},
    "replicate-heartbeat": {**REPLICATE, "TellHowItFares": tell_how_it_fares},
    "restore": RESTORE,
    "verify": {**RESTORE, "MarkBadSnapshots": mark_bad},
    "prune": {
        "FindSnapshots": list_to_prune,
        "RemoveSnapshots": remove_snapshots,
        "RemoveMarkers": remove_markers,
        "RemoveTombstones": remove_tombstones,
        "RemoveHeartbeats": remove_heartbeats,
    },
    "status": {"FindHeartbeats": ask_from_elsewhere, "ReadHeartbeats": ask_from_elsewhere},
}
