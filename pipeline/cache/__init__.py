"""The row cache: blocks of row images that stand for a position of their stream. Pure; time is an argument."""
