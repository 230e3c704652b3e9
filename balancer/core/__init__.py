"""What both packages stand on: settings, run directories, the command line, devices, seeds."""
