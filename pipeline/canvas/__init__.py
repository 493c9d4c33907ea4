"""HTTP to Canvas: requests and answers, never rows."""
