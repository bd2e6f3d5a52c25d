"""Decodes and encodes a dashboard with Grafana's schema (grafana-foundation-sdk), and prints what is
lost or changed, for example a misspelled key. Exits with 1 if anything is lost or changed."""

import json
import sys

import grafana_foundation_sdk.cog.plugins as plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard


def lost(before, after, path=""):
    if isinstance(before, dict):
        for key, value in before.items():
            if isinstance(after, dict) and key in after:
                yield from lost(value, after[key], f"{path}/{key}")
            elif value not in (None, {}, [], False):
                yield f"{path}/{key}"
    elif isinstance(before, list):
        for place, value in enumerate(before):
            if isinstance(after, list) and place < len(after):
                yield from lost(value, after[place], f"{path}[{place}]")
            else:
                yield f"{path}[{place}]"
    elif before != after:
        yield f"{path}: {before!r} became {after!r}"


plugins.register_default_plugins()
with open(sys.argv[1], encoding="utf-8") as file:
    dashboard = json.load(file)
found = list(lost(dashboard, json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard)))))
print("\n".join(found), end="\n" if found else "")
sys.exit(bool(found))
