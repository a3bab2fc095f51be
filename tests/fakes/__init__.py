"""What this machine cannot hold, faked at the ABI."""
