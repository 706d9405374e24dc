"""What is seen of a test, and the page that tells of it."""

import base64
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.loadtests.locust.away import python

METRICS = """# TYPE process_cpu_seconds counter
process_cpu_seconds_total 12.5
process_resident_memory_bytes 1.5e+08
serving_queue_rows{model="m",version="1"} 3.0
serving_queue_rows{model="m",version="2"} 4.0
serving_queue_rows{model="other",version="1"} 100.0
serving_in_flight_requests{model="m",version="1"} 2.0
serving_batch_rows_bucket{le="1.0",model="m",version="1"} 7.0
serving_batch_rows_count{model="m",version="1"} 10.0
serving_batch_rows_sum{model="m",version="1"} 45.0
"""

SCRAPE = """
import json, sys
from loadtests.locust.watch import Server, class_of, percentile
from collections import Counter
server = Server.of(sys.argv[1], "m")
latencies = Counter(class_of(ms) for ms in range(1, 1001))
print(json.dumps([vars(server), [percentile(latencies, share) for share in (0.5, 0.99)], percentile({}, 0.5)]))
"""

REPORT = """
import json, sys
from argparse import Namespace
from collections import Counter
from pathlib import Path
from locust import User
from locust.env import Environment
from loadtests.locust import report
from loadtests.locust.watch import Look, class_of

class Nobody(User):
    pass

environment = Environment(user_classes=[Nobody], host="http://h")
environment.create_local_runner()
for ms in (1, 2, 3):
    environment.stats.log_request("POST", "oip-json", ms, 10)
environment.stats.log_error("POST", "oip-json", ValueError("<wrong> answer"))
looks = []
for second in range(12):
    users = 4 if second < 6 else 8
    more = dict(queue_rows=1.0, in_flight=2.0, rows_per_batch=users / 2, cores=0.5) if second else {}
    looks.append(Look(second, users, 10.0 * users, 0.0, Counter({class_of(users): 10}), **more))
page = report.write_all(Path(sys.argv[1]), environment, looks, {"model": "m", "payload": "<file>"})
print(json.dumps(str(page)))
"""


def test_a_scrape() -> None:
    server, (p50, p99), nothing = python(SCRAPE, METRICS)
    assert server == {
        "cpu_s": 12.5,
        "queue_rows": 7,
        "in_flight": 2,
        "batches": 10,
        "batch_rows": 45,
        "resident_bytes": 1.5e8,
    }
    assert p50 == pytest.approx(500, rel=0.04) and p99 == pytest.approx(990, rel=0.04) and nothing is None


def test_the_page(tmp_path: Path) -> None:
    page = Path(python(REPORT, str(tmp_path))).read_text()
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(pictures) == 2
    assert all(base64.b64decode(picture).startswith(b"\x89PNG") for picture in pictures)
    assert "&lt;file&gt;" in page and "<file>" not in page
    assert "&lt;wrong&gt; answer" in page and "1 of 3 requests failed" in page
    assert Counter(re.findall(r"<tr><td>(4|8)</td>", page)) == {"4": 1, "8": 1}  # by number of users
    for name in ("locust.html", "looks.json", "summary.json"):
        assert (tmp_path / name).stat().st_size > 100
