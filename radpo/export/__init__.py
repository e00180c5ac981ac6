"""What of a run goes elsewhere: a checkpoint with its model card, and tables for other tools."""
