"""The regression gate. Nothing is imported here: every run of pytest loads the plug-in in this package."""
