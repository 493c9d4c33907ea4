"""How to speak to Canvas. Knows requests and answers, never rows."""
