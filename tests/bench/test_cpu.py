import os
import time

from exfm_bench.cpu import CpuClock


def test_work_is_counted_and_sleep_is_not() -> None:
    began = CpuClock.read([os.getpid()])
    time.sleep(0.2)
    slept = CpuClock.read([os.getpid()])
    give_up_s = time.process_time() + 0.2
    while time.process_time() < give_up_s:
        pass
    worked = CpuClock.read([os.getpid()])
    assert slept.since(began).processes_s[0] < 0.1
    assert worked.since(slept).processes_s[0] > 0.19
    assert worked.since(slept).machine_s > 0.1
