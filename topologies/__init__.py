"""The running stages, wired from the pieces below: no decisions of their own."""
