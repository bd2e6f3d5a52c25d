"""Sends each expression of the dashboard and each recording rule to Prometheus as a query. Repeats
the queries until each one has returned a series, except those that may be empty. Also waits until
the alerts BackfilldJobFailed and BackfilldRowsQuarantined fire. Exits with 1 after a timeout."""

import json
import re
import sys
import time
import urllib.parse
import urllib.request

PROMETHEUS, SERVER_VERSION = sys.argv[1], int(sys.argv[2])
# The first metric has no series while no job is ready to be claimed. The second metric has no
# series until a batch has blocked a session.
MAY_BE_EMPTY = {"backfilld_oldest_queued_timestamp_seconds", "backfilld_victim_wait_seconds_bucket"}
if SERVER_VERSION < 180000:
    print("left out  WAL of a job: only PostgreSQL 18 and later measure it (PG_BINDIR=... selects another server)")
    MAY_BE_EMPTY.add("backfilld_job_wal_bytes_per_row")
SOON = 60


def get(path, **query):
    url = f"{PROMETHEUS}{path}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)["data"]


def expressions():
    with open("deploy/grafana/dashboards/backfilld.json", encoding="utf-8") as file:
        dashboard = json.load(file)
    # In the JSON, the panels of a collapsed row are inside the row object.
    panels = [panel for row in dashboard["panels"] for panel in [row, *row.get("panels", [])]]
    for panel in panels:
        for target in panel.get("targets", []):
            # With `or vector(0)`, a panel shows 0 if there is no series. The test removes this
            # part. Otherwise an expression that matches no series would pass.
            expression = target["expr"].removesuffix(" or vector(0)")
            for name, value in {"$database": ".*", "$job_name": ".*", "$__rate_interval": "10s", "$__range": "1m"}.items():
                expression = expression.replace(name, value)
            yield panel["title"], expression
    for group in get("/api/v1/rules")["groups"]:
        for rule in group["rules"]:
            if rule["type"] == "recording":
                yield rule["name"], rule["name"]


# Each metric in an expression must exist. Otherwise a misspelled name would pass in an expression
# that is allowed to return no series.
with open("docs/contract.md", encoding="utf-8") as contract:
    known = set(re.findall(r"^\| `(\w+)` \|", contract.read().split("\n## Metrics\n")[1], re.M))
for title, expression in expressions():
    for name in re.findall(r"(?<!:)\bbackfilld_(\w+)", expression):
        if ":" not in expression and name not in known and re.sub("_(bucket|sum|count)$", "", name) not in known:
            sys.exit(f"{title}: there is no metric backfilld_{name}: {expression}")


def may_be_empty(expression):
    return bool(MAY_BE_EMPTY & set(re.findall(r"backfilld_\w+", expression)))


deadline = time.monotonic() + SOON
waiting = list(expressions())
asked = len(waiting)
fired = False
while waiting or not fired:
    # An expression with a syntax error raises an exception here.
    waiting = [(title, e) for title, e in waiting if not get("/api/v1/query", query=e)["result"] and not may_be_empty(e)]
    alerts = {alert["labels"]["alertname"] for alert in get("/api/v1/alerts")["alerts"] if alert["state"] == "firing"}
    fired = {"BackfilldJobFailed", "BackfilldRowsQuarantined"} <= alerts
    if time.monotonic() > deadline:
        for title, expression in waiting:
            print(f"no series: {title}: {expression}")
        if not fired:
            print(f"firing: {sorted(alerts)}; expected BackfilldJobFailed and BackfilldRowsQuarantined")
        sys.exit(1)
    time.sleep(1)
print(f"{asked} expressions")
