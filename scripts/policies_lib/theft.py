"""What somebody with the stolen key of a loop can spoil, what comes of it later, and what protects."""
import datetime, subprocess, sys, time

from botocore.exceptions import ClientError

from .attempts import outcome
from .common import PREFIX, ROOT, check, rows
from .duties import as_admin, prepared, snapshots
from .proxy import Between
from .servers import wait_for

JUNK = b"not a snapshot"


def stamp(moment, kind=".db.lz4"):
    """The last part of a key of ours."""
    return moment.strftime("%Y%m%dT%H%M%S.") + f"{moment.microsecond // 1000:03}Z{kind}"


def now():
    return datetime.datetime.now(datetime.timezone.utc)


def thief(place):
    return place.server.s3(place.key)


def put(place, key, body=JUNK):
    return outcome(lambda s3, bucket: s3.put_object(Bucket=bucket, Key=key, Body=body), thief(place), place.bucket)


def restore(place, name, *how):
    """What restoring one database gives: the run, and its rows if there are any."""
    out = place.folder / "restored.db"
    out.unlink(missing_ok=True)
    key, place.key = place.key, place.server.admin_key
    ran = place.litesnap("restore", "--match", place.name(name), "-o", out, *how)
    place.key = key
    return ran, rows(out) if out.exists() else None


def overwritten(place):
    """overwrites a snapshot where nothing forbids it; verify and restore tell, an older snapshot is still there"""
    prepared(place, "a.db")
    first = rows(place.data / "a.db")
    between = now()
    place.add("a.db")
    place.replicate().expect(0, "stored=1")
    check(put(place, snapshots(place, "a.db")[1]), "the overwrite was refused")
    ran, back = restore(place, "a.db")
    check(ran.code == 1 and back is None, f"junk was restored: {ran}")
    ran, back = restore(place, "a.db", "--at", between.isoformat())
    check(back == first, f"the snapshot before is lost: {ran}")
    as_admin(place)
    place.litesnap("verify", "--all", "--no-mark").expect(1, "bad=1")


def forged(place):
    """stores a forged snapshot that nothing tells from a true one: a restore takes it for the newest, --at passes over it"""
    prepared(place, "a.db")
    true, between = rows(place.data / "a.db"), now()
    (place.data / "a.db").unlink()
    place.make("a.db", 1)
    place.litesnap("replicate", place.data, "--once", "--state-dir", place.folder / "thief").expect(0, "stored=1")
    forged_rows = rows(place.data / "a.db")
    ran, back = restore(place, "a.db")
    check(back == forged_rows != true, f"no forgery came back: {ran}")
    ran, back = restore(place, "a.db", "--at", between.isoformat())
    check(back == true, f"--at did not bring the true one: {ran}")


def marked_bad(place):
    """may put no bad-marker with the policy as it is; with one for the whole prefix it could, and prune keeps the newest good"""
    prepared(place, "a.db")
    for _ in range(3):
        place.add("a.db")
        place.replicate().expect(0, "stored=1")
    true, all_four = rows(place.data / "a.db"), snapshots(place, "a.db")
    marked = [put(place, key + ".bad") for key in all_four[:3]]
    check(marked == [place.server.is_ceph] * 3, f"markers let through: {marked}")
    as_admin(place)
    ran = place.litesnap("prune", "--keep-last", "10").expect(0)
    left = snapshots(place, "a.db")
    check(left == (all_four[3:] if place.server.is_ceph else all_four), f"{left}: {ran}")
    _, back = restore(place, "a.db")
    check(back == true, "the newest good one is lost")
    for key in left:
        place.server.admin.put_object(Bucket=place.bucket, Key=key + ".bad", Body=JUNK)
    place.litesnap("prune", "--keep-last", "1").expect(0)
    check(snapshots(place, "a.db") == left, "what is marked bad went, with nothing good left")


def crowded_out(place):
    """puts newer junk, for which a scheduled prune would let the true ones go: in a bucket with versions they come back"""
    versioned(place)
    prepared(place, "a.db")
    true = rows(place.data / "a.db")
    time.sleep(1.1)  # The times of versions have no more than seconds.
    before = now()
    time.sleep(1.1)
    for days in (1, 2, 3):
        check(put(place, place.prefix("a.db") + stamp(before + datetime.timedelta(days=days))), "refused")
    as_admin(place)
    place.litesnap("prune", "--keep-last", "2").expect(0, "removed=2")
    check(restore(place, "a.db")[1] is None, "what was crowded out is still there")
    rewind(place, before)
    ran, back = restore(place, "a.db")
    check(back == true, f"rewinding did not bring it back: {ran}")


