"""The wire between members: TCP, and a certificate of the cluster's own authority on both sides."""
