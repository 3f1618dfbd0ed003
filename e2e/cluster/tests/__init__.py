"""What can be said about the cluster without starting one."""
