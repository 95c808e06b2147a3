#!/usr/bin/env python3
"""What an expert with a free afternoon gets out of IVFFlat: the yardstick for the healer.

For one table it copies the rows, then for each `lists` of a sweep from rows/1000 to 4·√rows builds the index several
times, finds for each build the least `ivfflat.probes` that reaches a recall, and counts the blocks that one query then
reads. `--judge` measures an index that somebody else made (the healer's) on the same queries, as an ordinary session
finds it, and compares it with the expert's best *for the recall it reached*.

README.md beside this file says how to run it and what it deliberately does in the expert's favour.
"""

import argparse
import json
import math
import statistics
import sys
import time

import numpy as np
import psycopg
from psycopg import sql

NEIGHBOURS = 10  # recall@10, as everywhere in this project
QUERIES_MIN = 500  # fewer, and the 95 % interval of the mean recall is wider than ±0.02
LISTS_MAX = 32768  # pgvector's own limit (IVFFLAT_MAX_LISTS)
OPERATORS = {"cosine": "<=>", "l2": "<->", "ip": "<#>"}
COPY = "expert_copy"
INDEX = "expert_index"


# ---- pure parts (tests: test_sweep.py) -------------------------------------------------------------------------------


def lists_to_try(rows, steps):
    """`steps` values of `lists`, geometric from rows/1000 to 4·√rows, both ends included."""
    low, high = max(1, round(rows / 1000)), min(LISTS_MAX, max(1, round(4 * math.sqrt(rows))))
    low, high = min(low, high), max(low, high)  # above 16 million rows the rules of thumb cross over
    return sorted({round(value) for value in np.geomspace(low, high, steps)})


def least_probes(recall_at, target, lists, known=()):
    """Least probes in 1..lists with recall_at(probes) >= target.

    A scan of p + 1 lists sees all the rows that a scan of p lists sees, so recall never falls as probes rise and bisection
    is exact. It halves ratios, not differences, because a scan of many lists costs so much more. `known` holds probes
    whose recall the caller has cached: they narrow the interval for nothing.
    """
    low, high = 1, lists
    for probes in sorted(known):
        if low <= probes <= high:
            if recall_at(probes) >= target:
                high = probes
                break
            low = probes + 1
    while low < high:
        middle = min(high - 1, max(low, math.isqrt(low * high)))
        if recall_at(middle) >= target:
            high = middle
        else:
            low = middle + 1
    return low


def recall(found, kth_distance, neighbours):
    """Share of the true neighbours found.

    `found`: for each query the distances of the rows returned; `kth_distance`: that of its last true neighbour. A row
    counts when it is as near as that, so that equally distant rows (duplicates) are worth the same whichever is returned.
    """
    hits = [sum(d <= kth for d in distances[:neighbours]) for distances, kth in zip(found, kth_distance, strict=True)]
    return sum(hits) / (neighbours * len(hits))


def blocks_of_plan(plan):
    """Blocks that an EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) plan touched, in shared and in local (temporary) buffers.
    The top node's counters include all nodes below it; planning is counted apart by PostgreSQL and is not in here."""
    kinds = ("Shared Hit Blocks", "Shared Read Blocks", "Local Hit Blocks", "Local Read Blocks")
    return sum(plan[kind] for kind in kinds)


def indexes_of_plan(plan):
    """Names of the indexes a plan scans."""
    names = {plan["Index Name"]} if "Index Name" in plan else set()
    return names.union(*(indexes_of_plan(child) for child in plan.get("Plans", ())))


def as_text(vector):
    """A vector as pgvector reads it. Nine digits carry a float32 exactly."""
    return "[" + ",".join(f"{x:.9g}" for x in vector) + "]"


# ---- measuring -------------------------------------------------------------------------------------------------------


