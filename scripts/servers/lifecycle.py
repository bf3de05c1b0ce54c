"""What every server must carry: one fleet from its first run to what is left after pruning. Each step builds on the last."""
import concurrent.futures, datetime, os, random, shutil, subprocess, time

from servers.driver import BUCKET, Untested, check
from servers.fleet import commit, look, make_all_formats, make_one, remove
from servers.session import encoded


class Quirk(str):
    """It works, but not as on every server: told in the table."""


def first_run(run):
    """every format, odd names, owners, live -wal: all stored"""
    paths = make_all_formats(str(run.main.source), run.databases, seed=1)
    run.truth = run.main.truth()
    summary = run.main.replicate().json
    check(summary["stored"] == len(paths) and summary["failed"] == 0, f"{len(paths)} databases, and: {summary}")
    claimed, listed = set(run.main.claims()), set(run.main.snapshots())
    check(claimed == listed, f"claimed, not listed: {sorted(claimed - listed)[:5]}; listed: {sorted(listed - claimed)[:5]}")
    run.first_truth = run.truth
    run.note(f"{len(paths)} databases")


def idle_run(run):
    """a second run sends no request"""
    summary = run.main.replicate().json
    if summary["changed"]:  # Young stamps are looked at again, and found to be the same.
        check(summary["unchanged_content"] == summary["changed"], f"{summary}")
    check(summary["requests"] == 0 and summary["stored"] == 0, f"{summary}")


def changed_run(run):
    """only what changed is stored"""
    time.sleep(0.01)  # Times in keys have milliseconds: --at needs one in between.
    run.moment = datetime.datetime.now(datetime.timezone.utc)
    time.sleep(0.01)
    run.changed = random.Random(2).sample(sorted(run.truth), 40)
    for path in run.changed:
        commit(path)
    run.truth = run.truth | run.main.truth(run.changed)
    summary = run.main.replicate().json
    check(summary["stored"] == len(run.changed), f"{len(run.changed)} changed, and: {summary}")
    run.main.check_claims()


def look_from_outside(run):
    """list, list --snapshots and show"""
    listed = {line["prefix"]: line for line in run.main.run("list", "--json").lines}
    expected = {encoded(path) for path in run.truth}
    check(set(listed) == expected, f"list differs: {sorted(set(listed) ^ expected)[:3]}")
    for path in run.changed[:3]:
        prefix = encoded(path)
        check(listed[prefix]["snapshots"] == 2, f"{listed[prefix]}")
        check(len(run.main.run("list", "--snapshots", prefix, "--json").lines) == 2, f"two snapshots of {prefix}")
        key = max(key for key in run.main.snapshots() if key.startswith(f"{run.main.prefix}/{prefix}/"))
        statuses = [run.main.client.range_status(BUCKET, key, range) for range in ("0-99", "-99", "-999999999") if run.has_s3]
        if set(statuses) - {206}:
            return Quirk("answers ranges with status " + ", ".join(sorted({str(status) for status in statuses}))
                         + " instead of 206: `show`, `list --long` and `restore --in-place` need them, and fail")
        said = run.main.run("show", key, "--json").json
        check(path in (said.get("path"), said.get("description", {}).get("path")), f"{said}")


def by_another_client(run):
    """every object fetched by rclone: its content is SQLite's after lz4 -dc"""
    if not shutil.which("rclone") or not shutil.which("lz4"):
        raise Untested("needs rclone and lz4")
    here = run.main.place / "fetched"
    run.rclone("copy", "--no-unicode-normalization", f"remote:{BUCKET}/{run.main.prefix}", here)
    newest = dict(sorted((key.rpartition("/")[0], key) for key in run.main.snapshots()))
    got = sum(len(names) for _, _, names in os.walk(here))
    check(got == len(run.main.objects()), f"rclone fetched {got} of {len(run.main.objects())} objects")

    def image(item):
        path, key = item
        raw = here / f"{key.removeprefix(run.main.prefix + '/')}"
        copy = run.main.place / f"image-{abs(hash(key))}.db"
        with open(copy, "wb") as out:
            code = subprocess.run(["lz4", "-dcq", raw], stdout=out).returncode
        check(code == 0, f"lz4 -dc fails: {key}")
        seen = look(str(copy))
        copy.unlink()
        return path, seen
    wanted = [(path, newest[f"{run.main.prefix}/{encoded(path)}"]) for path in run.truth]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        wrong = [path for path, seen in pool.map(image, wanted) if seen != run.truth[path][0]]
    check(not wrong, f"{len(wrong)} differ: {wrong[:3]}")
    shutil.rmtree(here)


