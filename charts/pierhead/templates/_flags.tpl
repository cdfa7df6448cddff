{{/* Flags of `pierhead serve`: a value of the chart, the same flag in extraArgs over it. */}}

{{/* Seconds of a duration such as 1h30m, rounded up; milliseconds count for nothing. */}}
{{- define "pierhead.seconds" -}}
{{- $sum := 0 -}}
{{- $units := dict "ms" 0 "s" 1 "m" 60 "h" 3600 "d" 86400 -}}
{{- range regexFindAll "[0-9]+ *(ms|s|m|h|d)" (toString .) -1 -}}
{{- $unit := regexFind "[a-z]+" . -}}
{{- $sum = add $sum (mul (regexFind "[0-9]+" . | int64) (get $units $unit)) -}}
{{- end -}}
{{- $sum -}}
{{- end -}}

{{/* The flags as a map in YAML; a flag without a value has "". $(POD_NAMESPACE) is for Kubernetes to fill in: manifests
     can then be moved to another namespace. */}}
{{- define "pierhead.flags" -}}
{{- $controller := .Values.controller -}}
{{- $flags := dict
  "kubernetes" ""
  "http" (include "pierhead.addresses" (list $controller.bindAddresses (include "pierhead.port.http" .)))
  "https" (include "pierhead.addresses" (list $controller.bindAddresses (include "pierhead.port.https" .)))
  "monitoring" (include "pierhead.addresses" (list (list (include "pierhead.probedAddress" .)) $controller.metrics.port))
  "admin" $controller.adminAddress
  "controller-name" $controller.ingressClassResource.controllerValue
  "lease-name" (default (include "pierhead.fullname" .) $controller.electionID)
-}}
{{- $flags = merge $flags (include "pierhead.flags.objects" . | fromYaml) (include "pierhead.flags.traffic" . | fromYaml) -}}
{{- range $name, $value := $controller.extraArgs -}}
{{- $_ := set $flags (get (include "pierhead.flags.ofNginx" $ | fromYaml) $name | default $name) (toString $value) -}}
{{- end -}}
{{- toYaml $flags -}}
{{- end -}}

{{/* Flags of ingress-nginx that Pierhead has by another name. */}}
{{- define "pierhead.flags.ofNginx" -}}
default-ssl-certificate: default-certificate
default-backend-service: default-backend
publish-status-address: publish-address
election-id: lease-name
controller-class: controller-name
{{- end -}}

{{/* The first of the addresses that the kubelet can reach: it probes from outside the Pod. */}}
{{- define "pierhead.probedAddress" -}}
{{- $first := "" -}}
{{- range .Values.controller.bindAddresses -}}
{{- if not (or $first (hasPrefix "127." .) (eq "[::1]" .)) }}{{ $first = . }}{{ end -}}
{{- end -}}
{{- default (ternary "[::]" "0.0.0.0" (first .Values.controller.bindAddresses | hasPrefix "[")) $first -}}
{{- end -}}

{{- define "pierhead.addresses" -}}
{{- $port := last . -}}
{{- $all := list -}}
{{- range first . }}{{ $all = append $all (printf "%s:%v" . $port) }}{{ end -}}
{{- join "," $all -}}
{{- end -}}

{{- define "pierhead.flags.objects" -}}
{{- $controller := .Values.controller -}}
{{- with $controller.ingressClass }}
ingress-class: {{ . | quote }}
{{- end }}
{{- if $controller.watchIngressWithoutClass }}
watch-ingress-without-class: ""
{{- end }}
{{- if $controller.scope.enabled }}
watch-namespace: {{ ternary (include "pierhead.namespaces" . | fromYamlArray | join ",") "$(POD_NAMESPACE)" (ne $controller.scope.namespace "") | quote }}
{{- else if $controller.scope.namespaceSelector }}
watch-namespace-selector: {{ $controller.scope.namespaceSelector | quote }}
{{- end }}
{{- if $controller.publishAddresses }}
publish-address: {{ join "," $controller.publishAddresses | quote }}
{{- else }}
{{- with include "pierhead.publishService" . }}
publish-service: {{ . | quote }}
{{- end }}
{{- end }}
{{- with $controller.defaultTLSCertificate }}
default-certificate: {{ . | quote }}
{{- end }}
{{- with $controller.defaultBackendService }}
default-backend: {{ . | quote }}
{{- end }}
{{- if $controller.allowExternalName }}
allow-external-name: ""
{{- end }}
{{- end -}}

