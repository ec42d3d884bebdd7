"""Out of the database: questions and reports, deletion of old events, and quarantine."""
