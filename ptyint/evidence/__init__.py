"""Evidence that fails closed: checks declared beforehand, run folders, manifests, the ledger and the index."""
