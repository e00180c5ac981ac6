"""Models: finding and loading them, generating with them, and measuring log-likelihoods."""