def told_gone(place):
    """puts a tombstone of long ago: prune --deleted-after counts from when the store was given it, and removes nothing"""
    prepared(place, "a.db", "b.db")
    true = rows(place.data / "b.db")
    # Idle for long, as most of a fleet is: the same object under a key of 90 days ago.
    month = datetime.timedelta(days=30)
    body = place.server.admin.get_object(Bucket=place.bucket, Key=snapshots(place, "a.db")[0])["Body"].read()
    place.server.admin.put_object(Bucket=place.bucket, Key=place.prefix("a.db") + stamp(now() - 3 * month), Body=body)
    place.server.admin.delete_object(Bucket=place.bucket, Key=snapshots(place, "a.db")[1])
    check(put(place, place.prefix("a.db") + stamp(now() - 2 * month, ".deleted")), "refused")
    as_admin(place)
    ran = place.litesnap("prune", "--deleted-after", "30d")
    check(len(snapshots(place, "a.db")) == 1, f"a forged tombstone erased a database: {ran}")
    # Another that is not idle: held for gone until it is stored again.
    check(put(place, place.prefix("b.db") + stamp(now(), ".deleted")), "refused")
    ran, back = restore(place, "b.db")
    check(back is None, f"what is held for gone was restored unasked: {ran}")
    ran.expect(1, "gone from its host.*--include-deleted")
    ran, back = restore(place, "b.db", "--include-deleted")
    check(back == true, f"--include-deleted did not bring it: {ran}")
    place.key = place.server.grant(place.policy("replicate"))
    place.add("b.db")
    place.replicate().expect(0, "stored=1")
    _, back = restore(place, "b.db")
    check(back == rows(place.data / "b.db"), "stored again, it is still held for gone")


def versioned(place):
    """Sets the bucket as contrib/policies/bucket-versioning.json says."""
    place.server.admin.put_bucket_versioning(
        Bucket=place.bucket, VersioningConfiguration=place.server.filled("bucket-versioning", place.bucket))


def rewind(place, moment):
    """contrib/policies/rewind, as a person would run it."""
    command = [sys.executable, ROOT / "contrib/policies/rewind", "--endpoint", place.server.endpoint,
               place.bucket, PREFIX, moment.isoformat()]
    ran = subprocess.run(command, env=place.environment(), capture_output=True, text=True)
    check(ran.returncode == 0, f"rewind: {ran.stdout}{ran.stderr}")
    return ran.stdout


def versions_kept(place):
    """overwrites and, with the key of prune, deletes everything in a bucket with versions: all of it comes back"""
    versioned(place)
    prepared(place, "a.db", "b.db")
    place.make_large("large.db")
    place.replicate().expect(0, "stored=1")
    true = {name: rows(place.data / name) for name in ("a.db", "b.db", "large.db")}
    time.sleep(1.1)  # As above.
    before = now()
    time.sleep(1.1)
    check(put(place, snapshots(place, "a.db")[0]), "refused")
    put(place, place.prefix("new.db") + stamp(before))
    place.key = place.server.grant(place.policy("prune"))
    for key in place.server.keys(place.bucket):
        if "a.db" not in key:
            thief(place).delete_object(Bucket=place.bucket, Key=key)
    as_admin(place)
    check(restore(place, "a.db")[1] is None and restore(place, "b.db")[1] is None, "nothing was spoilt")
    rewind(place, before)
    for name, content in true.items():
        ran, back = restore(place, name)
        check(back == content, f"rewinding did not bring {name} back: {ran}")
    check(not snapshots(place, "new.db"), "what was put later is still there")


def locked(place):
    """cannot remove a version from a bucket with object lock, and neither can the key of prune nor the bucket's owner"""
    server = place.server
    bucket = server.bucket(place.bucket + "lock", ObjectLockEnabledForBucket=True)
    server.admin.put_object_lock_configuration(
        Bucket=bucket, ObjectLockConfiguration=server.filled("bucket-object-lock", bucket))
    place.bucket = bucket
    # S3 wants a checksum in the header of what it is to lock.
    place.more = {"AWS_CHECKSUM_ALGORITHM": "SHA256"}
    place.key = server.grant(place.policy("replicate"))
    prepared(place, "a.db")
    place.make_large("large.db")
    place.replicate().expect(0, "stored=1")
    true, key = rows(place.data / "a.db"), snapshots(place, "a.db")[0]
    version = server.admin.list_object_versions(Bucket=bucket, Prefix=key)["Versions"][0]["VersionId"]
    check(put(place, key), "refused")
    place.key = server.grant(place.policy("prune"))
    thief(place).delete_object(Bucket=bucket, Key=key)

    def delete_version(s3, _):
        s3.delete_object(Bucket=bucket, Key=key, VersionId=version)

    def delete_past_lock(s3, _):
        s3.delete_object(Bucket=bucket, Key=key, VersionId=version, BypassGovernanceRetention=True)

    def shorten(s3, _):
        s3.put_object_retention(Bucket=bucket, Key=key, VersionId=version, Retention={
            "Mode": "COMPLIANCE", "RetainUntilDate": now() + datetime.timedelta(seconds=5)})

    for who in (thief(place), server.admin):
        for attempt in (delete_version, delete_past_lock, shorten):
            check(not outcome(attempt, who, bucket), f"{attempt.__name__} was let through")
    body = server.admin.get_object(Bucket=bucket, Key=key, VersionId=version)["Body"].read()
    server.admin.put_object(Bucket=bucket, Key=key, Body=body)
    ran, back = restore(place, "a.db")
    check(back == true, f"the locked version did not come back: {ran}")


