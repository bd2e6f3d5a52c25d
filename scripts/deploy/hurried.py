"""Prints deploy/prometheus/alerts.yaml with each time divided by FACTOR. With factor 60, half an
hour becomes half a minute. A result of less than 1 s becomes 1 s. The script changes the pending
times (`for`), the ranges (`[15m]`, `[16m:2m]`, `offset 15m`), and ages of 100 seconds or more. It
fails if it finds fewer times of a kind than expected, or if a time in minutes or hours is left.

    hurried.py FACTOR
"""

import re
import sys

FACTOR = int(sys.argv[1])
UNITS = {"s": 1, "m": 60, "h": 3600}


def shorter(seconds):
    return f"{max(1, round(seconds / FACTOR))}s"


def time(match):
    before, number, unit, after = match.groups()
    return f"{before}{shorter(int(number) * UNITS[unit])}{after}"


with open("deploy/prometheus/alerts.yaml", encoding="utf-8") as file:
    text = file.read()
found = {}
text, found["for"] = re.subn(r"(\n +for: )(\d+)([smh])(\n)", time, text)
text, found["range"] = re.subn(r"(\[)(\d+)([smh])(\])", time, text)
text, found["window"] = re.subn(
    r"\[(\d+)([smh]):(\d+)([smh])\]",
    lambda match: f"[{shorter(int(match[1]) * UNITS[match[2]])}:{shorter(int(match[3]) * UNITS[match[4]])}]",
    text,
)
text, found["offset"] = re.subn(r"(offset )(\d+)([smh])(\))", time, text)
text, found["age"] = re.subn(r"([<>] )(\d{3,})\b", lambda match: f"{match[1]}{max(1, round(int(match[2]) / FACTOR))}", text)
for what, least in {"for": 7, "range": 7, "window": 1, "offset": 1, "age": 3}.items():
    assert found[what] >= least, f"{what}: {found}"
assert not re.search(r"\b\d+[mh]\b", "\n".join(line for line in text.splitlines() if re.search(r"^ +(expr|for|and|or|unless|time|count|max|sum|>)", line))), text
print(text, end="")
