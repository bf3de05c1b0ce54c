"""Least rights, for servers that enforce them: one account may only put, another only list and get."""
import json

from servers.driver import BUCKET

RIGHTS = {"putter": ["s3:PutObject"], "getter": ["s3:GetObject", "s3:ListBucket"]}


def statements(name):
    actions = RIGHTS[name]
    return {"Effect": "Allow", "Action": actions, "Resource": [f"arn:aws:s3:::{BUCKET}", f"arn:aws:s3:::{BUCKET}/*"]}


def user_policy(name):
    return json.dumps({"Version": "2012-10-17", "Statement": [statements(name)]})


def bucket_policy(arn):
    """A policy of the bucket that gives each account its rights; `arn` begins the names of users."""
    each = [statements(name) | {"Principal": {"AWS": [arn + name]}} for name in RIGHTS]
    return json.dumps({"Version": "2012-10-17", "Statement": each}).encode()
