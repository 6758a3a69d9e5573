"""What the scores of a run come to, and how sure that is."""
