"""The first run: everything is read and stored. Into a folder beside those who copy or back up files; to an S3 server beside a
program that only puts the same objects."""
from . import core, idle, server

TITLE = "First run"
AT_ONCE = 100


def run(bench):
    count = 10_000 if bench.quick else 100_000
    fixtures = bench.fixtures("flat", count)
    yield folder(bench, fixtures, count)
    yield s3(bench, fixtures, count)


def folder(bench, fixtures, count):
    contenders = {"litesnap": lambda: litesnap(bench, fixtures, count, bench.work / "first-store")}
    contenders["floor"] = lambda: floor(bench, fixtures)
    contenders["cp -a"] = lambda: timed(bench, "cp", "-a", fixtures, bench.work / "first-copy")
    if bench.tool("restic"):
        contenders["restic backup"] = lambda: restic(bench, fixtures)
    if bench.tool("rclone") and not bench.quick:
        contenders["rclone copy"] = lambda: timed(bench, "rclone", "copy", fixtures, bench.work / "first-copy", "--quiet")
    bench.say(f"first run into a folder, {count}")
    figures = core.alternate(bench.rounds, contenders)
    targets = [core.Target("litesnap", to="restic backup", at_most=0.8)] if "restic backup" in figures else []
    return core.Line(f"first-folder-{count}", f"first run over {count:,} databases into a folder", "s", figures, targets,
                     "floor: each file read, compressed and kept as a file in a folder of its own, 2 threads, one sync at the end; cp and rclone copy files as they are, torn where they are being written; restic also deduplicates and encrypts; "
                     "nobody but litesnap waits until the disk has it", size=count)


def s3(bench, fixtures, count):
    bench.say(f"first run to an S3 server, {count}")
    source = bench.work / "first-source"
    litesnap(bench, fixtures, count, source, keep=True)
    contenders = {"litesnap": lambda: to_server(bench, fixtures, count), "bare puts": lambda: bare_puts(bench, source)}
    figures = core.alternate(bench.rounds, contenders)
    bench.remove("first-source")
    return core.Line(f"first-s3-{count}", f"first run over {count:,} databases to an S3 server on this machine", "s", figures,
                     [core.Target("litesnap", to="bare puts", at_most=1.15)],
                     f"bare puts: the very objects from memory, create-only, {AT_ONCE} at a time; the server shares the two cores", size=count)


def floor(bench, fixtures):
    listed = bench.work / "first-list"
    listed.write_text("".join(f"{path}\n" for path in sorted(fixtures.rglob("*.db"))))
    seconds = bench.floor("keep", listed, bench.work / "first-copy", 2)["seconds"]
    bench.remove("first-copy")
    bench.settle()
    return seconds


def timed(bench, *command, env=None):
    ran = bench.run(*command, env=env)
    bench.remove("first-copy", "first-store", "first-state", "first-restic")
    bench.settle()
    return ran.seconds


def litesnap(bench, fixtures, count, store, keep=False, env=None):
    bench.remove("first-state")
    ran = bench.run(*bench.replicate(fixtures, store, bench.work / "first-state", "--once"), env=env)
    if f"stored={count} " not in ran.said:
        raise core.Failed(f"not all of {count} were stored: {ran.said[-2000:]}")
    if not keep:
        bench.remove("first-store", "first-state")
    bench.settle()
    return ran.seconds


def restic(bench, fixtures):
    env = idle.restic_env(bench, "first") | {"RESTIC_REPOSITORY": str(bench.work / "first-restic")}
    bench.run("restic", "init", "-q", env=env)
    return timed(bench, "restic", "backup", "-q", fixtures, env=env)


def to_server(bench, fixtures, count):
    with server.running(bench) as s3:
        return litesnap(bench, fixtures, count, s3.url("first"), env=server.ENV)


def bare_puts(bench, source):
    with server.running(bench) as s3:
        return bench.floor("put", s3.endpoint, server.BUCKET, "bare", source, AT_ONCE)["seconds"]
