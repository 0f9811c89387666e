"""The recorder: one process that enriches what collectors send, looks for anomalies, stores it, and answers questions."""
