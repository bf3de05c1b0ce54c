"""The S3 server in memory of the floor program, in a process of its own."""
import contextlib, json, os, subprocess

# It looks at no signature.
ENV = os.environ | {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench"}
BUCKET = "bench"


class Server:
    """One that runs."""

    def __init__(self, port, log):
        self.endpoint, self.log = f"http://127.0.0.1:{port}", log

    def url(self, prefix):
        return f"s3://{BUCKET}/{prefix}?endpoint={self.endpoint}&region=us-east-1"

    def puts(self):
        """(nanoseconds, user_version or None, key) of each put that was stored, in order."""
        for line in self.log.read_text().splitlines():
            time_ns, number, key = line.split(" ", 2)
            yield int(time_ns), None if number == "-" else int(number), key


@contextlib.contextmanager
def running(bench, delay_ms=0):
    """A server with nothing in it; `delay_ms` passes before each answer."""
    log = bench.work / "puts.log"
    process = subprocess.Popen([bench.floor_program, "serve", str(delay_ms), log], stdout=subprocess.PIPE, text=True)
    try:
        yield Server(json.loads(process.stdout.readline())["port"], log)
    finally:
        process.terminate()
        process.wait()
