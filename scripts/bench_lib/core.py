"""What all sections of the benchmark share: programs run and measured, databases made, figures and what is wanted of them."""
import contextlib, dataclasses, json, os, pathlib, shutil, signal, statistics, subprocess, sys, time

from . import server

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
# Well beyond the two seconds below which a stamp counts as young.
SETTLED_S = 5.0
# Beyond this, a folder as a store takes longer to make than all that is measured.
IN_FOLDER_MAX = 100_000


class Failed(Exception):
    """Something that was to be measured did not work."""


# --- Figures --------------------------------------------------------------------------------------------------------------

@dataclasses.dataclass
class Target:
    """What is wanted: the median of `of`, by that of `to` where one is named, within a bound."""
    of: str
    to: str | None = None
    at_most: float | None = None
    at_least: float | None = None
    stat: str = "median"

    def measured(self, figures):
        stat = {"median": statistics.median, "max": max, "min": min}[self.stat]
        value = stat(figures[self.of])
        return value / stat(figures[self.to]) if self.to else value

    @property
    def bound(self):
        return self.at_most if self.at_most is not None else self.at_least

    def missed_by(self, figures):
        """By which share it is missed; 0 where it is met."""
        value = self.measured(figures)
        return max(0.0, value / self.bound - 1 if self.at_most is not None else 1 - value / self.bound)

    def words(self, unit):
        sign = "≤" if self.at_most is not None else "≥"
        of = self.of if self.stat == "median" else f"{self.of} ({self.stat})"
        return f"{of} {sign} {self.bound:g} × {self.to}" if self.to else f"{of} {sign} {number(self.bound)} {unit}"


@dataclasses.dataclass
class Line:
    """Figures of several contenders, taken in turn in one run."""
    id: str
    what: str
    unit: str
    figures: dict
    targets: list = dataclasses.field(default_factory=list)
    remark: str = ""
    # What the figures are of, for the plot: a number of databases.
    size: int | None = None

    def ratios(self):
        """The ratios that targets name: text -> (ratio, whether less is better)."""
        named = [t for t in self.targets if t.to]
        return {f"{t.of} / {t.to}": (t.measured(self.figures), t.at_most is not None) for t in named}


def alternate(rounds, contenders):
    """Calls each contender once a round, not always the same one first; returns its figures in the order of the rounds."""
    names, figures = list(contenders), {name: [] for name in contenders}
    for at in range(rounds):
        for name in names[at % len(names):] + names[:at % len(names)]:
            figures[name].append(contenders[name]())
    return figures


def number(value):
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.4f}"


# --- Programs -------------------------------------------------------------------------------------------------------------

class Ran:
    """One finished process: what it cost as the kernel accounts it, and what it said. The floor program starts it: a process begins
    with the peak of the one that forked it, and this one is large."""

    def __init__(self, floor, command, said, env=None, check=True):
        cost = pathlib.Path(f"{said}.cost")
        cost.unlink(missing_ok=True)
        with open(said, "wb") as out:
            words = [str(word) for word in [floor, "measured", cost, *command]]
            process = subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT, env=env, start_new_session=True)
            try:
                self.code = process.wait()
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        self.said = pathlib.Path(said).read_text(errors="replace")
        if not cost.exists():
            raise Failed(f"{command[0]} could not be run: {self.said[-2000:]}")
        told = json.loads(cost.read_text())
        self.seconds, self.cpu, self.peak_mb = told["seconds"], told["cpu_s"], told["peak_mb"]
        if check and self.code:
            raise Failed(f"{command[0]} ended with {self.code}: {self.said[-2000:]}")


