"""What the front door shows of itself: metrics, a live page, shadow routers, traces and logs."""
