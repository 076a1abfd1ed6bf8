"""Which voice answers: the catalogue of speakers and the mapping from wishes to one of them."""
