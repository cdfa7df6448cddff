{{/* Names and labels. */}}

{{- define "pierhead.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* Short enough for -internal and -metrics. */}}
{{- define "pierhead.fullname" -}}
{{- $name := include "pierhead.name" . -}}
{{- $made := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $made .Values.fullnameOverride | trunc 53 | trimSuffix "-" -}}
{{- end -}}

{{- define "pierhead.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
{{- end -}}

{{- define "pierhead.serviceAccountName" -}}
{{- default (ternary (include "pierhead.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "pierhead.selector" -}}
app.kubernetes.io/name: {{ include "pierhead.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: controller
{{- end -}}

{{- define "pierhead.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name (.Chart.Version | replace "+" "_") }}
{{ include "pierhead.selector" . }}
app.kubernetes.io/part-of: {{ include "pierhead.name" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* metadata of an object: (dict "root" $ "name" … "namespace" … "labels" (list …) "annotations" …).
     Without a namespace the object has none. */}}
{{- define "pierhead.metadata" -}}
{{- $labels := include "pierhead.labels" .root | fromYaml -}}
{{- range .labels }}{{ $labels = mergeOverwrite $labels (deepCopy .) }}{{ end -}}
metadata:
  name: {{ .name }}
  {{- with .namespace }}
  namespace: {{ . }}
  {{- end }}
  labels:
    {{- toYaml $labels | nindent 4 }}
  {{- with .annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{- define "pierhead.image" -}}
{{- $image := .Values.controller.image -}}
{{- $registry := coalesce $image.registry (dig "image" "registry" "" .Values.global) "ghcr.io" -}}
{{- $name := default (printf "%s/%s" $registry $image.image) $image.repository -}}
{{- $name }}:{{ default .Chart.AppVersion $image.tag }}{{ with $image.digest }}@{{ . }}{{ end }}
{{- end -}}

{{/* Namespaces that a scoped controller watches, as a list in YAML. */}}
{{- define "pierhead.namespaces" -}}
{{- $named := default (include "pierhead.namespace" .) .Values.controller.scope.namespace -}}
{{- $list := list -}}
{{- range splitList "," $named }}{{ $list = append $list (trim .) }}{{ end -}}
{{- $list | uniq | toYaml -}}
{{- end -}}

{{/* Those fields of a map that say anything, in YAML: (list map (list name …)). */}}
{{- define "pierhead.given" -}}
{{- $map := first . -}}
{{- $given := dict -}}
{{- range $name := last . -}}
{{- with get $map $name }}{{ $_ := set $given $name . }}{{ end -}}
{{- end -}}
{{- if $given }}{{ toYaml $given }}{{ end -}}
{{- end -}}
