"""A Ceph RADOS gateway of one node, started here as an ordinary process tree: monitor, object store in memory, gateway."""
import json, os, shutil, subprocess, uuid

from .servers import Server, Unavailable, answers, as_text, client, free_port, wait_for

PROGRAMS = ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "ceph", "monmaptool", "ceph-authtool")
CONF = """
[global]
fsid = {fsid}
mon_host = v1:127.0.0.1:{mon_port}
ms_bind_msgr2 = false
ms_bind_ipv6 = false
public_network = 127.0.0.0/8
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
run_dir = {folder}/run
admin_socket = {folder}/run/$name.$pid.asok
log_file = {folder}/log/$name.log
keyring = {folder}/keyring
crash_dir = {folder}/run/crash
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 4
osd_pool_default_pgp_num = 4
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
mon_data_avail_warn = 1
mon_data_avail_crit = 1
paxos_propose_interval = 0.05
[mon]
mon_data = {folder}/mon
mon_initial_members = a
[osd]
osd_data = {folder}/osd
osd_objectstore = memstore
memstore_device_bytes = 2147483648
osd_max_object_name_len = 460
osd_max_object_namespace_len = 64
[client.rgw.a]
rgw_data = {folder}/rgw
rgw_frontends = beast endpoint=127.0.0.1:{port}
rgw_dns_name = localhost
rgw_enable_usage_log = false
rgw_run_sync_thread = false
rgw_thread_pool_size = 16
# A day lasts this many seconds for lifecycle rules, which else nobody could wait for.
rgw_lc_debug_interval = {lifecycle_day_s}
# Quotas are looked at with each put, not once a while.
rgw_bucket_quota_ttl = 0
rgw_user_quota_bucket_sync_interval = 0
"""


class Ceph(Server):
    """Checks signatures, users' and buckets' policies with their conditions; has versions, locks, lifecycle and quotas."""

    name = "ceph"
    lifecycle_day_s = 2
    is_ceph = True
    create_only = "without effect"

    def __init__(self, folder):
        missing = [program for program in PROGRAMS if not shutil.which(program)]
        if missing:
            raise Unavailable(f"{', '.join(missing)} not installed: apt-get install ceph-mon ceph-osd radosgw ceph-common")
        self.folder, self.daemons = folder, []
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        for name in ("run", "log", "mon", "osd", "rgw"):
            (folder / name).mkdir()
        self.environment_of_daemons = {**os.environ, "CEPH_CONF": str(folder / "ceph.conf")}
        try:
            self.start()
            self.make_users()
        except BaseException:
            self.stop()
            raise

    def run(self, *command):
        ran = subprocess.run(command, env=self.environment_of_daemons, capture_output=True, text=True, timeout=120)
        if ran.returncode:
            raise RuntimeError(f"{' '.join(command)}: {ran.stdout}{ran.stderr}")
        return ran.stdout

    def daemon(self, *command):
        log = open(self.folder / "log" / (command[0] + ".out"), "wb")
        # In the foreground, so that it is this process's own child.
        self.daemons.append(subprocess.Popen(
            (*command, "-f"), env=self.environment_of_daemons, stdout=log, stderr=log, stdin=subprocess.DEVNULL))
        log.close()

    def start(self):
        fsid, mon_port, keys = str(uuid.uuid4()), free_port(), str(self.folder / "keyring")
        (self.folder / "ceph.conf").write_text(CONF.format(
            fsid=fsid, mon_port=mon_port, port=self.port, folder=self.folder, lifecycle_day_s=self.lifecycle_day_s))
        self.run("ceph-authtool", "-C", keys, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        self.run("ceph-authtool", keys, "--gen-key", "-n", "client.admin", "--cap", "mon", "allow *", "--cap", "osd", "allow *")
        map_of_monitors = str(self.folder / "monmap")
        self.run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v1:127.0.0.1:{mon_port}]", map_of_monitors)
        self.run("ceph-mon", "--mkfs", "-i", "a", "--monmap", map_of_monitors, "--keyring", keys)
        self.daemon("ceph-mon", "-i", "a")
        name = str(uuid.uuid4())
        self.run("timeout", "30", "ceph", "osd", "new", name)
        self.run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", name)
        self.daemon("ceph-osd", "-i", "0")
        wait_for(self.is_osd_up, "Ceph's object store")
        self.daemon("radosgw", "-n", "client.rgw.a")
        wait_for(answers(self.endpoint), "the RADOS gateway")

    def is_osd_up(self):
        if self.daemons[-1].poll() is not None:
            # Without authentication it now and then meets itself under the address of before.
            self.daemons.pop()
            self.daemon("ceph-osd", "-i", "0")
        return "1 up" in self.run("ceph", "osd", "stat")

    def make_users(self):
        self.admin_key = self.user("admin")
        self.run("radosgw-admin", "caps", "add", "--uid=admin", "--caps=user-policy=*")
        self.worker = self.user("worker")
        self.admin = self.s3(self.admin_key)
        self.iam = client("iam", self.endpoint, self.admin_key)
        # Objects belong to whoever stores them, not to whom the bucket belongs to.
        everything = {"Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
        self.iam.put_user_policy(UserName="admin", PolicyName="p", PolicyDocument=as_text(everything))

    def user(self, name):
        made = json.loads(self.run("radosgw-admin", "user", "create", f"--uid={name}", f"--display-name={name}"))
        return made["keys"][0]["access_key"], made["keys"][0]["secret_key"]

    def grant(self, policy):
        """The one key under test may do exactly this from now on."""
        self.iam.put_user_policy(UserName="worker", PolicyName="p", PolicyDocument=as_text(policy))
        return self.worker

    def limit_objects(self, bucket, n):
        """A quota on the bucket, as its administrator sets it."""
        self.run("radosgw-admin", "quota", "set", "--quota-scope=bucket", f"--bucket={bucket}", f"--max-objects={n}")
        self.run("radosgw-admin", "quota", "enable", "--quota-scope=bucket", f"--bucket={bucket}")

    def version(self):
        return self.run("radosgw", "--version").split("(")[0].strip()

    def stop(self):
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in reversed(self.daemons):
            try:
                daemon.wait(timeout=10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
