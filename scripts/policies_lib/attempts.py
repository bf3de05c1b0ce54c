"""What somebody with a role's key can try, request by request, and which of it the role's policy lets through."""
from botocore.exceptions import ClientError

from .common import PREFIX, check

DATABASE = f"{PREFIX}/srv/a.db"
SNAPSHOT, OTHER = f"{DATABASE}/20261121T063339.123Z.db.lz4", "elsewhere/b.db/20261121T063339.123Z.db.lz4"
HEARTBEAT = f"{PREFIX}/litesnap-heartbeats/web-1/20261121T063339.123Z.heartbeat"
# Stored with the very key that is tried.
OWN = f"{DATABASE}/20261121T060000.000Z.db.lz4"
# Another host's, whose prefix begins with the same letters.
NEIGHBOUR = f"{PREFIX}2/srv/a.db/20261121T063339.123Z.db.lz4"


def put(key, **how):
    return lambda s3, bucket: s3.put_object(Bucket=bucket, Key=key, Body=b"theirs", **how)


def delete_old_version(s3, bucket):
    s3.delete_object(Bucket=bucket, Key=SNAPSHOT, VersionId="null")


def begin_upload(s3, bucket):
    return s3.create_multipart_upload(Bucket=bucket, Key=SNAPSHOT)


def of_bucket(call, **how):
    return lambda s3, bucket: getattr(s3, call)(Bucket=bucket, **how)


def of_object(call, key=SNAPSHOT, **how):
    return lambda s3, bucket: getattr(s3, call)(Bucket=bucket, Key=key, **how)


LIFECYCLE = {"Rules": [{"ID": "all", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 1}}]}
OPEN = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "s3:*", "Resource": "*"}]}'

ATTEMPTS = {
    "list its prefix": of_bucket("list_objects_v2", Prefix=PREFIX + "/"),
    "list another prefix": of_bucket("list_objects_v2", Prefix="elsewhere/"),
    "list the bucket": of_bucket("list_objects_v2"),
    "list versions": of_bucket("list_object_versions", Prefix=PREFIX + "/"),
    "list uploads": of_bucket("list_multipart_uploads"),
    "read a snapshot": of_object("get_object"),
    "look at a snapshot": of_object("head_object"),
    "read what it stored itself": of_object("get_object", OWN),
    "read a heartbeat": of_object("get_object", HEARTBEAT),
    "read something else": of_object("get_object", f"{PREFIX}/index.html"),
    "read another prefix": of_object("get_object", OTHER),
    "read a neighbour's": of_object("get_object", NEIGHBOUR),
    "put a new snapshot": put(f"{DATABASE}/20261121T070000.000Z.db.lz4", IfNoneMatch="*"),
    "overwrite a snapshot": put(SNAPSHOT),
    "put a tombstone": put(f"{DATABASE}/20261121T070000.000Z.deleted"),
    "put a bad-marker": put(SNAPSHOT + ".bad"),
    "put a heartbeat": put(HEARTBEAT),
    "put something else": put(f"{PREFIX}/index.html"),
    "put in another prefix": put(OTHER),
    "put at a neighbour's": put(NEIGHBOUR),
    "delete a snapshot": of_object("delete_object"),
    "delete what it stored itself": of_object("delete_object", OWN),
    "delete a tombstone": of_object("delete_object", f"{DATABASE}/20261121T050000.000Z.deleted"),
    "delete a bad-marker": of_object("delete_object", SNAPSHOT + ".bad"),
    "delete a heartbeat": of_object("delete_object", HEARTBEAT),
    "delete something else": of_object("delete_object", f"{PREFIX}/index.html"),
    "delete in another prefix": of_object("delete_object", OTHER),
    "delete an old version": delete_old_version,
    "read a snapshot's rights": of_object("get_object_acl"),
    "open a snapshot to all": of_object("put_object_acl", ACL="public-read"),
    "open what it stored itself to all": of_object("put_object_acl", OWN, ACL="public-read"),
    "set the bucket's policy": of_bucket("put_bucket_policy", Policy=OPEN),
    "expire everything": of_bucket("put_bucket_lifecycle_configuration", LifecycleConfiguration=LIFECYCLE),
    "stop versioning": of_bucket("put_bucket_versioning", VersioningConfiguration={"Status": "Suspended"}),
    "delete the bucket": of_bucket("delete_bucket"),
    "list all buckets' names": lambda s3, _: s3.list_buckets()["Buckets"] or denied(),
}

