"""How fast and how accurate, against what, in one run. Nothing else imports this package."""
