"""Causes the condition of each alert, and waits until the receiver is notified that the alert
fires. Then ends the cause, and waits until the receiver is notified that the alert is resolved.

    alertmanager.py BACKFILLD FOLDER PRIMARY STANDBY DEMO

FOLDER contains alerts.yaml. PRIMARY and STANDBY are connection strings of the owner. DEMO is the URL
of the status page of the demo's daemon, which this script stops.
"""

import http.server
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

BACKFILLD, FOLDER, PRIMARY, STANDBY, DEMO = sys.argv[1:]
SOON = 90
ALERTS = re.findall(r"- alert: (\w+)", open("deploy/prometheus/alerts.yaml", encoding="utf-8").read())

arrived = []  # (receiver, status, alert)
go = True


class Receiver(http.server.BaseHTTPRequestHandler):
    """Receives the notifications of Alertmanager, and serves a custom HTTP signal at /signal."""

    def do_POST(self):
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        for alert in message["alerts"]:
            arrived.append((self.path.strip("/"), alert["status"], alert))
        self.send_response(200)
        self.end_headers()

    def do_GET(self):
        self.send_response(200 if go else 429)
        self.end_headers()

    def log_message(self, *_):
        pass


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def sql(text, url=PRIMARY):
    done = subprocess.run(["psql", "-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", url, "-c", text], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{text}\n{done.stderr}"
    return done.stdout.strip()


def superuser(text, url):
    return sql(text, url.replace("//owner@", "//postgres@"))


def until(what, is_so):
    end = time.monotonic() + SOON
    while time.monotonic() < end:
        try:
            if is_so():
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"not within {SOON} s: {what}; arrived: {[(status, alert['labels']) for _, status, alert in arrived]}")


def is_up(url):
    with urllib.request.urlopen(url, timeout=2) as answer:
        return answer.status == 200


ours = []


def start(command, **more):
    log = open(os.path.join(FOLDER, f"log{len(ours)}"), "wb")
    process = subprocess.Popen(command, stdout=log, stderr=log, **more)
    ours.append(process)
    return process


class Daemon:
    def __init__(self, name, workers):
        self.port = free_port()
        self.config = os.path.join(FOLDER, f"{name}.yaml")
        with open(self.config, "w", encoding="utf-8") as file:
            file.write(f"""
http: {{listen: "127.0.0.1:{self.port}"}}
lease: {{ttl_seconds: 2, heartbeat_seconds: 0.5, poll_ms: 200}}
databases:
  - name: main
    url: {PRIMARY}
    workers: {workers}
    replicas: [{{match: "*", max_lag_seconds: 1, required: true}}]
    signals:
      - {{name: gate, http: "http://127.0.0.1:{receiver_port}/signal", interval_seconds: 1}}
      - {{name: probe_latency, limit: 1000}}
      - {{name: active_sessions, limit: 1000}}
      - {{name: slot, limit: 64000000}}
""")
        self.process = None

    def start(self):
        self.process = start([BACKFILLD, "run", "--config", self.config])
        until("the daemon is ready", lambda: is_up(f"http://127.0.0.1:{self.port}/readyz"))

    def signal(self, number):
        self.process.send_signal(number)
        if number == signal.SIGKILL:
            self.process.wait()


def awaits(name, status, since, **labels):
    """Waits until the receiver gets an alert with this name, status and labels, and returns the alert."""
    found = []

    def is_there():
        for receiver, how, alert in arrived[since:]:
            if how == status and alert["labels"]["alertname"] == name and labels.items() <= alert["labels"].items():
                found.append((receiver, alert))
                return True
        return False

    until(f"{name} is {status} at the receiver, with {labels}", is_there)
    receiver, alert = found[0]
    assert receiver == {"critical": "pager", "warning": "tickets"}[alert["labels"]["severity"]], alert
    runbook = alert["annotations"]["runbook_url"].rsplit("/", 1)[-1]
    assert os.path.exists(os.path.join("deploy/runbooks", runbook)), alert
    assert alert["annotations"]["summary"] and "<no value>" not in alert["annotations"]["summary"], alert
    return alert


seen, ended = set(), set()


def fires(name, **labels):
    alert = awaits(name, "firing", 0, **labels)
    seen.add(name)
    print(f"passed   {name}: {alert['annotations']['summary']}", flush=True)
    return alert


def ends(name, since, **labels):
    awaits(name, "resolved", since, **labels)
    ended.add(name)


receiver = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
receiver_port = receiver.server_address[1]
threading.Thread(target=receiver.serve_forever, daemon=True).start()
prometheus_port, alertmanager_port = free_port(), free_port()
one, other = Daemon("one", 8), Daemon("other", 2)

with open("deploy/prometheus/alertmanager.yaml", encoding="utf-8") as file:
    routing = file.read()
routing, replaced = re.subn(r"http://127\.0\.0\.1:9099/", f"http://127.0.0.1:{receiver_port}/", routing)
assert replaced == 2
routing, replaced = re.subn(r"(group_wait|group_interval): \w+", r"\1: 1s", routing)
assert replaced == 2
with open(os.path.join(FOLDER, "alertmanager.yml"), "w", encoding="utf-8") as file:
    file.write(routing)
