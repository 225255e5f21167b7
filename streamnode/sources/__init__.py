"""Where samples come from: everything is turned into microvolts on the LSL clock here, and nowhere else."""
