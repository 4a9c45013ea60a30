"""Is it better? Statistics of records and of likelihoods."""
