"""What every server driver has in common: found or absent, on free ports of 127.0.0.1, stopped whatever happens."""
import ctypes, os, pathlib, secrets, shutil, signal, socket, subprocess, time

START_MAX_S = 60
STOP_MAX_S = 10
REGION = "us-east-1"
BUCKET = "litesnap-conformance"
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class Failed(Exception):
    """A promise that did not hold."""


class Untested(Exception):
    """What could not be tried here, and why."""


def check(holds, what):
    if not holds:
        raise Failed(what)


def wait_until(holds, what, seconds=START_MAX_S):
    """Asks again and again, for what another process does at its own time."""
    until = time.monotonic() + seconds
    while not holds():
        check(time.monotonic() < until, f"{what}: not within {seconds} s")
        time.sleep(0.05)


def free_port():
    """A port that nobody listens on now; the kernel gives another one the next time."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _own_group_and_gone_with_us():
    # A Ctrl-C is for this script alone, which stops the servers in order; a kill -9 of it takes them along.
    os.setsid()
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def spawn(command, **kwargs):
    """A process that does not outlive this one."""
    return subprocess.Popen([str(word) for word in command], preexec_fn=_own_group_and_gone_with_us, **kwargs)


def end(process, how=signal.SIGTERM):
    """Ends it, also while it is held by SIGSTOP."""
    if process.poll() is None:
        process.send_signal(how)
        process.send_signal(signal.SIGCONT)
    try:
        process.wait(STOP_MAX_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def first_line(*command):
    """For versions; some programs print them to standard error."""
    told = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
    return told.stdout.strip().partition("\n")[0]


class Server:
    """One server. Subclasses say how it is found, started and spoken to."""
    name = title = get = ""
    # How it is run, where that matters; for the table.
    note = ""
    programs = ()
    scheme = "s3"
    # Whether objects outlive a restart of the server.
    is_durable = True
    # What `kill -9` and `kill -STOP` may be tried on, by the names of `processes`.
    front = back = None

    def __init__(self, place):
        self.place, self.processes = pathlib.Path(place), {}
        self.port = free_port()
        self.access, self.secret = "AK" + secrets.token_hex(9).upper(), secrets.token_hex(20)

    @classmethod
    def missing(cls):
        """The programs that are not installed."""
        return [program for program in cls.programs if not shutil.which(program)]

    def version(self):
        raise NotImplementedError

    def launch(self, name, command, env=None):
        """Starts a process and keeps its output in a log file of its own."""
        with open(self.place / f"{name}.out", "ab") as out:
            self.processes[name] = spawn(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=self.place,
                                         env=os.environ | (env or {}))

    def serve(self):
        """Starts the processes on the data that are there."""
        raise NotImplementedError

    def start(self):
        """From nothing to a server with a bucket."""
        self.serve()
        self.client().make_bucket(BUCKET)

    def resume(self):
        """Starts it again after `stop`."""
        self.serve()
        if not self.is_durable:
            self.client().make_bucket(BUCKET)

    def stop(self, how=signal.SIGTERM):
        for name in reversed(list(self.processes)):
            end(self.processes.pop(name), how)

    def answers(self):
        return listens(self.port)

    def kill(self, name):
        end(self.processes.pop(name), signal.SIGKILL)

    def wait_for_port(self, name):
        def ready():
            check(self.processes[name].poll() is None, f"{name} ended by itself: see {self.place}/{name}.out")
            return listens(self.port)
        wait_until(ready, f"{name} listens on port {self.port}")

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.port}"

    def url(self, prefix, bucket=BUCKET):
        return f"{self.scheme}://{bucket}/{prefix}"

    def flags(self):
        return ["--endpoint", self.endpoint, "--region", REGION, "--allow-http"]

    def env(self, secret=None, access=None):
        return {"AWS_ACCESS_KEY_ID": access or self.access, "AWS_SECRET_ACCESS_KEY": secret or self.secret,
                "AWS_METADATA_ENDPOINT": "http://127.0.0.1:9"}

    def client(self):
        """Another client than litesnap."""
        from servers.s3client import S3
        return S3(self.port, self.access, self.secret)

    def rclone_remote(self):
        """The settings of a remote for rclone, by which every object is fetched."""
        return {"TYPE": "s3", "PROVIDER": "Other", "ENDPOINT": self.endpoint, "REGION": REGION,
                "ACCESS_KEY_ID": self.access, "SECRET_ACCESS_KEY": self.secret, "FORCE_PATH_STYLE": "true"}