class Searcher:
    """Asks one table the same nearest-neighbour queries, over one connection."""

    def __init__(self, connection, table, column, vector_type, operator, queries):
        self.connection, self.queries = connection, queries
        # The cast carries no dimension; the operand is a plain constant of the column's type, as an application sends it.
        order = sql.SQL("{} {} %s::{}").format(sql.Identifier(column), sql.SQL(operator), sql.SQL(vector_type))
        body = sql.SQL("FROM {} ORDER BY {} LIMIT %s").format(table, order)
        self.search = sql.SQL("SELECT {} {}").format(order, body)
        self.explain = sql.SQL("EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, SUMMARY OFF, FORMAT JSON) SELECT 1 {}").format(body)

    def distances(self):
        """For each query the distances of what is returned."""
        with psycopg.ClientCursor(self.connection) as cursor:
            found = []
            for query in self.queries:
                cursor.execute(self.search, (query, query, NEIGHBOURS))
                found.append([row[0] for row in cursor])
        return found

    def plans(self):
        """For each query its executed plan."""
        with psycopg.ClientCursor(self.connection) as cursor:
            plans = []
            for query in self.queries:
                cursor.execute(self.explain, (query, NEIGHBOURS))
                plans.append(cursor.fetchone()[0][0]["Plan"])
        return plans

    def blocks(self, index=None):
        """Mean blocks a query; with `index`, every plan must have used that index and nothing else."""
        plans = self.plans()
        if index is not None and any(indexes_of_plan(plan) != {index} for plan in plans):
            raise RuntimeError(f"the planner did not use {index}: the numbers would be those of another plan")
        return statistics.fmean(blocks_of_plan(plan) for plan in plans)


def column_type(connection, table, column):
    """(schema-qualified type without dimension, schema of pgvector) of the embedding column."""
    row = connection.execute(
        """SELECT t.typname, n.nspname FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
           JOIN pg_namespace n ON n.oid = t.typnamespace WHERE a.attrelid = %s::regclass AND a.attname = %s""",
        (table, column),
    ).fetchone()
    if row is None:
        sys.exit(f"table {table} has no column {column}")
    if row[0] not in ("vector", "halfvec"):
        sys.exit(f"column {column} is of type {row[0]}; only vector and halfvec are swept")
    return row[0], row[1]


def take_queries(connection, arguments, qualified_type):
    """Query vectors as text, drawn from outside the table or held out of the copy."""
    source, id_column = arguments.queries, sql.Identifier(arguments.id_column)
    column = sql.Identifier(arguments.embedding_column)
    if source.isdigit():
        # Keyed hash order: a fixed random choice, the same for the same seed whatever order the rows are stored in.
        rows = connection.execute(
            sql.SQL(
                "DELETE FROM {copy} WHERE id IN (SELECT id FROM {copy} WHERE embedding IS NOT NULL"
                " ORDER BY md5(%s || id::text), id LIMIT %s) RETURNING embedding::text"
            ).format(copy=sql.Identifier("pg_temp", COPY)),
            (str(arguments.seed) + ":", int(source)),
        ).fetchall()
        queries = [row[0] for row in rows]
        # Without this the copy would keep pages with dead rows, and a heap scan order with holes.
        connection.execute(sql.SQL("VACUUM FULL {}").format(sql.Identifier("pg_temp", COPY)))
    elif source.endswith(".npy"):
        queries = [as_text(vector) for vector in np.load(source).astype(np.float32)]
    else:
        rows = connection.execute(
            sql.SQL("SELECT {column}::{type}::text FROM {table} WHERE {column} IS NOT NULL ORDER BY {id}").format(
                column=column, type=sql.SQL(qualified_type), table=sql.SQL(source), id=id_column
            )
        ).fetchall()
        queries = [row[0] for row in rows]
    if len(queries) < QUERIES_MIN:
        sys.exit(f"{len(queries)} queries; at least {QUERIES_MIN} are needed for a verdict")
    return queries


def measure_build(searcher, connection, targets, lists):
    """For one build of the index: {target: (probes, recall, blocks a query)}."""
    cache = {}

    def recall_at(probes):
        if probes not in cache:
            connection.execute(sql.SQL("SET ivfflat.probes = {}").format(probes))
            cache[probes] = recall(searcher.distances(), searcher.kth_distance, NEIGHBOURS)
        return cache[probes]

    result = {}
    for target in sorted(targets):
        probes = least_probes(recall_at, target, lists, cache)
        reached = recall_at(probes)
        connection.execute(sql.SQL("SET ivfflat.probes = {}").format(probes))
        result[target] = (probes, reached, searcher.blocks(INDEX))
    return result


