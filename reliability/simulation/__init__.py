"""The stream's own code and the handover's, run by one seeded scheduler against simulated sites."""
