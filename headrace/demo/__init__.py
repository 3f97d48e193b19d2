"""`headrace demo`: a live workload replicated between two PostgreSQL servers, with a crash on the way."""
