"""Compare rows of one key within the files: the first counts.

A later one is a duplicate, contradicts the first, or, with `repeats = "count"`, is a payment of its own.
"""

from pathlib import Path

import polars as pl

from pipeline.planning.beside import RULE, Beside
from pipeline.rows.feed import Feed
from pipeline.rows.groups import Bounds, Scan, shared


def compare_same_key(
    stands: Scan, feed: Feed, first_file: int, folder: Path, bounds: Bounds
) -> Beside:
    """Judge a later row of a key: it is a duplicate of the first, contradicts it, or is counted.

    If equal rows are counted file by file, the n-th of one file is a duplicate of the n-th of another file
    with this key: the files have the same bytes, because their hash is part of the key.
    """
    beside = Beside(first_file)
    columns = ["seq", "file", "row", "key", "time_us", "fingerprint"]
    found, repeats = [beside.found], [beside.repeats]
    for rows in shared(stands, ["key"], columns, folder / f"keys-{feed.name}", bounds):
        repeat = pl.lit(0, dtype=pl.UInt32)
        if feed.repeats == "count":
            counted = ["key", "file"] if feed.counts_within_files else ["key"]
            repeat = pl.int_range(pl.len(), dtype=pl.UInt32).over(counted, order_by="seq")
        numbered = rows.with_columns(repeat.alias("repeat"))
        repeats.append(numbered.select("seq", "repeat").filter(pl.col("repeat") > 0))
        first = numbered.select(
            "seq",
            "fingerprint",
            "time_us",
            *(
                pl.col(name).first().over("key", "repeat", order_by="seq").alias(f"first_{name}")
                for name in ("seq", "file", "row", "fingerprint", "time_us")
            ),
        )
        is_same = pl.col("fingerprint") == pl.col("first_fingerprint")
        is_then = pl.col("time_us").eq_missing(pl.col("first_time_us"))
        found.append(
            first.filter(pl.col("seq") != pl.col("first_seq")).select(
                "seq",
                pl.when(is_same & is_then)
                .then(pl.lit("row|duplicate", dtype=RULE))
                .when(is_same)
                .then(pl.lit("row|time", dtype=RULE))
                .otherwise(pl.lit("row|contradicts", dtype=RULE))
                .alias("rule"),
                (pl.col("first_file").cast(pl.UInt32) + first_file).alias("file"),
                pl.col("first_row").alias("where"),
            )
        )
    beside.found, beside.repeats = pl.concat(found), pl.concat(repeats)
    return beside
