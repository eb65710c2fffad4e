"""The process that runs tasks: event loop, drain, leases, sweeper, health port."""
