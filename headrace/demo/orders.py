"""One session of the order-taking application: seeded transactions, one round trip each."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence

import psycopg
from psycopg.types.json import Jsonb

from headrace.demo.schema import CUSTOMERS, HOT_COUNTER, PRODUCTS

OPEN_ORDERS_MAX = 50  # of a session, to ship or to cancel later
LINES_MAX = 4
HOT_SHARE = 0.3  # of the orders that write the counter all sessions share
Statement = tuple[str, Sequence[object]]


class OrderSession:
    """Session `number` of `sessions`: its ids are its own, so no transaction has to ask for one."""

    def __init__(self, dsn: str, number: int, sessions: int, seed: int) -> None:
        self._conn = psycopg.connect(dsn, autocommit=True, application_name="shop", options="-c synchronous_commit=off")
        self._random = random.Random(f"{seed}/{number}")  # noqa: S311 - a workload, not a secret
        self._next_id = CUSTOMERS + 1 + number
        self._step = sessions
        self._open: deque[tuple[int, list[tuple[int, int]]]] = deque(maxlen=OPEN_ORDERS_MAX)

    def step(self) -> None:
        """Commit one transaction; one that a deadlock ended is done again. Raises psycopg.Error."""
        choice = self._random.random()
        if choice < 0.05:
            self._commit([self._new_customer()])
        elif choice < 0.20 and self._open:
            self._commit([self._ship()])
        elif choice < 0.25 and self._open:
            self._commit(self._cancel())
        else:
            self._commit(self._place_order())

    def close(self) -> None:
        """Disconnect."""
        self._conn.close()

    def _commit(self, statements: list[Statement]) -> None:
        while True:
            try:
                with self._conn.pipeline(), self._conn.transaction():
                    for statement, values in statements:
                        self._conn.execute(statement.encode(), values, prepare=True)
            except psycopg.errors.DeadlockDetected:
                continue
            return

    def _id(self) -> int:
        self._next_id += self._step
        return self._next_id

    def _new_customer(self) -> Statement:
        number = self._id()
        return "INSERT INTO customers (id, email) VALUES (%s, %s)", [number, f"customer{number}@example.com"]

    def _place_order(self) -> list[Statement]:
        """An order with its lines; stock rows are written in one order by all sessions."""
        draw, order = self._random, self._id()
        customer = draw.randint(1, CUSTOMERS)
        products = sorted(draw.sample(range(1, PRODUCTS + 1), draw.randint(1, LINES_MAX)))
        lines = [(product, draw.randint(1, 5)) for product in products]
        total = sum(quantity * 9.99 for _, quantity in lines)
        details = Jsonb({"channel": draw.choice(["web", "shop", "phone"]), "lines": len(lines)})
        statements: list[Statement] = [
            ("UPDATE customers SET orders = orders + 1 WHERE id = %s", [customer]),
            ("INSERT INTO orders (id, customer_id, total, details) VALUES (%s, %s, %s, %s)",
             [order, customer, round(total, 2), details]),
        ]  # fmt: skip
        for number, (product, quantity) in enumerate(lines, 1):
            line = [order, number, product, quantity]
            statements.append(("INSERT INTO order_lines VALUES (%s, %s, %s, %s, 9.99)", line))
            statements.append(("UPDATE stock SET quantity = quantity - %s WHERE product_id = %s", [quantity, product]))
        if draw.random() < HOT_SHARE:
            statements.append(("UPDATE counters SET value = value + 1 WHERE name = %s", [HOT_COUNTER]))
        self._open.append((order, lines))
        return statements

    def _ship(self) -> Statement:
        order, _ = self._open[self._random.randrange(len(self._open))]
        return "UPDATE orders SET status = 'shipped', total = total + 0.01 WHERE id = %s", [order]

    def _cancel(self) -> list[Statement]:
        order, lines = self._open.popleft()
        back = "UPDATE stock SET quantity = quantity + %s WHERE product_id = %s"
        return [
            ("DELETE FROM order_lines WHERE order_id = %s", [order]),
            ("DELETE FROM orders WHERE id = %s", [order]),
            *((back, [quantity, product]) for product, quantity in lines),
        ]
