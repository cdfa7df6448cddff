{{/* Ports of the container, and what privilege they take. */}}

{{- define "pierhead.port.http" -}}
{{- $controller := .Values.controller -}}
{{- coalesce $controller.containerPort.http (ternary $controller.hostPort.ports.http 8080 $controller.hostNetwork) -}}
{{- end -}}

{{- define "pierhead.port.https" -}}
{{- $controller := .Values.controller -}}
{{- coalesce $controller.containerPort.https (ternary $controller.hostPort.ports.https 8443 $controller.hostNetwork) -}}
{{- end -}}

{{/* "true" when a port is below 1024, which Linux gives only to root unless the network says otherwise. */}}
{{- define "pierhead.lowPort" -}}
{{- $lowest := min (include "pierhead.port.http" . | int) (include "pierhead.port.https" . | int) -}}
{{- if lt (int $lowest) 1024 }}true{{ end -}}
{{- end -}}

{{/* "true" when such a port is one of the node: it takes root. */}}
{{- define "pierhead.privilegedPort" -}}
{{- if .Values.controller.hostNetwork }}{{ include "pierhead.lowPort" . }}{{ end -}}
{{- end -}}

{{/* Kernel settings of the Pods. A network of their own can give low ports to everyone: containerd 2 makes it so
     by itself, containerd 1 does not. Kubernetes counts the setting as safe. */}}
{{- define "pierhead.sysctls" -}}
{{- $sysctls := dict -}}
{{- if and (include "pierhead.lowPort" .) (not .Values.controller.hostNetwork) -}}
{{- $_ := set $sysctls "net.ipv4.ip_unprivileged_port_start" "0" -}}
{{- end -}}
{{- merge (deepCopy .Values.controller.sysctls) $sysctls | toYaml -}}
{{- end -}}

{{/* "true" when two replicas cannot run on one node. */}}
{{- define "pierhead.holdsNodePorts" -}}
{{- if or .Values.controller.hostNetwork .Values.controller.hostPort.enabled }}true{{ end -}}
{{- end -}}

{{- define "pierhead.containerPorts" -}}
{{- $controller := .Values.controller -}}
{{- $map := and $controller.hostPort.enabled (not $controller.hostNetwork) -}}
- name: http
  containerPort: {{ include "pierhead.port.http" . }}
  protocol: TCP
  {{- if $map }}
  hostPort: {{ $controller.hostPort.ports.http }}
  {{- end }}
- name: https
  containerPort: {{ include "pierhead.port.https" . }}
  protocol: TCP
  {{- if $map }}
  hostPort: {{ $controller.hostPort.ports.https }}
  {{- end }}
- name: {{ $controller.metrics.portName }}
  containerPort: {{ $controller.metrics.port }}
  protocol: TCP
{{- end -}}
