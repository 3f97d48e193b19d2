"""What `headrace dead-letters show` prints."""

from __future__ import annotations

from dataclasses import replace

from connectors.dead_letters import ChangeText
from headrace.dead_letter_text import letter_text
from schemas.dead_letter import DeadLetter

ERROR = 'target db.example/shop: applying position 42: new row violates check constraint "unlucky"'
LETTER = DeadLetter(
    "shop", 1, 42, 731, 1_764_374_400_000_000, 1_764_374_401_500_000, "23514", ERROR, behind=[], batch=b""
)  # fmt: skip
CHANGES = [
    ChangeText("INSERT", "public.log", {}, {"n": "1", "note": None}),
    ChangeText("UPDATE", "public.t", {"id": "1"}, {"id": "1", "value": "13", "note": "NULL"}),
    ChangeText("DELETE", "public.t", {"id": "2"}, {}),
    ChangeText("TRUNCATE", "public.log", {}, {}),
]


def test_a_letter_that_was_refused() -> None:
    assert (
        letter_text(LETTER, CHANGES)
        == f"""\
dead letter: stream shop, position 42, source transaction 731
committed:   2025-11-29T00:00:00.000+00:00
set aside:   2025-11-29T00:00:01.500+00:00
error:       {ERROR} (SQLSTATE 23514)

4 changes, in order:
  INSERT public.log
      n     1
      note  NULL
  UPDATE public.t, where id is 1
      id     1
      value  13
      note   "NULL"
  DELETE public.t
      id  2
  TRUNCATE public.log

Correct on the target what the error names, then apply it, and what waits for it:
  headrace dead-letters replay
To leave it out for good (the target never gets it, and later transactions no longer wait for it):
  headrace dead-letters discard --position 42"""
    )


def test_a_letter_behind_others() -> None:
    text = letter_text(replace(LETTER, behind=[40, 41]), CHANGES[:1])
    assert "waits for:   the dead letters at 40, 41\n" in text
    assert "1 change:\n" in text
    assert "settle 40, 41 first" in text
    assert "Correct on the target" not in text


def test_values_are_one_line_and_not_endless() -> None:
    values = {"lines": "a\nb", "empty": "", "long": "x" * 5000, "accents": "Zürich"}
    text = letter_text(LETTER, [ChangeText("INSERT", "public.t", {}, dict(values))])
    lines = [line.split(maxsplit=1)[1] for line in text.splitlines() if line.startswith("      ")]
    assert lines == ['"a\\nb"', '""', f"{'x' * 200}... (5,000 characters)", "Zürich"]
