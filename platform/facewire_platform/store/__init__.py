"""The database: what stands in it, how SQLite and PostgreSQL differ, and how it is written."""
