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
{{- range $name := list "serviceMonitor" "podMonitor" "prometheusRule" "dashboard" -}}
{{- if and (get $controller.metrics $name).enabled (not $controller.metrics.enabled) -}}
{{- printf "controller.metrics.%s.enabled: nothing of metrics is created without controller.metrics.enabled: set it too" $name | fail -}}
{{- end -}}
{{- end -}}
{{- if contains "ingress-nginx/controller" (include "pierhead.image" .) -}}
{{- printf "controller.image: %s is ingress-nginx: leave out controller.image, or name an image of Pierhead in repository and tag" (include "pierhead.image" .) | fail -}}
{{- end -}}
{{- include "pierhead.check.ports" . -}}
{{- range $path, $advice := (include "pierhead.ofNginx" . | fromYaml).refused -}}
{{- printf "%s: %s" $path $advice | fail -}}
{{- end -}}
{{- end -}}

{{/* Probes, Services and kubectl port-forward go to the ports that values name. */}}
{{- define "pierhead.check.ports" -}}
{{- $controller := .Values.controller -}}
{{- $http := include "pierhead.port.http" . -}}
{{- $https := include "pierhead.port.https" . -}}
{{- $metrics := toString $controller.metrics.port -}}
{{- $admin := splitList ":" $controller.adminAddress | last -}}
{{- $ports := list $http $https $metrics $admin -}}
{{- if lt (len (uniq $ports)) 4 -}}
{{- printf "controller.containerPort: http, https, metrics.port and the port of adminAddress must differ, got %s" (join ", " $ports) | fail -}}
{{- end -}}
{{- $places := dict "http" (list $http "containerPort.http") "https" (list $https "containerPort.https") "monitoring" (list $metrics "metrics.port") "admin" (list $admin "adminAddress") -}}
{{- range $flag, $place := $places -}}
{{- $given := get $controller.extraArgs $flag | toString -}}
{{- $is := printf ":%s(,|$)" (first $place) -}}
{{- if and (hasKey $controller.extraArgs $flag) (not (regexMatch $is $given)) -}}
{{- printf "controller.extraArgs.%s: %s is not on port %s, which the rest of the chart leads to: set controller.%s" $flag $given (first $place) (last $place) | fail -}}
{{- end -}}
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