with open(os.path.join(FOLDER, "prometheus.yml"), "w", encoding="utf-8") as file:
    file.write(f"""
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ["{FOLDER}/alerts.yaml"]
alerting: {{alertmanagers: [{{static_configs: [{{targets: ["127.0.0.1:{alertmanager_port}"]}}]}}]}}
scrape_configs:
  - job_name: backfilld
    static_configs: [{{targets: ["127.0.0.1:{one.port}", "127.0.0.1:{other.port}"]}}]
""")

try:
    demo = json.load(urllib.request.urlopen(f"{DEMO}/status.json", timeout=5))["databases"][0]["workers"][0]["pid"]
    os.kill(demo, signal.SIGTERM)
    sql("""create table t (id int primary key, n int not null default 0); insert into t select generate_series(1, 200000);
           create table slow (like t including all); insert into slow select * from t;
           create table bad (id int primary key, code text, n int); insert into bad select i, case when i = 7 then 'x' else i::text end from generate_series(1, 500) i""")
    one.start()
    start([os.environ["ALERTMANAGER"], f"--config.file={FOLDER}/alertmanager.yml", f"--storage.path={FOLDER}/am", f"--web.listen-address=127.0.0.1:{alertmanager_port}", "--cluster.listen-address="])
    start(["prometheus", f"--config.file={FOLDER}/prometheus.yml", f"--storage.tsdb.path={FOLDER}/data", f"--web.listen-address=127.0.0.1:{prometheus_port}"])
    until("Alertmanager is ready", lambda: is_up(f"http://127.0.0.1:{alertmanager_port}/-/ready"))
    until("Prometheus is ready", lambda: is_up(f"http://127.0.0.1:{prometheus_port}/-/ready"))

    # The daemon is killed. One kill does not count as flapping, even if the daemon held eight
    # slices. Repeated kills count as flapping.
    sql("""select backfill.enqueue('wide', 't', 'n = n + 1', options => '{"slices": 8, "max_rows_per_second": 400, "max_batch_rows": 10}')""")
    until("the job runs with eight slices", lambda: sql("select count(*) from backfill.slices where holder is not null") == "8")
    one.signal(signal.SIGKILL)
    fires("BackfilldDown")
    since = len(arrived)
    one.start()
    ends("BackfilldDown", since)
    until("the daemon has taken over its slices", lambda: sql("select count(*) from backfill.events where kind = 'takeover'") != "0")
    time.sleep(5)
    assert not [alert for _, _, alert in arrived if alert["labels"]["alertname"] == "BackfilldLeasesFlapping"], arrived
    for _ in range(5):
        one.signal(signal.SIGKILL)
        one.start()
        time.sleep(1.5)  # Prometheus must scrape the daemon at least once.
    fires("BackfilldLeasesFlapping", instance=f"127.0.0.1:{one.port}")
    sql("select backfill.cancel('wide')")

    # Two slow jobs with a deadline keep both workers of daemon `other` busy, so the third job waits
    # in the queue.
    one.signal(signal.SIGTERM)
    one.process.wait(30)
    other.start()
    sql("""select backfill.enqueue('busy' || n, 'slow', 'n = n + ' || n, 'id % 2 = ' || n - 1, options => jsonb_build_object(
             'max_rows_per_second', 20, 'max_batch_rows', 2, 'deadline', now() + interval '1 minute')) from generate_series(1, 2) n""")
    until("both jobs run", lambda: sql("select count(*) from backfill.jobs where state = 'running' and rows_changed > 0") == "2")
    sql("select backfill.enqueue('third', 't', 'n = n + 1')")
    fires("BackfilldPastDeadline", database="main", job_name="busy1")
    fires("BackfilldQueueOld", database="main")

    # The daemon `other` is stopped by SIGSTOP. The daemon `one` runs, but its only worker is busy,
    # so it cannot take over the slices.
    sql("select backfill.cancel('third')")
    ends("BackfilldQueueOld", 0)
    ends("BackfilldLeasesFlapping", 0)
    with open(one.config, encoding="utf-8") as file:
        looks_on = file.read().replace("workers: 8", "workers: 1")
    with open(one.config, "w", encoding="utf-8") as file:
        file.write(looks_on)
    one.start()
    sql("""select backfill.enqueue('its-own', 't', 'n = n + 2', options => '{"max_rows_per_second": 20, "max_batch_rows": 2}')""")
    until("the job its-own runs", lambda: sql("select count(*) from backfill.jobs where state = 'running' and rows_changed > 0") == "3")
    other.signal(signal.SIGSTOP)
    fires("BackfilldNoProgress", database="main", job_name="busy2")
    since = len(arrived)
    other.signal(signal.SIGCONT)
    ends("BackfilldNoProgress", since, job_name="busy2")

    # A custom signal holds all jobs.
    go = False
    fires("BackfilldHeldLong", database="main", job_name="its-own", waiting_reason="signal")
    since = len(arrived)
    go = True
    ends("BackfilldHeldLong", since, job_name="its-own")
    since = len(arrived)
    sql("select backfill.cancel(name) from backfill.jobs where state = 'running'")
    ends("BackfilldPastDeadline", since, job_name="busy1")

    # A job has a row that cannot be changed.
    sql("select backfill.enqueue('bad', 'bad', 'n = code::int')")
    fires("BackfilldRowsQuarantined", database="main", job_name="bad")
    fires("BackfilldJobFailed", database="main", job_name="bad")
    sql("select backfill.forget('bad')")
    ends("BackfilldJobFailed", 0, job_name="bad")
    ends("BackfilldRowsQuarantined", 0, job_name="bad")

    # A row violates the constraint of a rollout, so the rollout fails.
    sql("create table few (id int primary key)")
    sql("insert into few values (1)")
    sql("""select backfill.rollout_start('{"rollout": "stuck", "table": "few", "add_column": {"name": "c", "type": "int", "default": 1, "check": "c > 1"}}')""")
    fires("BackfilldRolloutStuck", database="main", rollout="stuck")
    since = len(arrived)
    sql("select backfill.rollout_rollback('stuck')")
    ends("BackfilldRolloutStuck", since)

    # A standby stops replaying WAL. While the alert for the standby fires, Alertmanager inhibits
    # the alert for the job that waits for the standby.
    sql("""select backfill.enqueue('lagging', 't', 'n = n + 3', options => '{"max_rows_per_second": 200, "max_batch_rows": 20}')""")
    # Without this setting, the statement that resumes the replay could conflict with WAL that is
    # not replayed yet, and the standby would cancel the statement.
    superuser("alter system set max_standby_streaming_delay = -1", STANDBY)
    superuser("select pg_reload_conf()", STANDBY)
    superuser("select pg_wal_replay_pause()", STANDBY)
    before = len(arrived)
    fires("BackfilldLagAboveLimit", database="main", replica="standby")
    until("the job lagging is held", lambda: sql("select waiting_reason from backfill.jobs where name = 'lagging'") == "replica_lag")
    time.sleep(40)
    told = [alert["labels"] for _, status, alert in arrived[before:] if status == "firing" and alert["labels"]["alertname"] == "BackfilldHeldLong"]
    assert not told, told
    silenced = json.load(urllib.request.urlopen(f"http://127.0.0.1:{alertmanager_port}/api/v2/alerts?filter=alertname=BackfilldHeldLong", timeout=5))
    assert [alert["status"]["state"] for alert in silenced if alert["labels"]["job_name"] == "lagging"] == ["suppressed"], silenced
    print("passed   the alert of the held job is suppressed while the alert of the replica fires", flush=True)
    since = len(arrived)
    superuser("select pg_wal_replay_resume()", STANDBY)
    ends("BackfilldLagAboveLimit", since)

    # A slot without a consumer retains WAL.
    superuser("select pg_create_physical_replication_slot('consumer', true)", PRIMARY)
    superuser("select count(pg_logical_emit_message(false, 'wal', repeat(md5(n::text), 31250))) from generate_series(1, 80) n", PRIMARY)
    fires("BackfilldBudgetExceeded", database="main", signal="slot", source="consumer")
    since = len(arrived)
    superuser("select pg_drop_replication_slot('consumer')", PRIMARY)
    ends("BackfilldBudgetExceeded", since)

    # The standby disappears and returns.
    pid = int(open(os.path.join(superuser("show data_directory", STANDBY), "postmaster.pid"), encoding="utf-8").readline())
    command = open(f"/proc/{pid}/cmdline", "rb").read().rstrip(b"\0").split(b"\0")
    place, owner = os.readlink(f"/proc/{pid}/cwd"), os.stat(f"/proc/{pid}")
    os.kill(pid, signal.SIGINT)
    fires("BackfilldReplicaMissing", database="main")
    since = len(arrived)
    as_its_owner = {"user": owner.st_uid, "group": owner.st_gid} if os.getuid() == 0 else {}
    start(command, cwd=place, **as_its_owner)
    ends("BackfilldReplicaMissing", since)

    # The daemons run, but the database refuses their login.
    superuser("alter role owner nologin", PRIMARY)
    superuser("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'owner'", PRIMARY)
    fires("BackfilldDatabaseUnserved", database="main")
    since = len(arrived)
    superuser("alter role owner login", PRIMARY)
    ends("BackfilldDatabaseUnserved", since)

    assert seen == ended == set(ALERTS), (set(ALERTS) ^ seen, set(ALERTS) ^ ended)
    print(f"passed   {len(seen)} of {len(ALERTS)} alerts: the receiver got each alert as firing, and then as resolved")
except BaseException:
    for number in range(len(ours)):
        tail = open(os.path.join(FOLDER, f"log{number}"), encoding="utf-8", errors="replace").read()[-1500:]
        print(f"--- {ours[number].args[0]}\n{tail}", file=sys.stderr)
    raise
finally:
    for process in ours:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
    for process in ours:
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
    receiver.shutdown()