PUTS = {"put a new snapshot", "overwrite a snapshot", "put a tombstone"}
READ = {"read a snapshot", "look at a snapshot", "read what it stored itself"}
READS = {"list its prefix"} | READ
# What the policies let through; every other attempt must be refused.
ALLOWED = {
    "replicate": PUTS,
    "replicate-compare": PUTS | READ,
    "replicate-heartbeat": PUTS | {"put a heartbeat"},
    "restore": READS,
    "verify": READS | {"put a bad-marker"},
    "prune": {"list its prefix", "delete a snapshot", "delete what it stored itself", "delete a tombstone",
              "delete a bad-marker", "delete a heartbeat"},
    "status": {"read a heartbeat"},
}

# And what more where a policy can only name a whole prefix.
ANY_PUT = PUTS | {"put a bad-marker", "put a heartbeat", "put something else"}
ANY_READ = {"read a heartbeat", "read something else"}
ALLOWED_MORE = {
    "replicate": ANY_PUT,
    "replicate-compare": ANY_PUT | ANY_READ,
    "replicate-heartbeat": ANY_PUT,
    "restore": ANY_READ,
    "verify": ANY_PUT | ANY_READ,
    "prune": {"delete something else"},
    # Which is nothing: it may not store.
    "status": {"read what it stored itself"},
}


def allowed(role, server):
    return ALLOWED[role] | (ALLOWED_MORE[role] if server.is_ceph else set())


def lenient(role, server):
    """What the server lets through all the same. One that looks at no prefix of a listing tells of none apart."""
    more = {"list its prefix"} if role == "status" and "list another prefix" in server.lenient else set()
    return {*server.lenient} | more


def denied():
    """An answer that gives nothing away is as good as a refusal."""
    raise ClientError({"Error": {"Code": "AccessDenied"}}, "nothing")


def stocked(server, name):
    """A new bucket with something of everybody."""
    bucket = server.bucket(name)
    for key in (SNAPSHOT, OTHER, NEIGHBOUR, HEARTBEAT, f"{PREFIX}/index.html"):
        server.admin.put_object(Bucket=bucket, Key=key, Body=b"mine")
    return bucket


def store_own(server, bucket):
    everything = {"Effect": "Allow", "Action": "s3:*", "Resource": ["arn:aws:s3:::*"]}
    server.s3(server.grant({"Statement": [everything]})).put_object(Bucket=bucket, Key=OWN, Body=b"its own")


def outcome(attempt, s3, bucket):
    """True if it was let through."""
    try:
        attempt(s3, bucket)
        return True
    except ClientError as error:
        code = error.response["Error"]["Code"]
        check(code in ("AccessDenied", "403"), f"neither done nor refused: {error}")
        return False


def table(server, role, policy, bucket_name):
    """Every attempt with the key of `role`; returns those let through, and what of the table this server cannot tell."""
    let_through, wrong, excused = [], [], []
    bucket = stocked(server, bucket_name)
    store_own(server, bucket)
    key = server.grant(policy(bucket))
    for name, attempt in ATTEMPTS.items():
        if (done := outcome(attempt, server.s3(key), bucket)) != (name in allowed(role, server)):
            (excused if name in lenient(role, server) else wrong).append(f"{name}: {'done' if done else 'refused'}")
        if done:
            let_through.append(name)
            restock(server, bucket)
    check(not wrong, f"{role}: {'; '.join(wrong)}")
    return let_through, excused


def restock(server, bucket):
    for key in (SNAPSHOT, HEARTBEAT):
        server.admin.put_object(Bucket=bucket, Key=key, Body=b"mine")
