"""Logs in, text and pages for people out."""
