"""What only a server of several processes can be put through: the front killed, the disks behind it killed or frozen."""
import signal, threading, time

from servers.driver import Untested, check, wait_until
from servers.fleet import commit
from servers.session import asked_to_stop, words

KILLS = 5


class Writer(threading.Thread):
    """Commits to the databases in turn until it is told to stop."""

    def __init__(self, paths):
        super().__init__(daemon=True)
        self.paths, self.stopped, self.commits = paths, threading.Event(), 0

    def run(self):
        while not self.stopped.wait(0.02):
            commit(self.paths[self.commits % len(self.paths)])
            self.commits += 1

    def stop(self):
        self.stopped.set()
        self.join()


def settle(session):
    """Runs until nothing is left to store, then compares state, bucket and databases."""
    session.replicate()
    session.replicate()
    claimed = session.check_claims()
    truth = session.truth()
    check(claimed == len(truth), f"{claimed} of {len(truth)} databases are claimed")
    session.restored(truth)


def loop_while(run, name, harm):
    """Replicates in a loop, while a writer commits and the server is harmed several times."""
    session = run.small_session(name, 60)
    writer = Writer(sorted(session.truth()))
    loop = session.start("--interval", "200ms", "--request-timeout", "5s")
    writer.start()
    try:
        for _ in range(run.kills):
            stored = sum(words(session.log(), "stored"))
            wait_until(lambda: sum(words(session.log(), "stored")) > stored + 20, "the loop stores")
            harm()
            session.check_claims()
    finally:
        writer.stop()
        code = asked_to_stop(loop)
    check(code == 0, f"the loop, asked to stop, ended with {code}: {session.log()[-600:]}")
    session.check_claims()
    settle(session)
    run.note(f"{run.kills} kills, {writer.commits} commits, {sum(words(session.log(), 'stored'))} stored meanwhile")


def kill_and_serve(run, name):
    def harm():
        run.server.kill(name)
        time.sleep(0.3)  # So that some requests meet nobody.
        run.server.serve()
    return harm


def front_killed(run):
    """kill -9 of the gateway under a loop, again and again"""
    if not run.server.front:
        raise Untested("one process: see server stopped")
    loop_while(run, "front-killed", kill_and_serve(run, run.server.front))


def back_killed(run):
    """kill -9 of the disks behind it under a loop, again and again"""
    if not run.server.back:
        raise Untested("one process: see server stopped")
    loop_while(run, "back-killed", kill_and_serve(run, run.server.back))


def back_frozen(run):
    """kill -STOP of the disks: every request hangs, the cycle ends with exit 3; after kill -CONT all is stored"""
    if not run.server.back:
        raise Untested("one process")
    session = run.small_session("frozen", 60)
    session.replicate()
    before = session.claims()
    for path in session.truth():
        commit(path)
    disks = run.server.processes[run.server.back]
    disks.send_signal(signal.SIGSTOP)
    try:
        ran = session.replicate("--request-timeout", "2s", want=3)
        check(session.claims() == before, "the state claims what hung")
    finally:
        disks.send_signal(signal.SIGCONT)
    settle(session)
    run.note(f"given up after {ran.seconds:.0f} s")


STEPS = (front_killed, back_killed, back_frozen)
