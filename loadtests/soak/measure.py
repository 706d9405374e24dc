"""One soak: a server of our own, steady traffic, swaps, samples. Runs on the main thread."""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.soak import law
from loadtests.soak.outcomes import Record
from loadtests.soak.sampler import Sample, Sampler
from loadtests.soak.site import Site
from loadtests.soak.traffic import Traffic


@dataclass(frozen=True)
class Settings:
    """`per_s`: of each protocol. `warm_up`: the share of the time that the trends leave out."""

    seconds: float
    swap_every_s: float
    sample_every_s: float
    pss_every: int
    per_s: float
    clients: int
    warm_up: float


@dataclass(frozen=True)
class Swap:
    """`ready_s`: from its publication until it served."""

    at_s: float
    version: int
    ready_s: float


@dataclass
class Found:
    """Times on the clock of `time.monotonic`."""

    begun_s: float
    ended_s: float = 0.0
    records: list[Record] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    swaps: list[Swap] = field(default_factory=list)
    exit_code: int | None = None  # of the server, after SIGTERM
    log: str = ""  # what it logged of warnings and errors


def run(settings: Settings, directory: Path, say: Callable[[str], None], arguments: Sequence[str] = ()) -> Found:
    """Raises ProcessError, ClientError or OSError when the server does not do what it is told."""
    with Site(directory, arguments) as site:
        say("starting the server")
        site.start()
        found = Found(time.monotonic())
        end_s = found.begun_s + settings.seconds
        traffic = Traffic(site.http_port, site.grpc_port, settings.per_s, settings.clients)
        with Sampler(site.pid, settings.sample_every_s, settings.pss_every) as sampler, traffic:
            due_s = found.begun_s + settings.swap_every_s
            while due_s < end_s:
                _tell(say, traffic, found, end_s)
                time.sleep(max(0.0, due_s - time.monotonic()))
                found.swaps.append(swap(site))
                due_s += settings.swap_every_s
            _tell(say, traffic, found, end_s)
            time.sleep(max(0.0, end_s - time.monotonic()))
            found.ended_s = time.monotonic()
        found.records, found.samples = traffic.records(), sampler.samples
        say("stopping the server")
        site.signal(15)
        found.exit_code = site.wait()
        found.log = _complaints(site.log)
    return found


def swap(site: Site) -> Swap:
    """The next version comes by one rename; the one before it goes when nobody needs it any more."""
    version = law.release(site.repository)
    ready_s = site.wait_until_ready(version)
    shutil.rmtree(site.repository / law.NAME / str(version - 1))
    return Swap(time.monotonic(), version, ready_s)


def _tell(say: Callable[[str], None], traffic: Traffic, found: Found, end_s: float) -> None:
    left_s = max(0.0, end_s - time.monotonic())
    say(f"{traffic.ended} requests, {len(found.swaps)} swaps; {left_s / 60:.1f} minutes to go")


def _complaints(log: Path) -> str:
    words = ("warning", "error", "traceback", "critical")
    lines = log.read_text(errors="replace").splitlines()
    return "\n".join([line for line in lines if any(word in line.lower() for word in words)][:50])
