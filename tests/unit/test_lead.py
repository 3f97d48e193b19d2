"""How far Kafka is ahead of the target: counted to a step, and of records from before by their mean size."""

from __future__ import annotations

import random

from pipeline.lead import STEP_BYTES, Lead


def test_the_lead_is_what_was_sent_and_not_applied_within_a_step() -> None:
    rng, lead, sizes, applied = random.Random(1), Lead(), list[int](), 0
    for offset in range(2000):
        sizes.append(rng.choice([300, 5000, 900_000]))
        lead.sent(offset, sizes[-1])
        applied = max(applied, offset - rng.randint(0, 300))
        lead.applied(applied)
        exact = sum(sizes[applied:])
        assert exact <= lead.bytes < exact + STEP_BYTES + 900_000
    lead.applied(2000)
    assert lead.bytes < STEP_BYTES


def test_memory_goes_by_bytes_and_not_by_records() -> None:
    lead = Lead()
    lead.applied(0)
    for offset in range(100_000):
        lead.sent(offset, 100)
    assert lead.bytes == 10_000_000
    assert len(lead._steps) <= 10


def test_records_from_before_count_once_the_ledger_has_answered() -> None:
    lead = Lead()
    lead.sent(500, 1000)
    assert lead.bytes == 0, "a target that can't be asked must not stop the capture for ever"
    lead.applied(100)
    assert lead.bytes == 1000 + 400 * 1000
    lead.applied(500)
    assert lead.bytes == 1000


def test_nothing_sent_is_no_lead() -> None:
    lead = Lead()
    lead.applied(7)
    assert lead.bytes == 0
