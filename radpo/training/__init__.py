"""Training: the variants, the reference log-likelihoods, and the DPO trainer."""
