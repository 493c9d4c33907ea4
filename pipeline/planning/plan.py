"""The plan on disk: every source row with its disposition, written once, read in order.

A folder under `state.dir/plans`, named like the run that made it:

    rows-<feed>-00000.parquet      every row: identity, disposition, and the resource to send
                                   (none for a row that is known to be unchanged)
    source-<feed>-00000.parquet    the source's own columns of rows that may be listed as rejects
    verdicts-<feed>-00000.parquet  the verdicts of `resolve` on the rows that passed validation, as later passes
                                   amended them
    again-<feed>.parquet           the source's own columns of skipped rows that were read again
    missing-<feed>.parquet         rows of the last complete run that are gone, with their dispositions
    changes-<feed>-00000.parquet   what updates would change, element by element
    input-<feed>.parquet           the rows of a feed that was given as a frame
    lines-<feed>-00000             the lines of a file's rows, if they are not evenly spaced (`reading/lines.py`)
    corrected-<feed>.parquet       of rows that were rejected and corrected: their keys before and now
    plan.json                      written last: a plan without it was never finished
    ends.json, ends-*.parquet      how its writes ended; written after the run (`journal/ends.py`)

Parts hold some thousand rows, so that memory is bounded by a part and not by the file.
"""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Self

import orjson
import polars as pl

from pipeline.errors import PlanError
from pipeline.files import sha256_of
from pipeline.planning.tables import (
    KEPT,
    MISSING,
    ROWS_SCHEMA,
    STANDING,
    VERDICT_SCHEMA,
    Rows,
    again_name,
    iso_day,
    lines_path,
    part_path,
    with_schema,
)
from pipeline.planning.unchanged import LINE
from pipeline.reading.lines import LineMap
from pipeline.records import REWRITTEN, Disposition, Intent, Interaction, RowId
from pipeline.rows import groups

SEAL: Final = "plan.json"
_IS_SENT: Final = (pl.col("disposition") == Disposition.PENDING.value) & (
    pl.col("interaction") != ""
)
_NOT_SHOWN: Final = (
    "body",
    "shown",
    "time_us",
    "rewrite",
    "subscriber",
)  # a plan of an older version lacks some of them
_A_SAMPLE: Final = 100  # one row in 100 is sampled to find the bounds of the parts to sort
_FOUND: Final = {
    "key": pl.String,
    "file": pl.UInt16,
    "row": pl.UInt32,
    "source_id": pl.String,
    "fingerprint": pl.String,
    "body": pl.Binary,
    "shown": pl.Binary,
}
_INTERACTIONS: Final = {each.value: each for each in Interaction}
_DONE: Final = ("key", "interaction", "resource_id", "fingerprint", "slot", "sort")
_INTENT: Final = (
    "key",
    "interaction",
    "lane",
    "body",
    "fingerprint",
    "amount_cents",
    "claim",
    "likeness",
    "resource_id",
    "held_at",
)
_SENT: Final = ("seq", "slot", "sort", "disposition", "order", "start_day", "active", *_INTENT)


