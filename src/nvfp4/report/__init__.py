"""The report: everything that was measured, from the records, on one page of HTML that needs nothing else."""