def restore_all(run):
    """everything equal in content, format, owner and mode"""
    summary = run.main.restored(run.truth)
    check(summary["restored"] == len(run.truth), f"{summary}")


def restore_one(run):
    """restore -o FILE: one LIST, one GET"""
    path, out = run.changed[0], run.main.place / "one.db"
    summary = run.main.run("restore", "--match", "/" + encoded(path), "-o", out, "--json").json
    check(look(str(out)) == run.truth[path][0], "another content")
    check((summary["lists"], summary["gets"]) == (1, 1), f"{summary}")


def restore_at(run):
    """restore --at before the change"""
    at = run.moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    run.main.restored(run.first_truth, "--at", at)


def verify(run):
    """verify --all"""
    summary = run.main.run("verify", "--all", "--json").json
    check(summary["good"] == summary["checked"] == len(run.main.snapshots()), f"{summary}")


def tombstones(run):
    """a deleted database gets a tombstone, is left out, and comes back"""
    path = run.changed[1]
    remove(path)
    check(run.main.replicate().json["gone"] == 1, "one is gone")
    check(any(key.endswith(".deleted") for key in run.main.objects()), "no tombstone in the bucket")
    gone_truth = {p: seen for p, seen in run.truth.items() if p != path}
    check(run.main.restored(gone_truth)["deleted"] == 1, "one is left out of the restore")
    make_one(path)
    run.truth = run.truth | run.main.truth([path])
    summary = run.main.replicate().json
    check(summary["stored"] == 1, f"it is back: {summary}")


def prune(run):
    """prune --keep-last 1 removes what is older; the rest restores"""
    before = len(run.main.snapshots())
    summary = run.main.run("prune", "--keep-last", 1, "--json").json
    left = len(run.main.snapshots())
    check(summary["kept"] == left == len(run.truth), f"{left} of {before} left, {len(run.truth)} databases: {summary}")
    check(not any(key.endswith(".deleted") for key in run.main.objects()), "the tombstone is still there")
    run.main.restored(run.truth)
    check(run.main.replicate().json["stored"] == 0, "the state still holds after pruning")
    run.note(f"{before - left} removed by {summary['requests']} requests")


def forget_gone(run):
    """a third of all gone: nothing concluded until forget-gone"""
    gone = sorted(run.truth)[::3]
    for path in gone:
        remove(path)
    summary = run.main.replicate(want=1).json
    check(not any(key.endswith(".deleted") for key in run.main.objects()), f"{summary}")
    run.main.run("forget-gone", "--state-dir", run.main.state, "--yes")
    check(run.main.replicate().json["gone"] == len(gone), f"{len(gone)} are gone")
    listed = run.main.run("list", "--json").lines
    check(sum(line["gone_since"] is not None for line in listed) == len(gone), "list does not say which are gone")
    run.truth = {path: seen for path, seen in run.truth.items() if path not in gone}
    run.main.restored(run.truth)


STEPS = (first_run, idle_run, changed_run, look_from_outside, by_another_client, restore_all, restore_one, restore_at, verify,
         tombstones, prune, forget_gone)
# The others leave everything as it is for those after them, also when they fail.
CRUCIAL = (first_run, changed_run, tombstones, prune)
