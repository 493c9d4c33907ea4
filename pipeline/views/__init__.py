"""How a run is shown to people. Pure: from what `summary.json` holds to text."""
