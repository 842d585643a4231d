"""Made-up tissue with known truth. Everything in this room is synthetic: no pixel comes from a patient."""