def status_mb(pid, field):
    """VmRSS or VmHWM of a process, in MB."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise Failed(f"process {pid} has no {field}")


def cpu_s(pid):
    """CPU seconds that a process has used."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def background(command, said, env=None):
    """A process that is asked to stop at the end."""
    with open(said, "wb") as out:
        process = subprocess.Popen([str(word) for word in command], stdout=out, stderr=subprocess.STDOUT, env=env)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def version(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


# --- The benchmark ----------------------------------------------------------------------------------------------------------

class Bench:
    """What a section works with."""

    def __init__(self, work, quick, rounds, counts, litesnap, floor):
        self.work, self.quick, self.rounds, self.counts = work, quick, rounds, counts
        self.litesnap, self.floor_program = litesnap, floor
        # Whether those are measured as well whose own first run takes long.
        self.with_peers = not quick
        self.skipped, self.removed, self.stores = [], 0, {}
        self.closing = contextlib.ExitStack()

    def say(self, text):
        print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)

    def run(self, *command, env=None, check=True):
        return Ran(self.floor_program, command, self.work / "said", env, check)

    def floor(self, *words):
        """Runs the floor program; returns what it measured."""
        return json.loads(self.run(self.floor_program, *words).said.splitlines()[-1])

    def tool(self, name):
        """The path of a program of somebody else, or None, which is said."""
        path = shutil.which(name)
        if not path and name not in self.skipped:
            self.skipped.append(name)
            self.say(f"SKIPPED: {name} is not installed")
        return path

    def fixtures(self, layout, count):
        """A folder of that many databases, made if it is not there, and at rest for long enough to be trusted."""
        folder = self.work / f"{layout}-{count}"
        if not (folder / ".fixtures.json").exists():
            self.say(f"making {count} databases, {layout}")
            command = [ROOT / "scripts/generate-fixtures", "--count", count, "--layout", layout, "--out", folder, "--force"]
            self.run(*command)
            time.sleep(SETTLED_S)
        return folder

    def patterns(self, fixtures):
        return f"{fixtures}/**/*.db"

    def replicate(self, fixtures, store, state, *options):
        """The command that backs `fixtures` up."""
        plain = ["--allow-http"] if str(store).startswith("s3:") else []
        return [self.litesnap, "replicate", self.patterns(fixtures), "--store", store, "--state-dir", state, *plain, *options]

    def stored(self, layout, count):
        """(fixtures, store, state) after a first run that stored everything: in a folder, or, of very many, on an S3 server in memory,
        which is there until this program ends."""
        fixtures = self.fixtures(layout, count)
        if (layout, count) not in self.stores:
            self.stores[layout, count] = self.first_run(fixtures, layout, count)
        return fixtures, *self.stores[layout, count]

    def first_run(self, fixtures, layout, count):
        store, state, done = (self.work / f"{kind}-{layout}-{count}" for kind in ("store", "state", "stored"))
        if count > IN_FOLDER_MAX:
            shutil.rmtree(state, ignore_errors=True)
            store = self.closing.enter_context(server.running(self)).url("store")
        elif done.exists():
            return store, state
        self.say(f"first run over {fixtures.name}")
        ran = self.run(*self.replicate(fixtures, store, state, "--once"), env=server.ENV)
        if f"stored={count} " not in ran.said:
            raise Failed(f"the first run did not store {count}: {ran.said[-2000:]}")
        if count <= IN_FOLDER_MAX:
            done.touch()
        self.settle()
        return store, state

    def settle(self):
        """What was written is on disk: nothing measured next pays for it."""
        os.sync()

    def has_room(self, what, gib):
        """Whether the work folder's disk has room; says so if not."""
        free = shutil.disk_usage(self.work).free / 2**30
        if free < gib + 5:
            self.skipped.append(what)
            self.say(f"SKIPPED: {what} takes {gib} GiB, and {free:.0f} are free")
        return free >= gib + 5

    def remove(self, *names):
        """Sets them aside, to be removed with `clean`: ext4 passes over inodes that were freed in the last minutes, one by one, and whoever
        makes files next would pay for that."""
        aside = self.work / "removed"
        aside.mkdir(exist_ok=True)
        for name in names:
            if (self.work / name).exists():
                self.removed += 1
                # An earlier run may have left some.
                while (aside / str(self.removed)).exists():
                    self.removed += 1
                (self.work / name).rename(aside / str(self.removed))

    def clean(self):
        self.closing.close()
        shutil.rmtree(self.work / "removed", ignore_errors=True)
