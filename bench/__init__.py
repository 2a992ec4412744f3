"""What openme withstands and costs, beside what it is compared with in the same run: `make bench`.

Whole processes are measured from outside, in network namespaces of their own; docs/performance.md says how and shows
the figures. `studies` holds measurements for a single decision, which are run by hand.
"""
