"""What the project's own tests stand on: simulated worlds, crash points, power cuts, one engine on
virtual time. It is no part of the package: what is for everybody's tests is `batchrun.testing`.
"""
