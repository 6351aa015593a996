"""Reports about plans for people: tables, charts and sentences."""
