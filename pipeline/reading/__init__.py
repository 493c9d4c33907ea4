"""Bytes become rows of text."""
