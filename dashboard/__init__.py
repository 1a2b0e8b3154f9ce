"""The screens: what an auditor sees and clicks. The engine is reached through `service` alone."""