def judge(arguments, queries, kth_distance, qualified_type, operator):
    """The judged table as an ordinary session finds it: a fresh connection, no setting touched, the planner's own choice."""
    with psycopg.connect(arguments.uri, autocommit=True) as session:
        searcher = Searcher(
            session, sql.SQL(arguments.judge), arguments.embedding_column, qualified_type, operator, queries
        )
        reached = recall(searcher.distances(), kth_distance, NEIGHBOURS)
        plans = searcher.plans()
    return {
        "table": arguments.judge,
        "recall": reached,
        "blocks": statistics.fmean(blocks_of_plan(plan) for plan in plans),
        "indexes": sorted(set().union(*map(indexes_of_plan, plans))),
    }


def sweep(arguments):
    """Runs everything; returns the report as a dictionary."""
    started = time.monotonic()
    operator_name = OPERATORS[arguments.metric]
    with psycopg.connect(arguments.uri, autocommit=True, application_name="expert sweep") as connection:
        vector_type, schema = column_type(connection, arguments.table, arguments.embedding_column)
        qualify = lambda name: sql.Identifier(schema, name).as_string(connection)  # noqa: E731
        qualified_type, operator = qualify(vector_type), f'OPERATOR("{schema}".{operator_name})'

        # A temporary copy: the table is only read, nothing is left behind however we end, and no healer sees it.
        # Temporary tables use local buffers, counted like shared ones; the setting keeps them out of the file system.
        for setting in (f"temp_buffers = '{arguments.memory}'", f"maintenance_work_mem = '{arguments.memory}'"):
            connection.execute("SET " + setting)
        # Whatever the database or the role sets as default, the expert's scan ends after its probes.
        connection.execute("SET ivfflat.iterative_scan = off")
        connection.execute("SET jit = off")
        copy = sql.Identifier("pg_temp", COPY)
        connection.execute(
            sql.SQL("CREATE TEMPORARY TABLE {} AS SELECT {} AS id, {} AS embedding FROM {} WHERE {} IS NOT NULL").format(
                sql.Identifier(COPY),
                sql.Identifier(arguments.id_column),
                sql.Identifier(arguments.embedding_column),
                sql.SQL(arguments.table),
                sql.Identifier(arguments.embedding_column),
            )
        )
        queries = take_queries(connection, arguments, qualified_type)
        connection.execute(sql.SQL("ANALYZE {}").format(copy))
        rows = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(copy)).fetchone()[0]
        if rows < NEIGHBOURS:
            sys.exit(f"{rows} rows are too few to search")

        searcher = Searcher(connection, copy, "embedding", qualified_type, operator, queries)
        # Exact truth by pgvector itself: there is no index yet.
        searcher.kth_distance = [distances[-1] for distances in searcher.distances()]
        connection.execute("SET enable_seqscan = off")

        judged = judge(arguments, queries, searcher.kth_distance, qualified_type, operator) if arguments.judge else None
        targets = set(arguments.target)
        if judged:
            targets.add(judged["recall"])

        candidates = arguments.lists or lists_to_try(rows, arguments.steps)
        connection.execute(
            sql.SQL("CREATE INDEX {} ON {} USING ivfflat (embedding {}) WITH (lists = 1)").format(
                sql.Identifier(INDEX), copy, sql.SQL(qualify(f"{vector_type}_{arguments.metric}_ops"))
            )
        )
        results = {target: [] for target in targets}
        for lists in candidates:
            index = sql.Identifier("pg_temp", INDEX)
            connection.execute(sql.SQL("ALTER INDEX {} SET (lists = {})").format(index, lists))
            builds = []
            for _ in range(arguments.builds):
                connection.execute(sql.SQL("REINDEX INDEX {}").format(index))  # new random start of k-means each time
                builds.append(measure_build(searcher, connection, targets, lists))
            for target in targets:
                results[target].append(summary(lists, [build[target] for build in builds]))
            print(f"lists {lists}: done after {time.monotonic() - started:.0f} s", file=sys.stderr)

    report = {
        "rows": rows,
        "queries": len(queries),
        "builds": arguments.builds,
        "metric": arguments.metric,
        "targets": [{"recall": target, "sweep": results[target], "best": best_of(results[target])} for target in sorted(targets)],
    }
    if judged:
        judged["expert_blocks"] = best_of(results[judged["recall"]])["blocks"]
        judged["ratio"] = judged["blocks"] / judged["expert_blocks"]
        report["judged"] = judged
    return report


def summary(lists, builds):
    """One row of the table: medians over the builds of one `lists`."""
    probes, reached, blocks = zip(*builds, strict=True)
    return {
        "lists": lists,
        "probes": statistics.median(probes),
        "recall": statistics.median(reached),
        "blocks": statistics.median(blocks),
        "blocks_each": [round(b, 1) for b in blocks],
        "probes_each": list(probes),
    }


