"""What Octavo tells about itself: traces and metrics by OpenTelemetry, a Prometheus page, logs that fit both.

The standard OTEL_* variables decide what is exported and to where. With none of them set nothing is, no
span is made, and the Prometheus page still works. Import what is needed from the modules: the SDK takes
tenths of a second, and clients need none of it.
"""
