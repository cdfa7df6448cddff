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