{{- define "pierhead.publishService" -}}
{{- $controller := .Values.controller -}}
{{- $own := printf "$(POD_NAMESPACE)/%s" (include "pierhead.fullname" .) -}}
{{- if not $controller.publishService.enabled -}}
{{- else if $controller.publishService.pathOverride -}}
{{- $controller.publishService.pathOverride -}}
{{- else if not $controller.service.enabled -}}
{{- else if $controller.service.external.enabled -}}
{{- $own -}}
{{- else if $controller.service.internal.enabled -}}
{{- $own }}-internal
{{- end -}}
{{- end -}}

{{- define "pierhead.flags.traffic" -}}
{{- $controller := .Values.controller -}}
{{- with $controller.threads }}
threads: {{ . | toString | quote }}
{{- end }}
{{- with $controller.proxy }}
{{- with .trustedCIDRs }}
trusted-cidr: {{ join "," . | quote }}
{{- end }}
{{- with .maxConcurrentRequests }}
max-concurrent-requests: {{ . | int64 | toString | quote }}
{{- end }}
{{- if not (kindIs "invalid" .maxBodySize) }}
max-body-size: {{ .maxBodySize | int64 | toString | quote }}
{{- end }}
ssl-redirect: {{ .sslRedirect | toString | quote }}
{{- with .httpsRedirectPort }}
https-redirect-port: {{ . | int64 | toString | quote }}
{{- end }}
{{- with .hstsMaxAge }}
hsts-max-age: {{ . | quote }}
{{- end }}
server-header: {{ .serverHeader | toString | quote }}
{{- if .via }}
via: ""
{{- end }}
{{- end }}
{{- with $controller.timeouts }}
{{- range $flag, $value := dict "request-head-timeout" .requestHead "handshake-timeout" .handshake "keep-alive-timeout" .keepAlive "idle-timeout" .idle "response-head-timeout" .responseHead "upstream-keep-alive-timeout" .upstreamKeepAlive "tunnel-timeout" .tunnel }}
{{- with $value }}
{{ $flag }}: {{ . | quote }}
{{- end }}
{{- end }}
{{- end }}
drain-delay: {{ default "0s" $controller.drain.delay | quote }}
drain-timeout: {{ default "0s" $controller.drain.timeout | quote }}
log-format: {{ $controller.log.format | quote }}
log-level: {{ $controller.log.level | quote }}
{{- with $controller.accessLog }}
{{- with .format }}
access-log: {{ . | quote }}
{{- end }}
{{- with .template }}
access-log-template: {{ . | quote }}
{{- end }}
{{- with .fields }}
access-log-fields: {{ join "," . | quote }}
{{- end }}
{{- if not (kindIs "invalid" .sample) }}
access-log-sample: {{ .sample | toString | quote }}
{{- end }}
{{- end }}
{{- with $controller.tracing }}
{{- with .endpoint }}
otlp-endpoint: {{ . | quote }}
{{- end }}
{{- if not (kindIs "invalid" .sample) }}
trace-sample: {{ .sample | toString | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Seconds from SIGTERM to SIGKILL that the flags ask for at least. */}}
{{- define "pierhead.drainSeconds" -}}
{{- $flags := include "pierhead.flags" . | fromYaml -}}
{{- add (include "pierhead.seconds" (get $flags "drain-delay")) (include "pierhead.seconds" (get $flags "drain-timeout")) -}}
{{- end -}}

{{- define "pierhead.gracePeriod" -}}
{{- $given := .Values.controller.terminationGracePeriodSeconds -}}
{{- if kindIs "invalid" $given }}{{ add (include "pierhead.drainSeconds" .) 10 }}{{ else }}{{ int64 $given }}{{ end -}}
{{- end -}}
