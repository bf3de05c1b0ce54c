"""Servers that enforce what a key may do, started here on ports of their own, and administered by boto3."""
import json, os, pathlib, socket, subprocess, sys, time, urllib.request

import boto3
from botocore.config import Config

from .common import FILL, PREFIX

WAIT_S = 60


class Unavailable(Exception):
    """Not installed here."""


def wait_for(ready, what):
    """Waits until `ready()`; errors of connections mean not yet."""
    end = time.monotonic() + WAIT_S
    while True:
        try:
            if ready():
                return
        except OSError:
            pass
        if time.monotonic() > end:
            raise TimeoutError(f"{what} is not there after {WAIT_S} s")
        time.sleep(0.05)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(url):
    def ask():
        with urllib.request.urlopen(url, timeout=5):
            return True
    return ask


def client(service, endpoint, key):
    """A client that asks once, so that a refusal is one answer."""
    config = Config(
        region_name="us-east-1", signature_version="s3v4" if service == "s3" else "v4", s3={"addressing_style": "path"},
        retries={"total_max_attempts": 1}, request_checksum_calculation="when_required",
        response_checksum_validation="when_required")
    return boto3.client(
        service, endpoint_url=endpoint, aws_access_key_id=key[0], aws_secret_access_key=key[1], config=config)


class Server:
    """What both have in common."""

    # Variables that litesnap needs there.
    environment = {}
    # Attempts whose outcome this server decides otherwise than S3, and what it does not enforce at all.
    lenient, lacks = frozenset(), frozenset()
    # What becomes of a bucket's policy that demands If-None-Match: enforced, without effect, refuses every put.
    create_only = "enforced"
    # Whether it wants policies as `fill --ceph` makes them.
    is_ceph = False

    def s3(self, key):
        return client("s3", self.endpoint, key)

    def bucket(self, name, **how):
        """A new bucket that belongs to the administrator."""
        self.admin.create_bucket(Bucket=name, **how)
        return name

    def keys(self, bucket, prefix=""):
        """Keys as the administrator sees them."""
        pages = self.admin.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [found["Key"] for page in pages for found in page.get("Contents", [])]

    def filled(self, name, bucket):
        """One of the bucket's own settings, as a person would fill it in."""
        return json.loads(FILL(name, bucket, PREFIX))

    def unfinished(self, bucket):
        """Uploads in parts that nobody has ended."""
        return self.admin.list_multipart_uploads(Bucket=bucket).get("Uploads", [])


class Moto(Server):
    """moto, which checks signatures and users' policies once it is told to."""

    name = "moto"
    lenient = frozenset({"list another prefix", "list the bucket"})
    # It asks for DeleteObject on the bucket too when many objects are deleted with one request, and refuses each by name.
    environment = {"AWS_DISABLE_BULK_DELETE": "true"}
    # Of the checksums that S3 accepts for what is to be locked, it knows only those of its own client.
    lacks = frozenset({"lifecycle", "quota", "locks"})
    create_only = "refuses every put"

    def __init__(self, folder):
        self.endpoint = f"http://127.0.0.1:{free_port()}"
        program = pathlib.Path(sys.executable).with_name("moto_server")
        if not program.exists():
            raise Unavailable("moto_server is not installed: pip install 'moto[server]'")
        self.log = open(folder / "moto.log", "wb")
        command = [program, "-H", "127.0.0.1", "-p", self.endpoint.rpartition(":")[2]]
        # So many requests as it takes to make the administrator; everything after them must be signed and allowed.
        environment = {**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": "3"}
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, env=environment)
        try:
            self.set_up()
        except BaseException:
            self.stop()
            raise

    def set_up(self):
        wait_for(answers(self.endpoint + "/moto-api/"), "moto")
        admin_key = self.user("admin", {"Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]})
        self.admin_key, self.admin = admin_key, self.s3(admin_key)
        self.iam = client("iam", self.endpoint, admin_key)
        self.worker = self.user("worker")

    def user(self, name, policy=None):
        iam = getattr(self, "iam", None) or client("iam", self.endpoint, ("any", "any"))
        iam.create_user(UserName=name)
        if policy:
            iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=as_text(policy))
        made = iam.create_access_key(UserName=name)["AccessKey"]
        return made["AccessKeyId"], made["SecretAccessKey"]

    def grant(self, policy):
        """The one key under test may do exactly this from now on."""
        for statement in policy["Statement"]:
            # It takes every statement with a condition for a refusal.
            statement.pop("Condition", None)
        self.iam.put_user_policy(UserName="worker", PolicyName="p", PolicyDocument=as_text(policy))
        return self.worker

    def version(self):
        import moto
        return f"moto {moto.__version__}"

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.log.close()


def as_text(policy):
    return json.dumps({"Version": "2012-10-17", **policy})
