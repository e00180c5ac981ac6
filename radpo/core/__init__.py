"""What every package uses: errors, files, messages, plug-ins and result tables."""