def create_only(place):
    """overwrites nothing where the bucket's policy demands If-None-Match"""
    place.server.admin.put_bucket_policy(Bucket=place.bucket, Policy=place.text("bucket-create-only"))
    place.make("a.db")
    ran = place.replicate()
    stores = ran.code == 0
    check(stores or "403" in ran.out + ran.err, f"neither stored nor refused: {ran}")
    overwrites = put(place, snapshots(place, "a.db")[0]) if stores else False
    found = {(True, False): "enforced", (True, True): "without effect", (False, False): "refuses every put"}
    what = found[stores, overwrites]
    check(what == place.server.create_only, f"{place.server.create_only} expected, and this server has it {what}")
    return what if what == "enforced" else f"UNTESTED, as AWS documents it: this server does not know the condition ({what})"


def sends(place):
    """is needed for no more than that: every object in one part is put with If-None-Match: *, and with a checksum if asked"""
    place.more = {"AWS_CHECKSUM_ALGORITHM": "SHA256"}
    place.make("a.db")
    place.make_large("large.db")
    with Between(place.server.endpoint) as between:
        place.replicate(endpoint=between.endpoint).expect(0, "stored=2")
    whole = [head for head in between.heads if head.startswith("PUT") and "partNumber=" not in head]
    parts = [head for head in between.heads if head.startswith("PUT") and "partNumber=" in head]
    ends = [head for head in between.heads if head.startswith("POST") and "uploadId=" in head]
    check((len(whole), len(parts), len(ends)) == (1, 2, 1), f"{between.heads}")
    check(all("\nif-none-match: *" in head for head in whole), f"not create-only: {whole}")
    check(all("\nx-amz-checksum-sha256: " in head for head in whole + parts), f"no checksum: {whole + parts}")
    # When this fails, SECURITY.md may say that the policy above suits large databases too.
    check(not any("\nif-none-match" in head for head in ends), "an upload in parts has become create-only")


def orphans_expire(place):
    """leaves uploads unfinished: the bucket's lifecycle rule ends them"""
    place.make_large("large.db")
    command = place.command("replicate", place.data, "--once", "--state-dir", place.state, "--limit-upload", "1MiB/s")
    run = subprocess.Popen(command, env=place.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: run.poll() is not None or place.server.unfinished(place.bucket), "the upload in parts")
    finally:
        run.kill()
        run.wait()
    check(place.server.unfinished(place.bucket), "no upload was left unfinished")
    rules = place.server.filled("bucket-lifecycle", place.bucket)
    place.server.admin.put_bucket_lifecycle_configuration(Bucket=place.bucket, LifecycleConfiguration=rules)
    wait_for(lambda: not place.server.unfinished(place.bucket), "the end of the unfinished upload")


def full_bucket(place):
    """fills the bucket to its quota: the loop fails loudly until somebody makes room"""
    place.server.limit_objects(place.bucket, 3)
    prepared(place, "a.db")
    while put_until_full(place):
        pass
    place.add("a.db")
    place.replicate().expect(3, "QuotaExceeded")
    place.server.limit_objects(place.bucket, 1000)
    place.replicate().expect(0, "stored=1")


def put_until_full(place):
    try:
        thief(place).put_object(Bucket=place.bucket, Key=f"{place.prefix('junk.db')}{stamp(now())}", Body=JUNK)
        return True
    except ClientError as error:
        check(error.response["Error"]["Code"] == "QuotaExceeded", f"refused otherwise: {error}")
        return False


# Each with what a server must have for it.
PROOFS = {
    overwritten: "", forged: "", marked_bad: "", crowded_out: "versions", told_gone: "", versions_kept: "versions",
    locked: "locks", create_only: "", sends: "", orphans_expire: "lifecycle", full_bucket: "quota",
}
