"""Samples of a process: this one, whose descriptors and memory the test can change."""

import os
import time
from pathlib import Path

import pytest

from loadtests.soak.sampler import Sampler, sample


def test_descriptors_and_memory_are_seen(tmp_path: Path) -> None:
    before = sample(os.getpid(), pss=True)
    with (tmp_path / "a").open("w"), (tmp_path / "b").open("w"):
        block = bytearray(os.urandom(1024)) * 40_000  # 40 MB, written to
        after = sample(os.getpid(), pss=False)
    assert after.descriptors == before.descriptors + 2
    assert after.rss_bytes - before.rss_bytes > len(block) / 2
    assert before.pss_bytes is not None and 0 < before.pss_bytes <= before.rss_bytes * 1.1
    assert after.pss_bytes is None
    assert after.threads >= 1 and after.cpu_s >= before.cpu_s


def test_a_process_that_is_gone() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    with pytest.raises(OSError, match="No such"):
        sample(pid, pss=False)


def test_pss_is_read_now_and_then_only() -> None:
    with Sampler(os.getpid(), 0.01, 3) as sampler:
        while len(sampler.samples) < 7:
            time.sleep(0.01)
    found = [each.pss_bytes is not None for each in sampler.samples]
    assert found[:7] == [True, False, False, True, False, False, True]
