//! Wrong values are refused before anything is installed, with their path and what was expected.

use super::rendered::template;

#[test]
fn wrong_values_are_refused_with_their_path() {
    for (values, told) in [
        (vec!["replicas=3"], "at '': additional properties 'replicas' not allowed"),
        (vec!["controller.replicas=3"], "at '/controller': additional properties 'replicas' not allowed"),
        (vec!["controller.service.port=80"], "at '/controller/service': additional properties 'port' not allowed"),
        (vec!["controller.replicaCount=two"], "at '/controller/replicaCount': got string, want integer"),
        (vec!["controller.replicaCount=-1"], "at '/controller/replicaCount': minimum: got -1, want 0"),
        (vec!["controller.kind=StatefulSet"], "at '/controller/kind': value must be one of 'Deployment', 'DaemonSet'"),
        (vec!["controller.hostPort=true"], "at '/controller/hostPort': got boolean, want object"),
        (vec!["controller.hostPort.ports.http=70000"], "at '/controller/hostPort/ports/http': maximum"),
        (vec!["controller.image.tag=15"], "at '/controller/image/tag': got number, want string"),
        (
            vec!["controller.image.digest=sha256:12"],
            "at '/controller/image/digest': 'sha256:12' does not match pattern",
        ),
        (vec!["controller.service.type=ExternalName"], "at '/controller/service/type': value must be one of"),
        (vec!["controller.service.externalTrafficPolicy=local"], "at '/controller/service/externalTrafficPolicy'"),
        (vec!["controller.service.nodePorts.http=https"], "at '/controller/service/nodePorts/http'"),
        (vec!["controller.service.annotations.a=1"], "at '/controller/service/annotations/a': got number, want string"),
        (vec!["controller.drain.timeout=240"], "at '/controller/drain/timeout': got number, want string"),
        (
            vec!["controller.timeouts.idle=1 minute"],
            "at '/controller/timeouts/idle': '1 minute' does not match pattern",
        ),
        (
            vec!["controller.defaultTLSCertificate=edge"],
            "at '/controller/defaultTLSCertificate': 'edge' does not match",
        ),
        (vec!["controller.tolerations.a=b"], "at '/controller/tolerations': got object, want array"),
        (vec!["controller.minAvailable=true"], "at '/controller/minAvailable': got boolean, want"),
        (vec!["controller.readinessProbe.periodSeconds=0"], "at '/controller/readinessProbe/periodSeconds': minimum"),
        (
            vec!["controller.tracing.endpoint=collector:4317"],
            "at '/controller/tracing/endpoint': 'collector:4317' does not",
        ),
        (vec!["rbac.create=yes"], "at '/rbac/create': got string, want boolean"),
    ] {
        refused(&values, told);
    }
}

#[test]
fn values_that_contradict_each_other_are_refused() {
    for (values, told) in [
        (
            vec!["controller.terminationGracePeriodSeconds=30"],
            "controller.terminationGracePeriodSeconds: 30 is shorter than drain.delay and drain.timeout together, 245 s",
        ),
        (
            vec!["controller.terminationGracePeriodSeconds=300", "controller.extraArgs.drain-timeout=1h30m"],
            "controller.terminationGracePeriodSeconds: 300 is shorter than drain.delay and drain.timeout together, 5405 s",
        ),
        (
            vec!["controller.accessLog.template=%status%", "controller.accessLog.fields={time}"],
            "controller.accessLog.fields: a template says itself which fields it has",
        ),
        (vec!["rbac.scope=true"], "rbac.scope: Roles cannot give what a controller of all namespaces needs"),
        (vec!["controller.kind=DaemonSet", "controller.autoscaling.enabled=true"], "controller.autoscaling.enabled"),
        (
            vec!["controller.autoscaling.enabled=true", "controller.autoscaling.maxReplicas=1"],
            "controller.autoscaling.minReplicas: more than maxReplicas",
        ),
        (
            vec!["controller.containerPort.http=10254"],
            "controller.containerPort: http, https, metrics.port and the port of adminAddress must differ",
        ),
        (vec!["controller.metrics.port=9090"], "must differ, got 8080, 8443, 9090, 9090"),
        (
            vec!["controller.extraArgs.monitoring=0.0.0.0:9100"],
            "controller.extraArgs.monitoring: 0.0.0.0:9100 is not on port 10254, which the rest of the chart leads to: set controller.metrics.port",
        ),
        (vec!["controller.extraArgs.http=0.0.0.0:80"], "controller.extraArgs.http: 0.0.0.0:80 is not on port 8080"),
        (vec!["controller.extraArgs.https=0.0.0.0:443"], "set controller.containerPort.https"),
        (vec!["controller.extraArgs.admin=0.0.0.0:9000"], "set controller.adminAddress"),
        (
            vec!["controller.metrics.prometheusRule.enabled=true"],
            "controller.metrics.prometheusRule.enabled: nothing of metrics is created without controller.metrics.enabled",
        ),
        (vec!["controller.metrics.serviceMonitor.enabled=true"], "without controller.metrics.enabled"),
        (vec!["controller.metrics.podMonitor.enabled=true"], "without controller.metrics.enabled"),
        (vec!["controller.metrics.dashboard.enabled=true"], "without controller.metrics.enabled"),
        (
            vec![
                "controller.metrics.enabled=true",
                "controller.metrics.serviceMonitor.enabled=true",
                "controller.metrics.service.enabled=false",
            ],
            "controller.metrics.serviceMonitor.enabled: it needs controller.metrics.service.enabled",
        ),
    ] {
        refused(&values, told);
    }
}

#[test]
fn values_of_ingress_nginx_without_meaning_are_refused_when_traffic_would_differ() {
    for (values, told) in [
        (vec!["controller.config.proxy-body-size=8m"], "controller.config: Pierhead has no ConfigMap of options"),
        (vec!["controller.allowSnippetAnnotations=true"], "controller.allowSnippetAnnotations: there are no snippets"),
        (vec!["tcp.5432=db/postgres:5432"], "tcp: only HTTP is served"),
        (vec!["controller.image.image=ingress-nginx/controller"], "ingress-nginx: leave out controller.image"),
        (vec!["controller.opentelemetry.enabled=true"], "set controller.tracing.endpoint"),
        (vec!["controller.keda.enabled=true"], "controller.keda.enabled: use controller.autoscaling"),
        (vec!["defaultBackend.enabled=true"], "defaultBackend.enabled: run a Service of your own"),
        (vec!["controller.readinessProbe.httpGet.path=/healthz"], "controller.readinessProbe.httpGet: the chart says"),
        (vec!["controller.lifecycle.preStop.exec.command={/wait-shutdown}"], "leave out the hook"),
    ] {
        refused(&values, told);
    }
    // What says the same as leaving it out is no reason to refuse.
    template(&["--set=controller.allowSnippetAnnotations=false,controller.admissionWebhooks.enabled=true"]).unwrap();
}

fn refused(values: &[&str], told: &str) {
    let args: Vec<String> = values.iter().map(|value| format!("--set={value}")).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let error = template(&args).map(drop).expect_err(told);
    assert!(error.contains(told), "{values:?}: want {told}, got {error}");
}
