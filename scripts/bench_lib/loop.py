"""The loop of litesnap at work, watched through the metrics that it serves."""
import contextlib, pathlib, re, socket, time, urllib.error, urllib.request

from . import core, server

# Seldom enough that answering takes nothing from the cycles measured.
ASK_S = 0.1


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Loop:
    """A running loop."""

    def __init__(self, process, port, said):
        self.pid, self.process, self.port, self.said = process.pid, process, port, said

    def metrics(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=60) as answer:
            text = answer.read().decode()
        return {name: float(value) for name, value in re.findall(r"^([^#\s]+) (\S+)$", text, re.MULTILINE)}

    def cycles(self):
        """Cycles that succeeded so far, and seconds spent in cycles."""
        try:
            metrics = self.metrics()
        except (urllib.error.URLError, ConnectionError):
            return 0.0, 0.0
        return metrics['litesnap_cycles_total{result="succeeded"}'], metrics["litesnap_cycle_seconds_total"]

    def wait_for(self, cycles, at_most_s=600.0):
        """Waits until that many cycles have succeeded; returns (cycles, seconds in them)."""
        until = time.monotonic() + at_most_s
        while time.monotonic() < until:
            done, seconds = self.cycles()
            if done >= cycles:
                return done, seconds
            if self.process.poll() is not None:
                raise core.Failed(f"the loop ended: {pathlib.Path(self.said).read_text(errors='replace')[-2000:]}")
            time.sleep(ASK_S)
        raise core.Failed(f"no {cycles} cycles within {at_most_s} s: {pathlib.Path(self.said).read_text(errors='replace')[-2000:]}")

    def rss_mb(self):
        return core.status_mb(self.pid, "VmRSS")

    def cpu_s(self):
        return core.cpu_s(self.pid)


@contextlib.contextmanager
def running(bench, fixtures, store, state, *options, env=None):
    """A loop over `fixtures`, stopped at the end."""
    port, said = free_port(), bench.work / "loop-said"
    command = bench.replicate(fixtures, store, state, "--listen", f"127.0.0.1:{port}", *options)
    with core.background(command, said, env or server.ENV) as process:
        yield Loop(process, port, said)
