"""The columns that `resolve` reads of the journal."""

import polars as pl

SCHEMA = {"seq": pl.UInt32, "file": pl.UInt16, "row": pl.UInt32, "key": pl.String, "time_us": pl.Int64, "disposition": pl.String,
          "fingerprint": pl.String, "lane": pl.String, "order": pl.Int8, "start_day": pl.Int32, "end_day": pl.Int32,
          "active": pl.Boolean}  # fmt: skip


KNOWN = {"key": pl.String, "state": pl.String, "fingerprint": pl.String, "resource_id": pl.String}
