"""The target's age: none while the source is idle, growing when anything is stuck."""

from __future__ import annotations

from pipeline.freshness import GRACE_US, REPORTS_MAX, Freshness

S = 1_000_000


def test_nothing_is_known_before_a_capture_has_spoken() -> None:
    fresh = Freshness()
    fresh.note_applied((1, 5), 0)
    assert fresh.age_us(10 * S) is None


def test_an_idle_source_is_fresh_however_old_its_last_commit() -> None:
    fresh = Freshness()
    for second in range(1, 1000):
        fresh.note_captured((1, 5), 1 * S, second * S)
        fresh.note_applied((1, 5), 0)
        assert fresh.age_us(second * S) == 0
        assert fresh.age_us(second * S + GRACE_US) == 0


def test_a_capture_that_has_died_makes_the_age_grow() -> None:
    fresh = Freshness()
    fresh.note_captured((1, 5), 1 * S, 2 * S)
    fresh.note_applied((1, 5), 0)
    assert [fresh.age_us(second * S) for second in (5, 6, 60)] == [0, 4 * S, 58 * S]


def test_the_age_is_that_of_the_oldest_transaction_at_work() -> None:
    fresh = Freshness()
    fresh.note_captured((1, 9), 50 * S, 60 * S)
    fresh.note_applied((1, 5), 40 * S)
    assert fresh.age_us(61 * S) == 21 * S


def test_a_planner_that_has_died_makes_the_age_grow_from_what_was_captured_since() -> None:
    fresh = Freshness()
    fresh.note_captured((1, 5), 1 * S, 2 * S)
    fresh.note_applied((1, 5), 0)
    for second in range(3, 20):
        fresh.note_captured((1, 5 + second), second * S, second * S)
    assert fresh.age_us(20 * S) == 17 * S
    fresh.note_applied((1, 22), 0)
    assert fresh.age_us(20 * S) == 2 * S, "position 23 was committed at 18 s"


def test_memory_is_bounded_and_the_oldest_is_kept() -> None:
    fresh = Freshness()
    for second in range(1, 5 * REPORTS_MAX):
        fresh.note_captured((1, second), second * S, second * S)
    assert fresh.age_us(6 * REPORTS_MAX * S) == (6 * REPORTS_MAX - 1) * S
    assert len(fresh._ahead) <= REPORTS_MAX


def test_a_new_generation_is_ahead_of_any_position_of_the_old_one() -> None:
    fresh = Freshness()
    fresh.note_captured((1, 500), 1 * S, 1 * S)
    fresh.note_applied((1, 500), 0)
    fresh.note_captured((2, 1), 2 * S, 2 * S)
    assert fresh.age_us(10 * S) == 8 * S
    fresh.note_applied((2, 1), 0)
    assert fresh.age_us(3 * S) == 0
