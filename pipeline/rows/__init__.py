"""Rows of text become resources; each field is declared once."""
