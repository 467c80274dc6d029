"""Ask for known advisories about the packages that requirements.lock pins.

    python .ci/audit.py [URL]

One request to OSV (https://osv.dev), which has PyPI's advisories. Where it cannot be reached within
three seconds one line says so, and nothing is checked: it is no fault of the code.
"""

import json
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path

URL = "https://api.osv.dev/v1/querybatch"
LOCK = Path(__file__).parents[1] / "requirements.lock"
SECONDS = 3.0


def main(url: str = URL) -> int:
    """Return how to exit: 1 where a package has an advisory."""
    pins = re.findall(r"^([\w.-]+)(?:\[[^]]*\])?==([^ ;\\]+)", LOCK.read_text(), re.MULTILINE)
    queries = [
        {"package": {"name": name, "ecosystem": "PyPI"}, "version": version}
        for name, version in pins
    ]
    request = urllib.request.Request(
        url, json.dumps({"queries": queries}).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            results = json.load(answer)["results"]
    except (OSError, ValueError, KeyError) as error:
        print(f"audit: no source of advisories was reached, nothing was checked ({error})")
        return 0
    bad = 0
    for (name, version), result in zip(pins, results, strict=True):
        for advisory in result.get("vulns", ()):
            print(f"{name} {version}: https://osv.dev/vulnerability/{advisory['id']}")
            bad += 1
    print(f"audit: {len(pins)} packages, {bad} advisories")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
