{{/* What a schema cannot say: values that contradict each other, and values of ingress-nginx that mean nothing here. */}}

{{- define "pierhead.check" -}}
{{- $controller := .Values.controller -}}
{{- if lt (include "pierhead.gracePeriod" . | int64) (include "pierhead.drainSeconds" . | int64) -}}
{{- printf "controller.terminationGracePeriodSeconds: %s is shorter than drain.delay and drain.timeout together, %s s: requests in flight would be cut" (include "pierhead.gracePeriod" .) (include "pierhead.drainSeconds" .) | fail -}}
{{- end -}}
{{- if and .Values.rbac.scope (not $controller.scope.enabled) -}}
{{- fail "rbac.scope: Roles cannot give what a controller of all namespaces needs: set controller.scope.enabled" -}}
{{- end -}}
{{- if and $controller.autoscaling.enabled (ne $controller.kind "Deployment") -}}
{{- fail "controller.autoscaling.enabled: a DaemonSet has one replica on each node: set controller.kind to Deployment" -}}
{{- end -}}
{{- if and $controller.autoscaling.enabled (gt (int64 $controller.autoscaling.minReplicas) (int64 $controller.autoscaling.maxReplicas)) -}}
{{- fail "controller.autoscaling.minReplicas: more than maxReplicas" -}}
{{- end -}}
{{- if and $controller.metrics.enabled $controller.metrics.serviceMonitor.enabled (not $controller.metrics.service.enabled) -}}
{{- fail "controller.metrics.serviceMonitor.enabled: it needs controller.metrics.service.enabled; a podMonitor does not" -}}
{{- end -}}
{{- if and $controller.accessLog.template $controller.accessLog.fields -}}
{{- fail "controller.accessLog.fields: a template says itself which fields it has; leave out one of the two" -}}
{{- end -}}
{{- $ports := list (include "pierhead.port.http" .) (include "pierhead.port.https" .) (toString $controller.metrics.port) -}}
{{- if lt (len (uniq $ports)) 3 -}}
{{- printf "controller.containerPort: http, https and metrics.port must differ, got %s" (join ", " $ports) | fail -}}
{{- end -}}
{{- range $path, $advice := (include "pierhead.ofNginx" . | fromYaml).refused -}}
{{- printf "%s: %s" $path $advice | fail -}}
{{- end -}}
{{- end -}}

{{/* The values of ingress-nginx that are set and mean nothing here, by what is done: `refused` and `ignored`, each a map
     of path to advice. Empty and false say nothing. */}}
{{- define "pierhead.ofNginx" -}}
{{- $found := dict "refused" dict "ignored" dict -}}
{{- $table := .Files.Get "files/ingress-nginx.yaml" | fromYaml -}}
{{- range $what := list "refused" "ignored" -}}
{{- range $path, $advice := get $table $what -}}
{{- $value := $.Values.AsMap -}}
{{- range splitList "." $path -}}
{{- $value = ternary (get (default dict $value) .) nil (kindIs "map" $value) -}}
{{- end -}}
{{- if $value }}{{ $_ := set (get $found $what) $path $advice }}{{ end -}}
{{- end -}}
{{- end -}}
{{- toYaml $found -}}
{{- end -}}
