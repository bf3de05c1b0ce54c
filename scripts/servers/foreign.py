"""Stores that do not speak S3: Azure's and Google's, by their emulators. The other client is rclone."""
import base64, json, os, subprocess, urllib.request

from servers.driver import BUCKET, Server, Untested, check, first_line
from servers.others import version_by_pip


class Rclone:
    """As much of a client as the steps need, by running rclone."""

    def __init__(self, remote):
        self.env = {k: v for k, v in os.environ.items() if k != "AWS_CA_BUNDLE"} | {"RCLONE_CONFIG": "/dev/null"}
        self.env |= {f"RCLONE_CONFIG_REMOTE_{name}": value for name, value in remote.items()}

    def run(self, *command):
        ran = subprocess.run(["rclone", *command], env=self.env, capture_output=True, timeout=300)
        check(ran.returncode == 0, f"rclone {command[0]} ended with {ran.returncode}: {ran.stderr[-600:]!r}")
        return ran.stdout

    def make_bucket(self, bucket):
        self.run("mkdir", f"remote:{bucket}")

    def objects(self, bucket, prefix=""):
        listed = json.loads(self.run("lsjson", "-R", "--files-only", "--no-modtime", "--no-mimetype", f"remote:{bucket}"))
        return {one["Path"]: one["Size"] for one in listed if one["Path"].startswith(prefix)}


class Azurite(Server):
    name, title, get, scheme = "azurite", "Azurite", "npm install azurite@3.35.0", "az"
    programs = ("azurite-blob", "rclone")
    ACCOUNT = "litesnapaccount"

    def __init__(self, place):
        super().__init__(place)
        # Azure's keys are base64, and a wrong one must be, too.
        self.access, self.secret = self.ACCOUNT, base64.b64encode(os.urandom(63)).decode()

    def version(self):
        return first_line("azurite-blob", "--version")

    def serve(self):
        (self.place / "data").mkdir(exist_ok=True)
        command = ["azurite-blob", "--blobHost", "127.0.0.1", "--blobPort", self.port, "-l", self.place / "data"]
        self.launch("azurite", [*command, "--skipApiVersionCheck", "--disableTelemetry", "--silent"],
                    env={"AZURITE_ACCOUNTS": f"{self.ACCOUNT}:{self.secret}"})
        self.wait_for_port("azurite")

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.port}/{self.ACCOUNT}"

    def flags(self):
        return ["--endpoint", self.endpoint, "--allow-http"]

    def env(self, secret=None, access=None):
        return {"AZURE_STORAGE_ACCOUNT_NAME": access or self.access, "AZURE_STORAGE_ACCOUNT_KEY": secret or self.secret}

    def rclone_remote(self):
        return {"TYPE": "azureblob", "ACCOUNT": self.access, "KEY": self.secret, "ENDPOINT": self.endpoint}

    def client(self):
        return Rclone(self.rclone_remote())


class GcpEmulator(Server):
    name, title, get, scheme = "gcs-emulator", "gcp-storage-emulator", "pip install gcp-storage-emulator", "gs"
    programs = ("gcp-storage-emulator", "rclone")

    def version(self):
        return version_by_pip("gcp-storage-emulator", "gcp-storage-emulator")

    def serve(self):
        (self.place / "data").mkdir(exist_ok=True)
        self.launch("emulator", ["gcp-storage-emulator", "-d", self.place / "data", "start", "--host", "127.0.0.1",
                                 "--port", self.port])
        self.wait_for_port("emulator")

    def start(self):
        """What it cannot do for anybody is found out first: litesnap would say the same 300 times."""
        super().start()
        put = urllib.request.Request(f"{self.endpoint}/{BUCKET}/probe", b"x", method="PUT")
        with urllib.request.urlopen(put, timeout=60) as answer:
            if not answer.headers["ETag"]:
                raise Untested("it confirms puts of Google's XML interface without an ETag, and lists nothing there; "
                               "object_store needs both")

    def flags(self):
        return ["--endpoint", self.endpoint, "--allow-http"]

    def env(self, secret=None, access=None):
        # Nobody to sign for: the library's own way of saying so.
        nobody = {"disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": "", "gcs_base_url": self.endpoint}
        return {"GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(nobody)}

    def rclone_remote(self):
        return {"TYPE": "google cloud storage", "ANONYMOUS": "true", "ENDPOINT": f"{self.endpoint}/storage/v1/",
                "PROJECT_NUMBER": "1", "BUCKET_POLICY_ONLY": "true"}

    def client(self):
        return Rclone(self.rclone_remote())
