"""What a data set holds that can flatter a result: leaks, copies, shortcuts."""
