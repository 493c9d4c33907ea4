"""The configuration of a roster: one feed of coverages, by the columns that its file has."""

COLUMNS = {
    "MRN": "patient",
    "Member": "member_id",
    "Rel": "relationship",
    "Sub": "subscriber_id",
    "Payer": "payer",
    "Type": "type",
    "Status": "status",
    "Order": "order",
    "Start": "start_on",
    "End": "end_on",
}
BY_ROW = '[references.subscriber]\nhow = "row"\n'


def roster_feed(columns: str, more: str = "", *, name: str = "roster", path: str = "") -> str:
    """Return a feed whose file has these columns. Without Order its coverages are numbered."""
    lines = [f'{COLUMNS[column]} = "{column}"' for column in columns.split()]
    numbered = "" if "Order" in columns else 'order_from = "sequence"\n'
    return (
        f'[[feeds]]\nname = "{name}"\nkind = "eligibility"\npath = "{path or f"{name}.csv"}"\n'
        f'key = ["patient", "member_id"]\n{numbered}{more}\n[feeds.columns]\n'
        + "\n".join(lines)
        + "\n"
    )
