"""Out of the database: what people ask, how old events go, and what broke the contract."""