class Plan:
    """A plan that is finished and does not change any more."""

    def __init__(self, folder: Path, meta: dict[str, Any]) -> None:
        self.folder = folder
        self.meta = meta

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open the plan in a folder. Raises PlanError if there is none, or it was never finished."""
        try:
            return cls(folder, orjson.loads((folder / SEAL).read_bytes()))
        except (OSError, orjson.JSONDecodeError):
            raise PlanError(
                f"there is no finished plan {folder.name}", "run `canvas-ingest plan` first"
            ) from None

    def rows(self, feed: str) -> Iterator[pl.DataFrame]:
        """Yield all rows of a feed with their verdicts and without bodies, in the file's order, part by part."""
        columns = dict.fromkeys([*ROWS_SCHEMA, *VERDICT_SCHEMA])
        return self._rows(feed).judged([name for name in columns if name not in _NOT_SHOWN])

    def rows_to_hold(self, feed: str) -> Iterator[pl.DataFrame]:
        """Yield what the index of unchanged rows (`planning/unchanged.py`) needs of all rows, part by part."""
        return self._rows(feed).judged([*LINE, "disposition", "rule"])

    def subscribers(self, feed: str, passed_on: pl.Series) -> Iterator[pl.DataFrame]:
        """Yield the rows with relationship self and a subscriber id (id, key, lane) of a feed, part by part.

        Rows that an earlier run has entered already are left out, if no other patient had their id (`passed_on`).
        """
        is_known = pl.col("body").is_null() & ~pl.col("subscriber").is_in(passed_on.implode())
        columns = ["subscriber", "key", "lane", "disposition", "body"]
        for rows in self._rows(feed).judged(columns):
            mine = rows.drop_nulls("subscriber").filter(
                pl.col("disposition").is_in(STANDING) & ~is_known
            )
            yield mine.select(pl.col("subscriber").alias("id"), "key", "lane")

    def times(self, feed: str) -> Iterator[pl.DataFrame]:
        """Return key and time_us (microseconds) of the rows that were to be sent, part by part."""
        is_sent = pl.col("disposition") == Disposition.PENDING.value
        return self._rows(feed).where(is_sent, ["key", "time_us"])

    def lines(self, feed: str) -> list[LineMap | None]:
        """Return the lines of the rows of each file; None for a file whose rows have none, or are not known."""
        found: list[LineMap | None] = []
        for number, file in enumerate(self.meta["feeds"][feed]["files"]):
            first, path = file.get("first_line"), lines_path(self.folder, feed, number)
            found.append(LineMap(first, path if path.exists() else None) if first else None)
        return found

    def row_id(self, feed: str, file: int, row: int) -> RowId:
        """Return the name of a row for people."""
        lines = self.lines(feed)[file]
        name = Path(self.meta["feeds"][feed]["files"][file]["path"]).name
        return RowId(name, row, lines.of(row) if lines else None)

    def _rows(self, feed: str) -> Rows:
        return Rows(self.folder, feed, self.meta["parts"][feed])

    def sources(self, feed: str) -> Iterator[pl.DataFrame]:
        """Yield the source's own columns (and SEQ) of the rows that may be rejected, part by part."""
        again = self.folder / again_name(feed)
        more = pl.read_parquet(again, glob=False) if again.exists() else None
        for part in range(len(self._rows(feed))):
            source = pl.read_parquet(part_path(self.folder, "source", feed, part), glob=False)
            yield source if more is None else pl.concat([source, more], how="diagonal")

    def keys(self, feed: str) -> Iterator[pl.Series]:
        """Yield the keys of all rows of a feed, of every disposition, part by part."""
        for rows in self._rows(feed).judged(["key"]):
            yield rows["key"]

    def keys_to_send(self, feed: str) -> Iterator[pl.Series]:
        """Yield the keys of all writes of a feed that the plan sends, part by part."""
        for rows in self._rows(feed).judged(["key", *_IS_SENT.meta.root_names()]):
            yield rows.filter(_IS_SENT)["key"]
        yield self.missing(feed).filter(pl.col("interaction") != "")["key"]

    def missing(self, feed: str) -> pl.DataFrame:
        """Return the rows of the last complete run that are gone, in the columns of `MISSING`."""
        path = self.folder / f"missing-{feed}.parquet"
        gone = pl.read_parquet(path, glob=False) if path.exists() else pl.DataFrame()
        return with_schema(gone, MISSING).with_columns(pl.col("is_last").fill_null(value=False))

    def changes(self, feed: str) -> Iterator[pl.DataFrame]:
        """Yield what the updates of a feed would change (`CHANGES`), with file and row, part by part."""
        rows, columns = self._rows(feed), ["seq", "file", "row", "key", "resource_id"]
        for number in itertools.count():
            path = part_path(self.folder, "changes", feed, number)
            if not path.exists():
                return
            changes = pl.read_parquet(path, glob=False)
            if changes.is_empty():
                continue
            where = pl.concat(rows.some(changes["seq"], columns))
            yield changes.join(where, on="seq").sort("seq", "element")

    def sha256(self) -> str:
        """Return the SHA-256 of its files, names and contents: 64 hex digits.

        Not of `ends*`, which the report of its run puts beside them (`journal/ends.py`).

        Raises:
            OSError: A file cannot be read.
        """
        whole = hashlib.sha256()
        for path in sorted(self.folder.iterdir()):
            if path.is_file() and not path.name.startswith("ends"):
                whole.update(f"{path.name}\0{sha256_of(path)}\0".encode())
        return whole.hexdigest()

    def digest(self) -> str:
        """Return the SHA-256 (64 hex digits) of all writes in their order; plans with equal digests send the same."""
        digest = hashlib.sha256()
        for feed in self.meta["feeds"]:
            digest.update(feed.encode())
            gone = self.missing(feed).filter(pl.col("interaction") != "").sort("key")
            columns = ("key", "resource_id", "fingerprint", "is_last")
            digest.update(gone.select(columns).write_csv().encode())
            for rows in self.rows(feed):
                sent = rows.filter(pl.col("disposition") == Disposition.PENDING.value)
                digest.update(sent.select(_DONE).write_csv(include_header=False).encode())
        return digest.hexdigest()

    def find(self, feed: str, keys: Sequence[str]) -> pl.DataFrame:
        """Return the rows with these keys that were to be sent, and missing ones that were to be ended or cancelled.

        Rejected rows are left out, such as a later row of the same key with other content.

        Returns:
            Columns: key, file, row, source_id, fingerprint, body, shown.
        """
        wanted = list(keys)
        is_meant = pl.col("key").is_in(wanted) & pl.col("disposition").is_in(STANDING)
        is_held = pl.col("body").is_not_null() | pl.col("shown").is_not_null()
        gone = self.missing(feed).filter(pl.col("key").is_in(wanted) & pl.col("body").is_not_null())
        found = [rows.filter(is_held) for rows in self._rows(feed).where(is_meant, list(_FOUND))]
        return pl.concat([*found, with_schema(gone, _FOUND)])

    def intents(self, feed: str, resource_type: str, *, in_order: bool) -> Iterator[list[Intent]]:
        """Yield what is to be sent, in the file's order or (`in_order` False) sorted by `order_by`.

        A row whose verdict has a `slot` takes that position in the feed instead of its own.
        """
        rows = self._rows(feed)
        parts = self._in_turn(rows) if in_order else self._sorted(rows)
        for part in parts:
            yield self._intents(part, feed, resource_type)

    def _in_turn(self, rows: Rows) -> Iterator[pl.DataFrame]:
        """Yield the rows part by part, with the moved rows at the positions of their slots."""
        places = [part.drop_nulls("slot") for part in rows.judged(["seq", "slot"])]
        moved = pl.concat(places) if places else pl.DataFrame(schema={"seq": pl.UInt32})
        for (first, last), part in zip(rows.spans, rows.judged(_SENT), strict=True):
            if moved.is_empty():
                yield part
                continue
            here = moved.filter(pl.col("slot").is_between(first, last))
            own = part.filter(pl.col("slot").is_null())
            yield pl.concat([own, *rows.some(here["seq"], _SENT)]).sort(pl.coalesce("slot", "seq"))

    def _sorted(self, rows: Rows) -> Iterator[pl.DataFrame]:
        """Yield the rows to send sorted by `order_by`, and equal rows in the file's order.

        If the file is not sorted already, the rows are split by ranges of their sort key into files, which are
        sorted one after the other. So memory is bounded by the largest range.
        """
        sent = (part.filter(_IS_SENT) for part in rows.judged(_SENT))
        if _is_ascending(rows):
            yield from sent
            return
        sample = [_place(part).gather_every(_A_SAMPLE) for part in rows.judged(["sort", "seq"])]
        places = pl.concat(sample).sort()

        def pile_of(piles: int) -> pl.Expr:
            edges = places.gather([places.len() * pile // piles for pile in range(1, piles)])
            return pl.struct("sort", "seq").map_batches(
                lambda rows: edges.search_sorted(_place(rows.struct.unnest()), side="right"),
                return_dtype=pl.UInt32,
            )

        with TemporaryDirectory(dir=self.folder) as folder:
            most, at_once = rows.spans[-1][1] + 1, groups.BOUNDS.whole
            for pile in groups.deal(sent, pile_of, Path(folder), most, at_once):
                yield pile.sort("sort", "seq")

    def adopted(self, feed: str) -> Iterator[list[Intent]]:
        """Yield the rows that Canvas held already with the same content, which the journal is to take over."""
        is_same = pl.col("disposition") == Disposition.UNCHANGED.value
        for rows in self._rows(feed).where(is_same & pl.col("shown").is_not_null(), _SENT):
            sendable = rows.with_columns(
                pl.lit(Disposition.PENDING.value).alias("disposition"),
                pl.lit(Interaction.UPDATE.value).alias("interaction"),
            )
            yield self._intents(sendable, feed, "Coverage")

    def lanes(self, feed: str) -> Iterator[pl.Series]:
        """Yield the patients (`lane`) of all writes to send, one value per write, part by part."""
        is_sent = pl.col("interaction") != ""
        yield self.missing(feed).filter(is_sent)["lane"]
        for rows in self._rows(feed).where(is_sent, ["lane"]):
            yield rows["lane"]

    def cancels(self, feed: str, *, is_last: bool | None = None) -> list[Intent]:
        """Return the writes that end or cancel missing rows: all of them, or only those with this `is_last`."""
        gone = self.missing(feed).filter(pl.col("interaction") != "")
        if is_last is not None:
            gone = gone.filter(pl.col("is_last") == is_last)
        if gone.is_empty():
            return []
        intents = self._intents(_as_rows_to_send(gone), feed, "Coverage")
        ends = dict(gone.select("key", "end_on").iter_rows())
        return [intent._replace(is_cancel=True, end_on=ends[intent.key]) for intent in intents]

    def rewritten(self, feed: str) -> Iterator[list[Intent]]:
        """Yield the writes of unchanged rows that a person wants to have written again, part by part."""
        is_rewritten = pl.col("rule").str.contains(REWRITTEN, literal=True)
        for rows in self._rows(feed).where(is_rewritten, _SENT):
            yield self._intents(rows, feed, "Coverage")

    def kept(self, feed: str) -> list[str]:
        """Return the keys of unchanged rows that are written again."""
        kept = self._rows(feed).where(pl.col("rule") == KEPT, ["key"])
        return [key for rows in kept for key in rows["key"]]

    def _intents(self, rows: pl.DataFrame, feed: str, resource_type: str) -> list[Intent]:
        sent = rows.filter(_IS_SENT)
        run_id = self.meta["run_id"]
        rank = pl.when("active").then("order").alias("rank")
        has_day = resource_type == "PaymentNotice"
        day = iso_day() if has_day else pl.lit(None, dtype=pl.String)
        return [
            Intent(
                key,
                feed,
                resource_type,
                _INTERACTIONS[interaction],
                lane,
                body,
                fingerprint,
                cents,
                claim,
                match_key,
                run_id,
                resource_id,
                rank,
                held_at,
                day,
            )
            for (
                key,
                interaction,
                lane,
                body,
                fingerprint,
                cents,
                claim,
                match_key,
                resource_id,
                held_at,
                rank,
                day,
            ) in sent.select(*_INTENT, rank, day.alias("day")).iter_rows()
        ]


def _is_ascending(rows: Rows) -> bool:
    """Return whether the rows to send are already sorted by `order_by`."""
    last = ""
    for part in rows.judged(["sort", "disposition", "interaction"]):
        texts = part.filter(_IS_SENT)["sort"]
        if not texts.is_empty():
            if texts[0] < last or not texts.is_sorted():
                return False
            last = texts[-1]
    return True


def _place(rows: pl.DataFrame) -> pl.Series:
    """Return a text for each row that sorts in the order of sending."""
    seq = pl.col("seq").cast(pl.String).str.zfill(10)
    return rows.select(pl.concat_str("sort", seq, separator="\x00")).to_series()


def _as_rows_to_send(missing: pl.DataFrame) -> pl.DataFrame:
    return missing.with_columns(
        pl.lit(Disposition.PENDING.value).alias("disposition"),
        pl.lit("").alias("claim"),
        pl.lit(None, dtype=pl.Int64).alias("amount_cents"),
        pl.lit(None, dtype=pl.Datetime("us", "UTC")).alias("held_at"),
        pl.lit(None, dtype=pl.Int32).alias("start_day"),
        pl.col("end_on").is_not_null().alias("active"),
    )
