"""Faults put in on purpose, and what becomes of them: ``python -m tests.faults``; see docs/reliability.md."""
