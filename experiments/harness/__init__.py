"""The first program: from flags to records. It computes no metric."""
