"""Plans as people read them: tables, drawings and sentences."""
