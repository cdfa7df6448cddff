{{/* The names that Prometheus gives the job of this release, as a regular expression: that of the Service or the PodMonitor,
     or what the label says by which a ServiceMonitor names it. */}}
{{- define "pierhead.jobs" -}}
{{- $metrics := .Values.controller.metrics -}}
{{- $own := include "pierhead.fullname" . -}}
{{- $labels := merge (deepCopy $metrics.service.labels) (include "pierhead.labels" . | fromYaml) -}}
{{- $names := list $own (get $labels $metrics.serviceMonitor.jobLabel | default $own) | uniq -}}
{{- printf ".*%s.*" (ternary $own (join "|" $names | printf "(%s)") (eq (len $names) 1)) -}}
{{- end -}}

{{/* What a ServiceMonitor and a PodMonitor say alike of a scrape. */}}
{{- define "pierhead.scrape" -}}
interval: {{ .scrapeInterval }}
{{- with .scrapeTimeout }}
scrapeTimeout: {{ . }}
{{- end }}
{{- with .relabelings }}
relabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .metricRelabelings }}
metricRelabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
