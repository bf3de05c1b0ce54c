"""Ceph's RADOS gateway: a monitor, one OSD and the gateway on loopback, without systemd and without /etc/ceph."""
import pathlib, subprocess, uuid

from servers.driver import BUCKET, Failed, Server, check, first_line, free_port, listens, wait_until

CONFIG = """\
[global]
fsid = {fsid}
mon_host = v1:127.0.0.1:{mon_port}
public_network = 127.0.0.0/8
ms_bind_msgr2 = false
ms_bind_ipv6 = false
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
auth_allow_insecure_global_id_reclaim = false
keyring = {place}/keyring
run_dir = {place}/run
admin_socket = {place}/run/$name.asok
pid_file =
log_file = {place}/$name.log
crash_dir = {place}/run
log_to_stderr = false
err_to_stderr = false
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pgp_num = 8
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
mon_data_avail_warn = 1
mon_data_avail_crit = 1
paxos_propose_interval = 0.05
[mon]
mon_data = {place}/mon
mon_initial_members = a
[osd]
osd_data = {place}/osd
osd_objectstore = bluestore
bluestore_block_size = 8589934592
bluestore_fsck_on_mount = false
osd_memory_target = 939524096
[client.rgw.a]
rgw_data = {place}/rgw
rgw_frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw_enable_usage_log = false
rgw_run_sync_thread = false
rgw_thread_pool_size = 64
"""


class Ceph(Server):
    name, title = "ceph-rgw", "Ceph RADOS gateway"
    get = "apt-get install -y --no-install-recommends ceph-mon ceph-osd radosgw ceph-common"
    programs = ("ceph", "ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "monmaptool", "ceph-authtool")
    front, back = "radosgw", "ceph-osd"
    note = "one monitor, one OSD on BlueStore in a sparse file, one gateway (beast)"

    def version(self):
        return first_line("radosgw", "--version").removeprefix("ceph version ").split()[0]

    def tool(self, *command):
        """One of Ceph's own programs, to its end."""
        ran = subprocess.run([*map(str, command), "-c", self.config], capture_output=True, text=True, timeout=120)
        check(ran.returncode == 0, f"{command[0]} {command[1]} ended with {ran.returncode}: {ran.stderr[-600:]}")
        return ran.stdout

    def start(self):
        self.config, self.mon_port = self.place / "ceph.conf", free_port()
        self.fsid, self.osd_uuid = uuid.uuid4(), uuid.uuid4()
        for name in ("run", "mon", "osd", "rgw"):
            pathlib.Path(self.place / name).mkdir()
        self.config.write_text(CONFIG.format(fsid=self.fsid, mon_port=self.mon_port, port=self.port, place=self.place))
        self.make_monitor()
        self.serve_monitor()
        self.tool("ceph", "osd", "new", self.osd_uuid)
        self.tool("ceph-osd", "-i", 0, "--mkfs", "--osd-uuid", self.osd_uuid)
        self.serve_osd()
        self.user("test", self.access, self.secret)
        self.serve_gateway()
        self.client().make_bucket(BUCKET)

    def make_monitor(self):
        keyring, map = self.place / "keyring", self.place / "monmap"
        self.tool("ceph-authtool", "-C", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        self.tool("ceph-authtool", keyring, "--gen-key", "-n", "client.admin", "--cap", "mon", "allow *",
                  "--cap", "osd", "allow *", "--cap", "mgr", "allow *")
        self.tool("monmaptool", "--create", "--clobber", "--fsid", self.fsid, "--addv", "a",
                  f"[v1:127.0.0.1:{self.mon_port}]", map)
        self.tool("ceph-mon", "--mkfs", "-i", "a", "--monmap", map, "--keyring", keyring)

    def user(self, name, access, secret):
        self.tool("radosgw-admin", "user", "create", f"--uid={name}", f"--display-name={name}",
                  f"--access-key={access}", f"--secret-key={secret}")

    def serve_monitor(self):
        self.launch("ceph-mon", ["ceph-mon", "-f", "-i", "a", "-c", self.config])
        wait_until(lambda: listens(self.mon_port), "the monitor listens")

    def serve_osd(self):
        """Until the monitor has seen it up again, its old self may count as up: so it is asked for its own word."""
        self.launch("ceph-osd", ["ceph-osd", "-f", "-i", "0", "-c", self.config])

        def is_up():
            if self.processes["ceph-osd"].poll() is not None:
                # Without authentication, rarely: it asks before the monitor has a map, and ends.
                self.launch("ceph-osd", ["ceph-osd", "-f", "-i", "0", "-c", self.config])
            try:
                return '"state": "active"' in self.tool("ceph", "daemon", self.place / "run/osd.0.asok", "status")
            except Failed:
                return False
        wait_until(is_up, "the OSD is up")

    def serve_gateway(self):
        self.launch("radosgw", ["radosgw", "-f", "-n", "client.rgw.a", "-c", self.config])
        self.wait_for_port("radosgw")

    def serve(self):
        if "ceph-mon" not in self.processes:
            self.serve_monitor()
        if "ceph-osd" not in self.processes:
            self.serve_osd()
        if "radosgw" not in self.processes:
            self.serve_gateway()

    def answers(self):
        return super().answers() and [p.poll() for p in self.processes.values()] == [None] * 3

    def policed(self):
        """Accounts that may only put, and only get and list, by a policy of the bucket."""
        from servers.policy import bucket_policy
        accounts = {name: (f"AK{name.upper()}0001", self.secret[::-1] + name) for name in ("putter", "getter")}
        for name, (access, secret) in accounts.items():
            self.user(name, access, secret)
        self.client().ask("PUT", BUCKET, {"policy": ""}, bucket_policy("arn:aws:iam:::user/"))
        return accounts
