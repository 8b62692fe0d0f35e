"""What the command line can do: a module for each command, with the command's name as a function in it."""
