{{/* Ports of the container, and what privilege they take. */}}

{{- define "pierhead.port.http" -}}
{{- $controller := .Values.controller -}}
{{- coalesce $controller.containerPort.http (ternary $controller.hostPort.ports.http 8080 $controller.hostNetwork) -}}
{{- end -}}

{{- define "pierhead.port.https" -}}
{{- $controller := .Values.controller -}}
{{- coalesce $controller.containerPort.https (ternary $controller.hostPort.ports.https 8443 $controller.hostNetwork) -}}
{{- end -}}

{{/* "true" when a port is one that the node gives only to root: in a network of its own a container needs no privilege. */}}
{{- define "pierhead.privilegedPort" -}}
{{- $lowest := min (include "pierhead.port.http" . | int) (include "pierhead.port.https" . | int) -}}
{{- if and .Values.controller.hostNetwork (lt (int $lowest) 1024) }}true{{ end -}}
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
