"""The commands of `feeder-hub`, one file a noun. They work beside a running hub and without one."""
