"""The report of a bundle: one dict of numbers (report.json), and a page, a table and figures made from it alone."""

from __future__ import annotations

from kirin_lava.tasks.report.make import Report, make_report

__all__ = ["Report", "make_report"]
