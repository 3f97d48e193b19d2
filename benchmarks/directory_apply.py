"""What the directory costs and gives where changes are applied: one backlog, two nodes, with and without it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from statistics import median

from benchmarks.contestants import Backlog, Headrace
from benchmarks.drain import fill, prepare_template
from benchmarks.loads import ZIPF, Load
from benchmarks.servers import Servers, servers
from benchmarks.store import Sample, ratios, spread, values
from headrace.directory_view import read_picture
from headrace.embedded import EmbeddedPostgres
from topologies.settings_file import load_settings

# A steady state: reports and decisions come once in two seconds, and in the first ones every block is new and the
# broker runs its transactions for the first time.
TRANSACTIONS = 600_000
ROWS = 100_000
LANES = 4
PARTS = 5  # of a backlog in which what is used most changes
SETTLED_S = 8.0  # two consumers of a group, and the decider that waits for them
HERE, OTHER = "local", "other"
DIRECTORY = """
[directory]
enabled = {enabled}
"""


def _initialise(bench: Servers, server: EmbeddedPostgres, dbname: str) -> None:
    bench.sql(server, "DROP TABLE IF EXISTS bench_rows", dbname)
    bench.sql(server, "CREATE TABLE bench_rows (id int PRIMARY KEY, n int NOT NULL)", dbname)
    bench.sql(server, f"INSERT INTO bench_rows SELECT i, 0 FROM generate_series(1, {ROWS}) i", dbname)


def _skewed(part: int) -> Load:
    """Two updates a transaction; which rows are used most depends on the part."""
    ids = [f"1 + (random_zipfian(1, {ROWS}, {ZIPF}) + {part * ROWS // PARTS}) % {ROWS}", f"random(1, {ROWS})"]
    drawn = "".join(f"\\set id{n} {chosen}\n" for n, chosen in enumerate(ids))
    updates = "".join(f"UPDATE bench_rows SET n = n + 1 WHERE id = :id{n};\n" for n in range(len(ids)))
    script = f"{drawn}BEGIN;\n{updates}END;\n"
    return Load(f"skewed{part}", f"Zipf {ZIPF}", len(ids), _initialise, ("bench_rows",), script=script)


APPLIED = {"skewed": (_skewed(0),), "shifting": tuple(map(_skewed, range(PARTS)))}
TITLES = {
    "skewed": f"two updates a transaction, one by a Zipf law of exponent {ZIPF}",
    "shifting": f"the same, other rows are hot in each of {PARTS} parts",
}


class TwoNodes(Headrace):
    """Headrace with two nodes that apply; with the directory also the role that decides."""

    def __init__(self, bench: Servers, load: Load, name: str, backlog: Backlog, *, directory: bool) -> None:
        super().__init__(bench, load, f"{name}_{'on' if directory else 'off'}", "off", backlog, lanes=LANES)
        self.directory = directory
        with self.roles.config.open("a") as config:
            config.write(DIRECTORY.format(enabled=str(directory).lower()))

    def start_target_side(self, assigned_s: float = SETTLED_S) -> None:
        """Start the second node too; the groups settle, and the directory learns who there is."""
        command = [sys.executable, "-m", "headrace.cli", "apply", "-c", str(self.roles.config)]
        self.roles.launch(f"apply {OTHER}", ["env", f"HEADRACE_CACHE__NODE={OTHER}", *command])
        if self.directory:
            self.roles.start("affinity")
        super().start_target_side(assigned_s)

    def measured(self) -> dict[str, float]:
        """Drain, verify; rate, CPU, and what the directory has seen of it."""
        try:
            self.start()
            drained = self.time()
            found = {"tps": drained.tps, **{f"cpu_us {who}": us for who, us in drained.cpu_us.items()}}
            if self.directory:
                found |= self._placed()
        finally:
            self.stop()
        self.check()
        self.drop()
        return found

    def _placed(self) -> dict[str, float]:
        """Share of changes applied at the master of their block, as it is at the end, and by the busier node."""
        picture = read_picture(load_settings(self.roles.config))
        uses = picture.hottest(1 << 20)
        by_node = {node: sum(use.by_node.get(node, 0.0) for use in uses) for node in (HERE, OTHER)}
        local = sum(use.by_node.get(use.owner.node, 0.0) for use in uses)
        total = sum(by_node.values())
        return {"at the master": local / total, "busier node": max(by_node.values()) / total}


def apply_pairs(seed: int) -> Iterator[Sample]:
    """Each load with the directory and without, in turns the one or the other first."""
    with servers() as bench:
        prepare_template(bench, APPLIED["skewed"][0])
        for name, parts in APPLIED.items():
            parts[0].initialise(bench, bench.source, "postgres")
            backlog = Backlog()
            pair = [TwoNodes(bench, parts[0], f"hr_{name}{seed}", backlog, directory=on) for on in (False, True)]
            total = 0
            for part in parts:
                fill(bench, part, backlog, TRANSACTIONS // len(parts), seed)
                total += backlog.transactions
            backlog.transactions = total
            for contestant in pair if seed % 2 else reversed(pair):
                case = f"apply, {name}, {'with' if contestant.directory else 'without'}"
                yield Sample(case, seed, contestant.measured())


# -- the table ---------------------------------------------------------------------------------------


def apply_table(found: Sequence[Sample]) -> str:
    """Each load with and without, and the ratio within pairs."""
    setting = f"{TRANSACTIONS:,} transactions, 2 nodes, {LANES} lanes"
    rates = "TPS without | with | ratio in pairs | CPU µs a transaction without | with"
    lines = [f"| {setting} | {rates} | applied at the master | by the busier node |", "|---" * 8 + "|"]
    for name, title in TITLES.items():
        without, with_it = (f"apply, {name}, {how}" for how in ("without", "with"))
        shown = [
            *(spread(values(found, case, "tps")) for case in (without, with_it)),
            spread(ratios(found, with_it, without, "tps"), ".2f"),
            *(_cpu(found, case) for case in (without, with_it)),
            *(spread(values(found, with_it, metric), ".2f") for metric in ("at the master", "busier node")),
        ]
        lines.append(f"| {title} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _cpu(found: Sequence[Sample], case: str) -> str:
    sums = [
        sum(value for name, value in sample.metrics.items() if name.startswith("cpu_us "))
        for sample in found
        if sample.case == case
    ]
    return f"{median(sums):.1f}" if sums else "not measured"
