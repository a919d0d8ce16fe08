"""What Octavo tells about itself: traces and metrics by OpenTelemetry, a Prometheus page, logs that fit both.

The standard OTEL_* variables decide what is exported and to where. With none of them set nothing is, no
span is made, and the Prometheus page still works. Import what is needed from the modules: the SDK takes a
tenth of a second, and clients need none of it.

A process has one `setup.Telemetry`, from its start to its end, and one call of `logs.configure`. What comes
in gets its span at the door: `rpc.TracedCalls`, before all other interceptors, for gRPC; `rpc.SessionDoor`
for the requests of a Session; `http.TracedRequests` around the HTTP application. Below it, a pod tells what
its engine did (`engine_spans`, `engine_metrics`) and a gateway where a request has been (`passage`).
"""
