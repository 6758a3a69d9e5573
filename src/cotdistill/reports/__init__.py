"""What is read of a run: pages, tables, cards."""