def best_of(rows_of_sweep):
    """The `lists` whose median build reads least."""
    return min(rows_of_sweep, key=lambda row: (row["blocks"], row["lists"]))


def print_report(report):
    """The report as text."""
    print(f"{report['rows']} rows, {report['queries']} queries, median of {report['builds']} builds, {report['metric']}")
    for target in report["targets"]:
        best = target["best"]
        print(f"\nleast work for recall@{NEIGHBOURS} >= {target['recall']:.4f}")
        print(f"{'lists':>7} {'probes':>7} {'recall':>7} {'blocks':>8} {'of best':>8}  blocks of each build")
        for row in target["sweep"]:
            print(
                f"{row['lists']:>7} {row['probes']:>7g} {row['recall']:>7.4f} {row['blocks']:>8.1f}"
                f" {row['blocks'] / best['blocks']:>8.2f}  {' '.join(str(b) for b in row['blocks_each'])}"
            )
        print(f"best: lists {best['lists']}, probes {best['probes']:g}, {best['blocks']:.1f} blocks a query")
    if judged := report.get("judged"):
        print(
            f"\njudged {judged['table']}: recall@{NEIGHBOURS} {judged['recall']:.4f}, {judged['blocks']:.1f} blocks a query"
            f" through {', '.join(judged['indexes']) or 'no index'}; the expert needs {judged['expert_blocks']:.1f}"
            f" for that recall: ratio {judged['ratio']:.2f}"
        )


def parse(argv):
    """Command line."""
    parser = argparse.ArgumentParser(description="Least blocks a query that an IVFFlat index needs for a recall.")
    parser.add_argument("uri", help="connection URI")
    parser.add_argument("table", help="table to copy and sweep (only read)")
    parser.add_argument("--queries", default="600", help="number of rows to hold out; or a table; or a .npy file (default 600)")
    parser.add_argument("--target", type=float, action="append", help="recall to reach, may be repeated (default .90 .95)")
    parser.add_argument("--judge", metavar="TABLE", help="also measure TABLE as it is (needs the table's own rows and outside queries)")
    parser.add_argument("--ratio-max", type=float, help="exit with 1 if the judged table reads more than this times the expert's best")
    parser.add_argument("--recall-min", type=float, help="exit with 1 if the judged table's recall is lower")
    parser.add_argument("--metric", choices=OPERATORS, default="cosine")
    parser.add_argument("--lists", type=int, nargs="+", help="try these instead of rows/1000 … 4·√rows")
    parser.add_argument("--steps", type=int, default=9, help="values of lists in the sweep (default 9)")
    parser.add_argument("--builds", type=int, default=5, help="builds for each (default 5)")
    parser.add_argument("--id-column", default="id")
    parser.add_argument("--embedding-column", default="embedding")
    parser.add_argument("--seed", type=int, default=1, help="chooses the held-out rows")
    parser.add_argument("--memory", default="512MB", help="for the copy and for k-means, each (default 512MB)")
    parser.add_argument("--json", metavar="FILE", help="write the report here too")
    arguments = parser.parse_args(argv)
    arguments.target = arguments.target or [0.90, 0.95]
    if not all(0 < target <= 1 for target in arguments.target):
        parser.error("a recall target lies in (0, 1]")
    if arguments.judge and arguments.queries.isdigit():
        parser.error("--judge needs --queries TABLE or FILE: held-out rows would still be in the judged table")
    if not arguments.judge and (arguments.ratio_max or arguments.recall_min):
        parser.error("--ratio-max and --recall-min need --judge")
    return arguments


def main(argv=None):
    """Returns the exit code: 0, or 1 if a judged table misses a limit that was asked for."""
    arguments = parse(argv)
    report = sweep(arguments)
    print_report(report)
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)
    judged, missed = report.get("judged"), False
    if judged and arguments.ratio_max and judged["ratio"] > arguments.ratio_max:
        print(f"MISSED: ratio {judged['ratio']:.2f} is above {arguments.ratio_max}")
        missed = True
    if judged and arguments.recall_min and judged["recall"] < arguments.recall_min:
        print(f"MISSED: recall {judged['recall']:.4f} is below {arguments.recall_min}")
        missed = True
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
