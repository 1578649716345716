"""Learning: fitting any module to a stream of batches, exactly resumable, on one process or many."""
