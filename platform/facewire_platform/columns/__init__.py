"""Columns: copies of the stored rows in Parquet files, which answer questions about days fast."""
